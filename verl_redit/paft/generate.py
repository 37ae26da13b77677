# Copyright 2026 verl-redit contributors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Candidate templates from language models behind an OpenAI-compatible endpoint.

PAFT (arXiv 2502.12859, section 3.2) asks ten language models, each in zero-shot and in few-shot manner, for about 20
templates each. Few-shot means that the model sees templates of others; what it writes has no exemplars in it. The
paper's requests and its list of models are not public, so the requests here are ours. Ours too: a manner of writing
that changes from request to request, as a model that is asked the same twice writes almost the same twice, and a seed
for each request, so that a second run asks the same.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle

from verl_redit.paft.checks import Defect
from verl_redit.paft.contracts import CONTRACTS
from verl_redit.paft.importing import Sifted, sift
from verl_redit.paft.pool import Pool, PoolError, Template
from verl_redit.paft.selection import keyed

RETRIES = 5  # by the openai library, with growing pauses

# tag -> how the request puts it
MANNERS = {
    "plain": "in plain, short sentences",
    "formal": "in a formal tone",
    "friendly": "in a friendly tone",
    "role": "so that it gives the model a role to play",
    "instructions last": "with every instruction after the placeholders",
    "instructions first": "with every instruction before the placeholders",
    "headings": "with a heading over each of its parts",
    "terse": "in as few words as possible",
    "advice": "with advice on how to go about the work",
    "question": "as a polite question",
}

REQUEST = """\
Write one prompt template that asks a language model to {task}. It is filled in later, so it must have {placeholders} \
in it, each exactly once, in single braces, and no other placeholder. It must also tell the model to {rule}. Write it \
{manner}. Do not do the task yourself, and leave nothing for a person to fill in. Put the template between <template> \
and </template>, and nothing else there."""

EXAMPLES = """

These are templates by others; write one that is not like them.

<template>
{shown}

Think about it step by step, then {rule}.
</template>

<template>
Read what follows twice before you reply, and {rule}.

{shown}
</template>

<template>
Your task:
{shown}
Show your work; {rule}.
</template>"""


class EndpointError(PoolError):
    """An endpoint does not answer, or refuses; the message says which and why."""


@dataclass(frozen=True)
class Request:
    """One template to ask for.

    Args:
        model: as the endpoint calls it.
        style: ``zero-shot`` or ``few-shot``.
        number: from 1, among those of this model and style.
        manner: key in `MANNERS`.
        text: what the model is asked.
    """

    model: str
    style: str
    number: int
    manner: str
    text: str

    @property
    def id(self) -> str:
        """Of the template that comes of it."""
        return f"{self.model.replace('/', '-')}-{self.style}-{self.number:04}"


def requests(models: Iterable[str], number: int, task: str, pool: Pool, contract: str) -> list[Request]:
    """``number`` requests of each style for each model, without those whose templates are in the pool already.

    Args:
        task: what the templates are for, as the rest of "asks a language model to …".

    Raises:
        PoolError: two of the models would give their templates the same ids.
    """
    told = CONTRACTS[contract]
    values = {
        "task": task,
        "placeholders": ", ".join(f"{{{field}}}" for field in pool.fields),
        "shown": "\n".join(f"{{{field}}}" for field in pool.fields),
        "rule": "give the answer" if told.is_told("") else told.rule,
    }
    wanted = [
        Request(model, style, count, manner, text.format(**values, manner=MANNERS[manner]))
        for model in models
        for style, text in [("zero-shot", REQUEST), ("few-shot", REQUEST + EXAMPLES)]
        for count, manner in zip(range(1, number + 1), cycle(MANNERS), strict=False)
    ]
    if len({request.id for request in wanted}) < len(wanted):
        raise PoolError(f"models: {', '.join(models)}: two have the same name; ask each once, with a larger number")
    there = {template.id for template in pool.templates}
    return [request for request in wanted if request.id not in there]


def replies(asked: Iterable[Request], endpoint: str) -> Iterator[str]:
    """The body of the endpoint's reply to each request, as it is.

    The API key is ``OPENAI_API_KEY``; a server that needs none is sent a word in its place.

    Raises:
        EndpointError: no reply after `RETRIES` more attempts, or a refusal.
        PoolError: the openai library is not installed.
    """
    try:
        import openai
    except ImportError as error:
        raise PoolError("asking for templates needs the openai library: pip install 'verl-redit[generate]'") from error
    key = os.environ.get("OPENAI_API_KEY") or "none"
    with openai.OpenAI(base_url=endpoint, api_key=key, max_retries=RETRIES) as client:
        for request in asked:
            try:
                reply = client.chat.completions.with_raw_response.create(
                    model=request.model,
                    messages=[{"role": "user", "content": request.text}],
                    seed=int(keyed("generate", request.id).integers(2**31)),
                )
            except openai.OpenAIError as error:
                raise EndpointError(f"{endpoint}, {request.id}: {error} {error.__cause__ or ''}".strip()) from error
            yield reply.text


def _text_in(body: str, request: Request) -> str:
    """The text between the tags in the body of a chat completion; of several, the last, as reasoning may name them.

    Raises:
        ValueError: no chat completion, no text, no tags, or one of the examples that the request showed.
    """
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"no chat completion: {body[:60]!r}") from error
    if not isinstance(content, str):
        raise ValueError("no text in the reply")
    _, opened, rest = content.rpartition("<template>")
    inside, closed, _ = rest.partition("</template>")
    text = inside.strip()
    if not (opened and closed and text):
        raise ValueError(f"nothing between <template> and </template>: {content[:60]!r}")
    if text in request.text:
        raise ValueError(f"it repeats what it was shown: {text[:60]!r}")
    return text


def collect(
    replied: Iterable[tuple[Request, str]], pool: Pool, contract: str, held_out_share: float, license: str
) -> Sifted:
    """Add to a pool the templates of those replies that hold one fit for it (`sift`).

    Args:
        replied: requests, and the bodies of their replies.
        held_out_share: share of the requests whose templates are held out, in tier ``paraphrase``; which ones depends
            on their ids alone.
        license: SPDX name; the terms of the models' makers say which.
    """
    candidates: list[tuple[str, Template]] = []
    unusable: list[Defect] = []
    for number, (request, body) in enumerate(replied, start=1):
        held_out = keyed("held out", request.id).random() < held_out_share
        try:
            template = Template(
                id=request.id,
                user=_text_in(body, request),
                split="held_out" if held_out else "train",
                contract=contract,
                tier="paraphrase" if held_out else None,
                origin=f"model {request.model}, {request.style}, verl-redit generate",
                tags=(request.manner,),
                license=license,
            )
        except ValueError as error:
            unusable.append(Defect("reply", f"reply {number}", request.id, str(error)))
        else:
            candidates.append((f"reply {number}", template))
    sifted = sift(candidates, pool)
    return replace(sifted, candidates=sifted.candidates + len(unusable), dropped=(*unusable, *sifted.dropped))
