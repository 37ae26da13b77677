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

"""What both of verl's data sets need to render their rows from a pool."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from omegaconf import DictConfig
from transformers import PreTrainedTokenizerBase

from verl_redit.paft.checks import load_checked
from verl_redit.paft.config import PaftConfig
from verl_redit.paft.grid import grid_items, grid_templates
from verl_redit.paft.lengths import Longest
from verl_redit.paft.messages import rendered
from verl_redit.paft.pool import RenderError, Template
from verl_redit.paft.rows import digest_of, item_of, values_of
from verl_redit.paft.sampler import PairSampler, pair_sampler
from verl_redit.settings import parse

# (row, number of the train template) from the sampler; a plain number in validation
Index: TypeAlias = tuple[int, int] | int


class PoolRows:
    """Mixed into a data set of verl's: which row and template an index means, and the row rendered.

    Training is indexed by (row, template). Validation is the grid of held-out templates times items, an item's
    templates one after the other; with ``paft.validation=stock`` it is the rows with their own prompts.
    """

    def open_pool(self, config: DictConfig, tokenizer: PreTrainedTokenizerBase, is_train: bool, limit: str) -> None:
        """Read settings and pool, before verl reads the rows.

        Args:
            config: the config node ``data``, with the node ``paft`` in it.
            limit: name of the setting in it that limits prompts, in tokens.

        Raises:
            ValueError: settings or pool that cannot be used.
        """
        self.settings = parse(PaftConfig, config.get("paft"), "paft")
        self.pool = load_checked(self.settings.pool)
        self.is_train = is_train
        self.renders = is_train or self.settings.validation == "grid"
        self.templates: Sequence[Template | None] = [None]
        self.template: Template | None = None  # the one that the row at hand gets
        if self.renders:
            split = self.pool.of_split("train") if is_train else grid_templates(self.pool, self.settings.grid)
            chat = config.get("apply_chat_template_kwargs") or {}
            self.longest = Longest(split, self.pool.fields, tokenizer, chat)
            self.longest.refuse_beyond(config.get(limit, 1024), f"data.{limit}")
            self.templates = split
            role = "trains on" if is_train else "validates on"
            print(f"paft: {role} {len(split)} templates of pool {self.pool.name}, content {self.pool.content_hash}")

    def choose_items(self, names: list[str]) -> None:
        """Choose the rows of validation, after verl has read them.

        Args:
            names: of the rows that verl has kept.
        """
        self.names = names
        self.items = grid_items(names, self.settings.grid) if self.renders else list(range(len(names)))

    def sampler(
        self, rows: Sequence[Mapping[str, Any]], shuffle: bool, replicas: int = 1, rank: int = 0
    ) -> PairSampler:
        """The sampler of (row, template) pairs for training on these rows."""
        return pair_sampler(self.pool, self.settings, len(rows), shuffle, replicas, rank, digest_of(rows))

    def pair(self, index: Index) -> tuple[int, Template | None]:
        """The row and the template that an index means."""
        if not self.is_train:
            item, template = divmod(int(index), len(self.templates))  # type: ignore[arg-type]
            return self.items[item], self.templates[template]
        if not isinstance(index, tuple):
            raise TypeError(
                f"a training row of a prompt pool is (row, template), not {index!r}; take indices from the data set's "
                "own sampler, as verl does while verl_redit's plugin is loaded (`verl-redit doctor`)"
            )
        row, number = index
        return row, self.templates[number]

    def rendered(
        self, row: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], template: Template | None = None
    ) -> list[dict]:
        """The row's messages with the template's turns, or with those of the one that makes the most tokens.

        Raises:
            RenderError: the row does not fit; the message names it.
        """
        try:
            values = values_of(row, self.pool.fields, self.settings.fields or {})
            return rendered(messages, template, values) if template else self.longest.of_row(messages, values)
        except RenderError as error:
            raise RenderError(f"row {item_of(row, 'without an index')}: {error}") from error
