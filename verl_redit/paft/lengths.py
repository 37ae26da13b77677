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

    Templates whose own text is more than `MARGIN` tokens shorter than the longest are not tried.

    Args:
        templates: at least one.
        fields: of the pool.
    """

    def __init__(self, templates: Sequence[Template], fields: Iterable[str], tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        looped = looped_fields(templates)
        probe = {field: ["x", "x"] if field in looped else "x" for field in fields}
        self.sizes = {template: self._tokens(template, probe) for template in templates}
        most = max(self.sizes.values())
        self.candidates = [template for template, size in self.sizes.items() if size > most - MARGIN]

    def of_row(self, values: Mapping[str, Any]) -> Template:
        """The template with the most tokens for these values."""
        if len(self.candidates) == 1:
            return self.candidates[0]
        return max(self.candidates, key=lambda template: self._tokens(template, values))

    def refuse_beyond(self, limit: int) -> None:
        """Raise PoolError if a template leaves no room for a question.

        Args:
            limit: ``data.max_prompt_length``, in tokens.
        """
        if too_long := {template.id: size for template, size in self.sizes.items() if size >= limit}:
            listed = ", ".join(f"{id} ({size} tokens)" for id, size in too_long.items())
            raise PoolError(
                f"data.max_prompt_length={limit}: these templates are longer without any question: {listed}; raise the "
                "limit, or take them out of the pool"
            )

    def _tokens(self, template: Template, values: Mapping[str, Any]) -> int:
        text = "\n".join(turn["content"] for turn in render(template, values))
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
