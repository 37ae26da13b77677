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

"""How long prompts get: no template may be cut off, whichever a row is drawn with."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from verl_redit.paft.checks import looped_fields
from verl_redit.paft.pool import PoolError, Template, render

# Tokens by which a question's tokenisation can differ between templates: merges across the places where they meet
MARGIN = 8


class Longest:
    """Finds the template that makes the longest prompt of a row, without rendering every one.

    Templates that are more than `MARGIN` tokens shorter than the longest on a probe are not tried. A probe has one
    letter in each field, and as many options as the row.

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
        self.candidates: dict[tuple[int, ...], list[Template]] = {}
        self.options = sorted(looped_fields(templates))

    def of_row(self, values: Mapping[str, Any]) -> Template:
        """The template with the most tokens for these values."""
        counts = tuple(len(values[field]) for field in self.options)
        if counts not in self.candidates:
            sizes = self._sizes(counts)
            longest = max(sizes.values())
            self.candidates[counts] = [template for template, size in sizes.items() if size > longest - MARGIN]
        if len(self.candidates[counts]) == 1:
            return self.candidates[counts][0]
        return max(self.candidates[counts], key=lambda template: self.tokens(template, values))

    def _sizes(self, counts: tuple[int, ...]) -> dict[Template, int]:
        probe = self.probe | {field: ["x"] * count for field, count in zip(self.options, counts, strict=True)}
        return {template: self.tokens(template, probe) for template in self.templates}

    def refuse_beyond(self, limit: int, setting: str) -> None:
        """Raise PoolError if a template leaves no room for a question.

        Args:
            limit: in tokens.
            setting: its name.
        """
        sizes = self._sizes((2,) * len(self.options))
        if too_long := {template.id: size for template, size in sizes.items() if size >= limit}:
            listed = ", ".join(f"{id} ({size} tokens)" for id, size in too_long.items())
            raise PoolError(
                f"{setting}={limit}: these templates are longer without any question: {listed}; raise the "
                "limit, or take them out of the pool"
            )

    def tokens(self, template: Template, values: Mapping[str, Any]) -> int:
        """Tokens of the prompt as the rollout sees it, chat template and all."""
        prompt: Any = self.tokenizer.apply_chat_template(
            render(template, values), add_generation_prompt=True, tokenize=True, return_dict=True, **self.chat
        )
        return len(prompt["input_ids"])
