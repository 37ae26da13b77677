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

"""How long prompts get: none may be cut off, whichever template a row is drawn with."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from verl_redit.paft.checks import looped_fields
from verl_redit.paft.messages import rendered
from verl_redit.paft.pool import PoolError, Template

# Tokens by which a question's tokenisation can differ between templates: merges across the places where they meet
MARGIN = 8


class Longest:
    """Finds the template that makes the longest prompt of a row, without rendering every one.

    Templates that are more than `MARGIN` tokens shorter than the longest on a probe are not tried. A probe has one
    letter in each field, as many options as the row, and a system turn if the row has one: chat templates add one of
    their own where there is none.

    Args:
        templates: at least one.
        fields: of the pool.
        chat: what the run passes to the tokenizer's chat template.
    """

    def __init__(
        self,
        templates: Sequence[Template],
        fields: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        chat: Mapping[str, Any],
    ):
        self.templates = templates
        self.tokenizer = tokenizer
        self.chat = chat
        self.probe = dict.fromkeys(fields, "x")
        self.candidates: dict[tuple[bool, tuple[int, ...]], list[Template]] = {}
        self.options = sorted(looped_fields(templates))

    def of_row(self, messages: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> list[dict]:
        """The row's messages with the template that makes the most tokens of them.

        Raises:
            RenderError: the row does not fit.
        """
        has_system = any(turn["role"] == "system" for turn in messages)
        counts = tuple(len(values[field]) for field in self.options)
        if (has_system, counts) not in self.candidates:
            sizes = self._sizes(has_system, counts)
            longest = max(sizes.values())
            fitting = [template for template, size in sizes.items() if size > longest - MARGIN]
            self.candidates[has_system, counts] = fitting
        prompts = [rendered(messages, template, values) for template in self.candidates[has_system, counts]]
        return prompts[0] if len(prompts) == 1 else max(prompts, key=self._tokens)

    def _sizes(self, has_system: bool, counts: tuple[int, ...]) -> dict[Template, int]:
        probe = self.probe | {field: ["x"] * count for field, count in zip(self.options, counts, strict=True)}
        turns = [{"role": "system", "content": "x"}] * has_system + [{"role": "user", "content": "x"}]
        return {template: self._tokens(rendered(turns, template, probe)) for template in self.templates}

    def refuse_beyond(self, limit: int, setting: str) -> None:
        """Raise PoolError if a template leaves no room for a question.

        Args:
            limit: in tokens.
            setting: its name.
        """
        sizes = self._sizes(False, (2,) * len(self.options))
        if too_long := {template.id: size for template, size in sizes.items() if size >= limit}:
            listed = ", ".join(f"{id} ({size} tokens)" for id, size in too_long.items())
            raise PoolError(
                f"{setting}={limit}: these templates are longer without any question: {listed}; raise the "
                "limit, or take them out of the pool"
            )

    def _tokens(self, turns: list[dict]) -> int:
        """Tokens with the chat template up to the first user turn; what follows is the same for all templates."""
        first = next(number for number, turn in enumerate(turns) if turn["role"] == "user")
        prompt: Any = self.tokenizer.apply_chat_template(
            turns[: first + 1], add_generation_prompt=True, tokenize=True, return_dict=True, **self.chat
        )
        return len(prompt["input_ids"])
