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

"""verl's data set for reinforcement learning, with prompts rendered from a pool (``data.custom_cls``)."""

from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_redit.paft.pool import PoolError
from verl_redit.paft.pool_rows import PoolRows
from verl_redit.paft.rows import names_of

_NUMBER = "verl_redit row number"


class PromptPoolDataset(PoolRows, RLHFDataset):
    """Each row gets a column ``template_id``, and ``template_id``, ``tier``, ``contract`` and ``item_id`` in its
    ``extra_info``, for the reward manager and the dumps; ``data_source`` stays as it is.

    Args:
        is_train: whether these are the training files; verl tells it through `verl_redit.backports.dataset_sampler`.
            The other arguments are `RLHFDataset`'s.
    """

    def __init__(self, data_files, tokenizer, config, processor=None, max_samples=-1, *, is_train: bool):
        self.open_pool(config, tokenizer, is_train, "max_prompt_length")
        super().__init__(data_files, tokenizer, config, processor, max_samples)
        if not is_train:
            self.choose_items(self.kept_names)

    def create_sampler(self, data_config):
        """The sampler of (row, template) pairs; verl asks for it through `verl_redit.backports.dataset_sampler`."""
        rows = self.dataframe.select_columns(["extra_info"])
        return self.sampler(rows, data_config.get("shuffle", True))

    def maybe_filter_out_long_prompts(self, dataframe=None):
        """verl's filter, on each row with the template that makes it longest.

        Raises:
            PoolError: the filter is off, and there are rows that it would have left out; verl would cut them.
        """
        names = names_of(dataframe.select_columns(["data_source", "extra_info"]))
        numbers = range(len(dataframe))

        def with_longest(row):
            return {self.prompt_key: self.rendered(row, row[self.prompt_key])}

        filters = self.filter_overlong_prompts
        if self.renders:
            measured = dataframe.map(with_longest, num_proc=self.num_workers)
            self.filter_overlong_prompts = True
        else:
            measured = dataframe
        kept = super().maybe_filter_out_long_prompts(measured.add_column(_NUMBER, numbers))[_NUMBER]
        self.filter_overlong_prompts = filters
        self.kept_names = [names[number] for number in kept]  # of the rows of whole files
        if not filters and len(kept) < len(dataframe):
            first = min(set(numbers).difference(kept))
            raise PoolError(
                f"data.max_prompt_length={self.max_prompt_length}: {len(dataframe) - len(kept)} rows are longer with "
                f"the longest template (or cannot be measured: see above), row {names[first]} the first, and verl cuts "
                "the beginning off what is longer than actor_rollout_ref.rollout.prompt_length, which this is; raise "
                "it, or leave such rows out by data.filter_overlong_prompts=true"
            )
        return dataframe.select(kept)

    def __len__(self):
        return len(self.dataframe) if self.is_train else len(self.items) * len(self.templates)

    def _build_messages(self, example, key):
        if self.template is not None:
            example = {**example, key: self.rendered(example, example[key], self.template)}
        return super()._build_messages(example, key)

    def __getitem__(self, index):
        number, self.template = self.pair(index)
        try:
            row = super().__getitem__(number)
            item = self.kept_names[number] if self.is_train else self.names[number]
            label = {"template_id": "", "tier": "", "contract": "", "item_id": item}
            if self.template is not None:
                label |= {
                    "template_id": self.template.id,
                    "tier": self.template.tier or "",
                    "contract": self.template.contract,
                }
        finally:
            self.template = None
        return {**row, "template_id": label["template_id"], "extra_info": {**row["extra_info"], **label}}
