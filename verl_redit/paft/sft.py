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

from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset, convert_nested_value_to_list_recursive

from verl_redit.backports import dataset_sampler
from verl_redit.paft.pool_rows import PoolRows
from verl_redit.paft.startup import pool_problems, row_problems
from verl_redit.settings import listed


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
        self.open_pool(config, tokenizer, is_train=files[0] == files[1], limit=config.get("max_length", 1024))
        found = list(pool_problems(self.settings, self.pool))
        if self.settings.policy == "adaptive":
            found.append("paft.policy=adaptive: it follows rewards, of which there are none; use another policy")
        if self.renders:
            setting = "data.train_files" if self.is_train else "data.val_files"
            found += row_problems(setting, files[0], self.pool, self.settings)
        if found:
            raise ValueError("\n".join(found))
        super().__init__(parquet_files, tokenizer, config, processor, max_samples)
        if not self.is_train:
            self.choose_items([self.dataframe.iloc[row].to_dict() for row in range(len(self.dataframe))])
            if len(self) < config.train_batch_size:
                raise ValueError(
                    f"data.val_files: {len(self)} rows of validation, and verl leaves out the last incomplete batch of "
                    f"{config.train_batch_size}, so none would be left; raise paft.grid.items"
                )

    def create_distributed_sampler(self, replicas: int, rank: int):
        """The sampler of (row, template) pairs; verl asks for it through `verl_redit.backports.dataset_sampler`."""
        return self.sampler(len(self.dataframe), shuffle=True, replicas=replicas, rank=rank)

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
