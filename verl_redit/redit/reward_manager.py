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

"""The reward manager ``redit``: any registered manager, with noise added to the training reward."""

import math
from numbers import Integral
from types import ModuleType
from typing import Any, NamedTuple

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.experimental.reward_loop.reward_manager.registry import get_reward_manager_cls

from verl_redit.redit import failure
from verl_redit.redit.config import ReditConfig
from verl_redit.redit.noise import Key, prompt_digest, unit_noise
from verl_redit.settings import parse

KEY_COLUMNS = ("data_source", "raw_prompt", "global_steps", "session_id")


class RewardError(RuntimeError):
    """A reward that is not a number, or a row that cannot be dithered. Ends the run."""


class Row(NamedTuple):
    """What is known of the sample before it is scored."""

    key: Key
    is_training: bool


class ReditRewardManager(RewardManagerBase):
    """Scores with ``redit.inner`` and adds ``noise_std`` times a keyed unit draw to the reward of training rows.

    Adds ``redit_raw_reward`` and ``redit_noise`` (reward units; 0 in validation) to ``reward_extra_info`` of every
    sample and leaves all other extras, ``acc`` among them, as the inner manager made them. With ``std=0`` nothing is
    added and the inner result is returned as it is.

    A row is a training row if verl forwards a ``validate`` flag and it is false, else if ``extra_info.split`` is
    ``train``, else if ``redit.unlabelled_rows`` says so. verl 0.9.1 forwards no flag.

    Differs from the paper's code (a public copy of its TRL scripts): one draw for the summed reward instead of one for
    each component, and keyed draws instead of a global random stream.

    Raises:
        RewardError: from ``run_single``, when the inner manager fails or returns no finite number, or when the row
            cannot be told from validation. It stops the run; no failure is turned into a reward.
    """

    def __init__(self, config, tokenizer, compute_score, **kwargs):
        super().__init__(config, tokenizer, compute_score)
        self.settings = parse(ReditConfig, config.get("redit"), "redit")
        self.inner = get_reward_manager_cls(self.settings.inner)(config, tokenizer, compute_score, **kwargs)

    async def run_single(self, data: DataProto) -> dict:
        columns = {name: values[-1] for name, values in data.non_tensor_batch.items()}
        try:
            row = self._read_row(columns, data.meta_info) if self.settings.std > 0 else None
            result = await self._score(data)
            reward = self._checked(result["reward_score"])
        except RewardError as error:
            message = f"reward manager 'redit' stopped the run at {_place(columns)}: {error}"
            failure.report(message)
            raise RewardError(message) from error
        if row is None:
            return result
        noise = self.settings.noise_std * unit_noise(self.settings.distribution, row.key) if row.is_training else 0.0
        extra_info = {**result["reward_extra_info"], "redit_raw_reward": reward, "redit_noise": noise}
        return {"reward_score": reward + noise, "reward_extra_info": extra_info}

    async def _score(self, data: DataProto) -> dict:
        try:
            return await self.inner.run_single(data)
        except Exception as error:
            lacks_score = isinstance(error, KeyError) and error.args == ("score",)
            hint = " (a dict that it returns must have 'score')" if lacks_score else ""
            raise RewardError(f"the scorer raised {type(error).__name__}: {error}{hint}") from error

    def _read_row(self, columns: dict[str, Any], meta_info: dict[str, Any]) -> Row:
        extra_info = columns.get("extra_info")
        if not isinstance(extra_info, dict):
            raise RewardError("the row has no extra_info; write {'split': 'train', 'index': <row number>} into it")
        if missing := [name for name in KEY_COLUMNS if name not in columns]:
            raise RewardError(
                f"verl passed no {', '.join(missing)}, without which draws would repeat; use the V1 trainers "
                "(trainer.use_v1=true)"
            )
        index = extra_info.get("index")
        key = Key(
            seed=self.settings.seed,
            data_source=str(columns["data_source"]),
            row=_plain(index) if isinstance(index, str | Integral) else prompt_digest(columns["raw_prompt"]),
            step=int(columns["global_steps"]),
            session=int(columns["session_id"]),
        )
        validate = columns.get("validate", meta_info.get("validate"))
        if validate is not None:
            return Row(key, is_training=not validate)
        split = extra_info.get("split") or self.settings.unlabelled_rows
        if split is None:
            raise RewardError(
                "neither verl nor the row tells whether this is training or validation. Three ways to mend it: write "
                "'split' ('train' or another name) into extra_info of every row; or set redit.unlabelled_rows=train "
                "(or validation) for rows without one; or use a verl that forwards `validate` to the reward manager"
            )
        return Row(key, is_training=split == "train")

    @staticmethod
    def _checked(reward: Any) -> float:
        if reward is None or isinstance(reward, str | bytes):
            raise RewardError(f"the scorer returned {reward!r}; it must return a number")
        try:
            reward = float(reward)
        except (TypeError, ValueError) as error:
            raise RewardError(f"the scorer returned {reward!r}; it must return a number") from error
        if not math.isfinite(reward):
            raise RewardError(f"the scorer returned {reward}; it must return a finite number")
        return reward


def _plain(index: str | Integral) -> int | str:
    return index if isinstance(index, str) else int(index)


def _place(columns: dict[str, Any]) -> str:
    extra_info = columns.get("extra_info")
    index = extra_info.get("index") if isinstance(extra_info, dict) else None
    return (
        f"data_source={str(columns.get('data_source'))!r}, extra_info.index={index}, "
        f"step={columns.get('global_steps')}, session={columns.get('session_id')}"
        + (f", prompt {str(columns.get('raw_prompt'))[:200]!r}" if index is None else "")
    )


def register(host: ModuleType) -> None:
    """Register the manager under the name ``redit``."""
    host.register("redit")(ReditRewardManager)
