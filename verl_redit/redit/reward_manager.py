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
from types import ModuleType
from typing import Any

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.experimental.reward_loop.reward_manager.registry import get_reward_manager_cls

from verl_redit.closed_loop import is_closed_loop
from verl_redit.plugin import install_early
from verl_redit.redit import failure
from verl_redit.redit.config import ReditConfig
from verl_redit.redit.noise import Key
from verl_redit.redit.rows import RowError, key_of, place_of
from verl_redit.redit.strategies import reward_noise
from verl_redit.settings import parse


class RewardError(RuntimeError):
    """A reward that is not a number, or a row that cannot be dithered. Ends the run."""


class ReditRewardManager(RewardManagerBase):
    """Scores with ``redit.inner`` and adds keyed noise to the reward of training rows.

    The noise has the standard deviation ``redit.std`` in units of ``reward_range``, times the schedule's factor at the
    row's step; with ``components`` there is one draw for each, which equals noise on each before the scorer sums them.
    Adds ``redit_raw_reward`` and ``redit_noise`` (reward units; 0 in validation) to ``reward_extra_info`` of every
    sample and leaves all other extras, ``acc`` among them, as the inner manager made them. With ``std=0``, and in the
    closed loop, where the trainer dithers, the inner result is returned as it is.

    A row is a training row if verl forwards a ``validate`` flag and it is false, else if ``extra_info.split`` is
    ``train``, else if ``redit.unlabelled_rows`` says so. verl 0.9.1 forwards no flag.

    Differs from the authors' code (a public copy of their TRL scripts): keyed draws instead of a global random stream,
    and a schedule that follows the row's own step.

    Raises:
        RewardError: from ``run_single``, when the inner manager fails or returns no finite number, when a component is
            missing, or when the row cannot be told from validation. It stops the run; no failure becomes a reward.
    """

    def __init__(self, config, tokenizer, compute_score, **kwargs):
        super().__init__(config, tokenizer, compute_score)
        self.settings = parse(ReditConfig, config.get("redit"), "redit")
        self.dithers = self.settings.std > 0 and not is_closed_loop(config)
        self.inner = get_reward_manager_cls(self.settings.inner)(config, tokenizer, compute_score, **kwargs)

    async def run_single(self, data: DataProto) -> dict:
        columns = {name: values[-1] for name, values in data.non_tensor_batch.items()}
        try:
            # before scoring, as verl's managers write into extra_info
            key = self._key(columns, data.meta_info) if self.dithers else None
            result = await self._score(data)
            reward = _finite(result.get("reward_score"))
            if key:
                self._check_components(result["reward_extra_info"])
        except (RewardError, RowError) as error:
            message = f"reward manager 'redit' stopped the run at {place_of(columns)}: {error}"
            failure.report(message)
            raise RewardError(message) from error
        if not self.dithers:
            return result
        noise = reward_noise(self.settings, key) if key else 0.0
        extra_info = {**result["reward_extra_info"], "redit_raw_reward": reward, "redit_noise": noise}
        return {"reward_score": reward + noise, "reward_extra_info": extra_info}

    async def _score(self, data: DataProto) -> dict:
        try:
            result = await self.inner.run_single(data)
        except Exception as error:
            lacks_score = isinstance(error, KeyError) and error.args == ("score",)
            hint = " (a dict that it returns must have 'score')" if lacks_score else ""
            raise RewardError(f"the scorer raised {type(error).__name__}: {error}{hint}") from error
        if not (isinstance(result, dict) and isinstance(result.get("reward_extra_info"), dict)):
            raise RewardError(
                f"reward manager {self.settings.inner!r} returned {result!r}; let it return a dict with "
                "'reward_score' and a dict 'reward_extra_info'"
            )
        return result

    def _check_components(self, extra_info: dict[str, Any]) -> None:
        for name in self.settings.components or ():
            if name not in extra_info:
                raise RewardError(
                    f"the scorer returned no component {name!r}; it must return a dict with 'score' and every name in "
                    f"redit.components, but it has {', '.join(map(str, extra_info))}"
                )
            _finite(extra_info[name], f" as {name!r}")

    def _key(self, columns: dict[str, Any], meta_info: dict[str, Any]) -> Key | None:
        """The key of a training row; None for a validation row."""
        return key_of(self.settings.seed, columns) if self._is_training(columns, meta_info) else None

    def _is_training(self, columns: dict[str, Any], meta_info: dict[str, Any]) -> bool:
        validate = columns.get("validate", meta_info.get("validate"))
        if validate is not None:
            return not validate
        extra_info = columns.get("extra_info")
        split = extra_info.get("split") if isinstance(extra_info, dict) else None
        split = split or self.settings.unlabelled_rows
        if split is None:
            raise RewardError(
                "neither verl nor the row tells whether this is training or validation. Three ways to mend it: write "
                "'split' ('train' or another name) into extra_info of every row; or set redit.unlabelled_rows=train "
                "(or validation) for rows without one; or use a verl that forwards `validate` to the reward manager"
            )
        return split == "train"


def _finite(reward: Any, where: str = "") -> float:
    if reward is None or isinstance(reward, str | bytes):
        raise RewardError(f"the scorer returned {reward!r}{where}; it must return a number")
    try:
        number = float(reward)
    except (TypeError, ValueError) as error:
        raise RewardError(f"the scorer returned {reward!r}{where}; it must return a number") from error
    if not math.isfinite(number):
        raise RewardError(f"the scorer returned {number}{where}; it must return a finite number")
    return number


def register(host: ModuleType) -> None:
    """Register the manager under the name ``redit``."""
    host.register("redit")(ReditRewardManager)


install_early(__name__)
