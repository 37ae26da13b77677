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

"""Prompt pools: the file format, and one template rendered with one row's fields.

PAFT's stage 1 (arXiv 2502.12859, section 3.2) ends in a list of prompts. The authors' code keeps one spreadsheet column
and fills it with ``str.format``; here a template also knows its split, its contract and where it comes from, and is
rendered by jinja in one pass, so that braces, ``\\boxed{}`` or ``{{`` in a question are only text.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from string import ascii_uppercase
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

SPLITS = ["train", "held_out"]
TIERS = ["paraphrase", "frame", "system", "contract", "adversarial"]
MEDIA_MARKERS = ("<image>", "<video>", "<audio>")

ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
)
ENVIRONMENT.globals.clear()  # a template sees the fields of its row alone; jinja would copy its own at every render


class PoolError(ValueError):
    """A pool that cannot be used; the message names the file, each row and the mend."""


class RenderError(ValueError):
    """A row that a template cannot be rendered with; the message names both."""


@dataclass(frozen=True)
class Template:
    """One way to ask.

    Args:
        id: name in metrics and dumps, unique in the pool.
        user: jinja text of the user turn.
        split: ``train``, or ``held_out`` for templates that only validation sees.
        contract: how the answer must be stated (`verl_redit.paft.contracts`).
        system: jinja text of the system turn; None leaves the row's own.
        tier: how far it is from the data set's usual prompt: ``paraphrase`` (other words), ``frame`` (other order or
            layout), ``system`` (instructions in the system turn), ``contract`` (another way to state the answer) or
            ``adversarial`` (typos, distraction, odd layout). Held-out templates have one.
        origin: who or what wrote it.
        tags: free words.
        weight: share among the train templates where a policy draws at random, at least 0.
        license: SPDX name.
    """

    id: str
    user: str
    split: str
    contract: str
    system: str | None = None
    tier: str | None = None
    origin: str = ""
    tags: tuple[str, ...] = ()
    weight: float = 1.0
    license: str = ""

    @property
    def texts(self) -> list[str]:
        """Its jinja texts: system turn if there is one, then user turn."""
        return [self.user] if self.system is None else [self.system, self.user]


@dataclass(frozen=True)
class Pool:
    """Templates for one kind of row.

    Args:
        name: for messages and metrics.
        fields: names that the templates use; each is a value of a row.
        templates: in the file's order.
        rows: where each template stands in its file.
    """

    name: str
    fields: tuple[str, ...]
    templates: tuple[Template, ...]
    rows: tuple[str, ...]

    def of_split(self, split: str) -> list[Template]:
        """The templates of one split, in the file's order."""
        return [template for template in self.templates if template.split == split]

    @functools.cached_property
    def content_hash(self) -> str:
        """64 bits of the fields and of every value of every template, as hexadecimal text."""
        content = [self.fields, [asdict(template) for template in self.templates]]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()


def render(template: Template, values: Mapping[str, Any]) -> list[dict[str, str]]:
    """The system turn, if the template has one, and the user turn, as chat messages.

    Args:
        values: field -> text or number, or a list of texts, which a template sees as (letter, text) pairs.

    Raises:
        RenderError: a field is missing or is neither text nor number nor a list of them.
    """
    shown = {name: _shown(name, value) for name, value in values.items()}
    try:
        turns = [_compiled(text).render(shown) for text in template.texts]
    except TemplateError as error:
        raise RenderError(f"template {template.id}: {error.message}; the row has {', '.join(values)}") from error
    return [
        {"role": role, "content": text} for role, text in zip(("system", "user")[-len(turns) :], turns, strict=True)
    ]


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list | tuple) and value and all(isinstance(option, str) for option in value):
        if len(value) > len(ascii_uppercase):
            raise RenderError(f"field {name!r} has {len(value)} options; there are {len(ascii_uppercase)} letters")
        return list(zip(ascii_uppercase, value, strict=False))
    raise RenderError(f"field {name!r} is {type(value).__name__} {str(value)[:40]!r}; give text, a number or options")


@functools.lru_cache(maxsize=4096)
def _compiled(text: str):
    return ENVIRONMENT.from_string(text)
