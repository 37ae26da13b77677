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

"""verl's data set for supervised fine-tuning, with prompts rendered from a pool (``data.custom_cls``)."""

import logging
from typing import Any

from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset, convert_nested_value_to_list_recursive

from verl_redit.backports import dataset_sampler
from verl_redit.data_files import listed
from verl_redit.paft.contracts import CONTRACTS
from verl_redit.paft.pool_rows import PoolRows
from verl_redit.paft.rows import names_of
from verl_redit.paft.scoring import is_stated
from verl_redit.paft.startup import pool_problems, row_problems

logger = logging.getLogger(__name__)


class PromptPoolSFTDataset(PoolRows, MultiTurnSFTDataset):
    """Rows hold ``messages``, whose first user turn is replaced and whose replies are trained on, and ``extra_info``.

    Args:
        parquet_files: those of ``data.train_files`` train, those of ``data.val_files`` validate. The other arguments
            are `MultiTurnSFTDataset`'s.

    Raises:
        ValueError: the same files in both.
    """

    def __init__(self, parquet_files, tokenizer, config, processor=None, max_samples=-1):
        dataset_sampler.extend_running_trainer()
        files = [listed(files) for files in (parquet_files, config.get("train_files"), config.get("val_files"))]
        if files[1] == files[2]:
            raise ValueError("data.val_files: the same as data.train_files; give held-out rows, or null")
        self.open_pool(config, tokenizer, is_train=files[0] == files[1], limit="max_length")
        found = list(pool_problems(self.settings, self.pool))
        if self.settings.policy == "adaptive":
            found.append("paft.policy=adaptive: it follows rewards, of which there are none; use another policy")
        if self.renders:
            setting = "data.train_files" if self.is_train else "data.val_files"
            found += row_problems(setting, files[0], self.pool, self.settings)
        if found:
            raise ValueError("\n".join(found))
        super().__init__(parquet_files, tokenizer, config, processor, max_samples)
        self.rows = [
            {"data_source": source, "extra_info": extra_info}
            for source, extra_info in zip(
                self.dataframe.get("data_source", [""] * len(self.dataframe)), self.dataframe["extra_info"], strict=True
            )
        ]
        self._check_replies()
        if not self.is_train:
            self.choose_items(names_of(self.rows))
            if len(self) < config.train_batch_size:
                raise ValueError(
                    f"data.val_files: {len(self)} rows of validation, and verl leaves out the last incomplete batch of "
                    f"{config.train_batch_size}, so none would be left; raise paft.grid.items"
                )
            if left := len(self) % config.train_batch_size:
                logger.warning(
                    "paft.grid.items: verl leaves out the last incomplete batch of validation, %d of %d cells; choose "
                    "items so that data.train_batch_size=%d divides them",
                    left, len(self), config.train_batch_size,
                )  # fmt: skip

    def create_distributed_sampler(self, replicas: int, rank: int):
        """The sampler of (row, template) pairs; verl asks for it through `verl_redit.backports.dataset_sampler`."""
        return self.sampler(self.rows, shuffle=True, replicas=replicas, rank=rank)

    def _check_replies(self) -> None:
        """Raise ValueError for a reply that is not written as the templates ask, or too long beside the longest."""
        contracts = {template.contract for template in self.templates if template is not None}
        for number, messages in enumerate(self.messages if self.renders else []):
            said = [turn["content"] for turn in messages if turn["role"] == "assistant"]
            replies = "\n".join(text for text in said if isinstance(text, str))  # calls of tools have none
            if self.is_train and not all(is_stated(replies, contract) for contract in contracts):
                rules = " and ".join(sorted(CONTRACTS[contract].rule for contract in contracts))
                raise ValueError(
                    f"data.train_files: the reply of row {number} does not {rules}, as the "
                    f"templates of pool {self.pool.name} ask; use a pool with the replies' own contract"
                )
            if self.truncation != "error":
                continue
            longest = self.rendered(self.rows[number], messages)
            size = self._tokens(longest, self.tools[number] if self.tools else None)
            if size > self.max_length:
                raise ValueError(
                    f"data.max_length={self.max_length}: row {number} has {size} tokens with the longest template; "
                    "raise it, drop the row, or set data.truncation"
                )

    def _tokens(self, messages, tools) -> int:
        encoded: Any = self.tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=True, return_dict=True, **self.apply_chat_template_kwargs
        )
        return len(encoded["input_ids"])

    def __len__(self):
        return len(self.dataframe) if self.is_train else len(self.items) * len(self.templates)

    def _build_messages(self, example):
        if self.template is not None:
            messages = convert_nested_value_to_list_recursive(example[self.messages_key])
            example = {**example, self.messages_key: self.rendered(example, messages, self.template)}
        return super()._build_messages(example)

    def __getitem__(self, index):
        number, self.template = self.pair(index)
        try:
            return super().__getitem__(number)
        finally:
            self.template = None
