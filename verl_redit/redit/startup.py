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

"""What can be told about a dithered run before it starts: its settings, its inner manager and its rows."""

from collections import defaultdict
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from verl_redit.closed_loop import MODES, is_closed_loop
from verl_redit.data_files import parquet, reads_files, validates, values
from verl_redit.redit.config import CLOSED_LOOP_SETTINGS, NOISE_SETTINGS, STRATEGY_SETTINGS, ReditConfig
from verl_redit.settings import nearest, parse

logger = getLogger(__name__)


def problems(config: DictConfig) -> Iterator[str]:
    """One line for each reason why the run cannot be dithered, with the mend."""
    try:
        settings = parse(ReditConfig, config.get("redit"), "redit")
    except ValueError as error:
        yield str(error)
        return
    from verl.experimental.reward_loop.reward_manager.registry import REWARD_MANAGER
    from verl.trainer.ppo.reward import get_custom_reward_fn

    if settings.inner not in REWARD_MANAGER:
        get_custom_reward_fn(config)  # the user's file may register managers
    if settings.inner not in REWARD_MANAGER:
        managers = [name for name in REWARD_MANAGER if name != "redit"]
        yield f"redit.inner: {settings.inner!r} is not a registered reward manager; {nearest(settings.inner, managers)}"
    closed_loop = is_closed_loop(config)
    yield from (_closed_loop if closed_loop else _open_loop)(config, settings)
    if settings.std > 0 and reads_files(config):
        if not closed_loop:
            for setting in ["data.train_files", *(["data.val_files"] if validates(config) else [])]:
                for file in parquet(OmegaConf.select(config, setting)):
                    yield from _label_problems(setting, file, settings.unlabelled_rows)
        _report_duplicates(parquet(config.data.train_files))


# In both loops: settings with which verl would run, and something would not happen that the user asked for.


def _is_set(settings: ReditConfig, name: str) -> bool:
    return getattr(settings, name) != getattr(ReditConfig(), name)


def _open_loop(config: DictConfig, settings: ReditConfig) -> Iterator[str]:
    for name in CLOSED_LOOP_SETTINGS:
        if _is_set(settings, name):
            yield (
                f"redit.{name}: a reward manager sees no groups; set trainer.v1.trainer_mode to one of "
                f"{', '.join(MODES)}, or drop it"
            )
    if settings.components and settings.inner == "rate_limited":
        yield "redit.components: rate_limited returns no components when it times out; use another redit.inner"
    if config.reward.reward_manager.source != "register":
        yield "reward.reward_manager.source: redit is a registered manager; set reward.reward_manager.source=register"
    if config.algorithm.adv_estimator == "gdpo":
        yield "algorithm.adv_estimator=gdpo: it uses the raw reward components, so no noise would reach it; use grpo"
    if config.reward.reward_model.enable and config.reward.custom_reward_function.path is None:
        yield (
            "reward.reward_model.enable=true: verl takes the reward model's score without asking a reward manager, so "
            "nothing would be dithered; score through reward.custom_reward_function, or drop +redit"
        )
    groups = config.algorithm.filter_groups
    if groups.enable and groups.metric == "reward" and settings.std > 0:
        yield (
            "algorithm.filter_groups.metric=reward: with noise no group has equal rewards, so none would be filtered; "
            "set algorithm.filter_groups.metric=acc, which stays raw"
        )


def _closed_loop(config: DictConfig, settings: ReditConfig) -> Iterator[str]:
    if "redit" not in config:
        yield "reward.reward_manager.name=redit: in the closed loop the trainer dithers; add +redit=gaussian too"
    manager = config.reward.reward_manager.name
    if manager != "redit" and _is_set(settings, "inner"):
        yield f"redit.inner: reward.reward_manager.name={manager} does the scoring; drop one of the two"
    if "async_training" in config:
        yield "trainer.v1.trainer_mode: the fully-async trainer has no closed loop; set it to sync"
    if config.algorithm.use_kl_in_reward:
        yield (
            "algorithm.use_kl_in_reward=true: in the closed loop the KL term would be taken for dithering; set it to "
            "false and use actor_rollout_ref.actor.use_kl_loss=true"
        )
    if _is_set(settings, "unlabelled_rows"):
        yield "redit.unlabelled_rows: the closed loop dithers what the trainer trains on, and reads no split; drop it"
    for name in [*NOISE_SETTINGS, *CLOSED_LOOP_SETTINGS]:
        if name not in ("strategy", "right_above", *STRATEGY_SETTINGS[settings.strategy]) and _is_set(settings, name):
            yield f"redit.{name}: redit.strategy={settings.strategy} does not read it; drop it"
    reads_floor = "std_floor" in STRATEGY_SETTINGS[settings.strategy]
    if reads_floor and _is_set(settings, "std_floor") and settings.std_source != "clean":
        yield f"redit.std_floor: redit.std_source={settings.std_source} does not read it; set std_source=clean"
    if config.algorithm.adv_estimator != "grpo":
        yield (
            f"algorithm.adv_estimator={config.algorithm.adv_estimator}: the closed loop is for groups; set "
            "algorithm.adv_estimator=grpo, or use the reward manager (trainer.v1.trainer_mode=sync), which serves any"
        )
    if settings.std_source != "dithered" and not config.algorithm.norm_adv_by_std_in_grpo:
        yield (
            f"redit.std_source={settings.std_source}: algorithm.norm_adv_by_std_in_grpo=false says that nothing is "
            "divided; set it to true, or drop std_source"
        )
    if settings.strategy == "accuracy_band":
        if not config.algorithm.filter_groups.enable or config.algorithm.filter_groups.metric == "reward":
            yield (
                "redit.strategy=accuracy_band: verl's filter drops and replaces the groups; set "
                "algorithm.filter_groups.enable=true and algorithm.filter_groups.metric=acc"
            )
        if OmegaConf.select(config, "trainer.v1.sampler.custom_sampler.path"):
            yield "redit.strategy=accuracy_band: a custom sampler does its own filtering; drop custom_sampler.path"
    if settings.strategy == "directed" and OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode"):
        yield (
            "redit.strategy=directed: it needs entropies, which verl does not compute with "
            "algorithm.rollout_correction.bypass_mode=true; set it to false"
        )


def _label_problems(setting: str, file: Path, unlabelled_rows: str | None) -> Iterator[str]:
    if unlabelled_rows is None and "extra_info" not in pq.read_schema(file).names:
        yield f"{setting}: {file} has no column extra_info; write {{'split': 'train', 'index': <row>}} into each row"
        return
    own = values(file, "extra_info.split")
    splits = [split or unlabelled_rows for split in own]
    unlabelled = [row for row, split in enumerate(splits) if not split]

    def told(row: int) -> str:
        label = f"is {own[row]!r}" if own[row] else f"is not there, and redit.unlabelled_rows={unlabelled_rows}"
        return f"{setting}: {file} row {row}: extra_info.split {label}"

    if setting == "data.train_files" and splits and not {"train", None} & set(splits):
        yield f"{told(0)}, and no row's is 'train', so none would be dithered; set it to 'train'"
    if setting == "data.val_files" and "train" in splits:
        yield f"{told(splits.index('train'))}, so validation would be dithered; set it to another name than 'train'"
    if unlabelled:
        yield (
            f"{setting}: {file} row {unlabelled[0]}: extra_info has no split, nor have {len(unlabelled) - 1} other "
            "rows; write one ('train' for training rows), or set redit.unlabelled_rows=train or validation"
        )


def _report_duplicates(files: list[Path]) -> None:
    """Warn of training rows that share a key, in one file or across files: they get the same noise within a step."""
    places = defaultdict(list)
    for file in files:
        keys = zip(values(file, "data_source"), values(file, "extra_info.index"), strict=True)
        for row, (source, index) in enumerate(keys):
            if index is not None:
                places[source, index].append(f"{file} row {row}")
    shared = {key: where for key, where in places.items() if len(where) > 1}
    if shared:
        (source, index), where = next(iter(shared.items()))
        logger.warning(
            "data.train_files: %d pairs of data_source and extra_info.index occur more than once (first: %r, %r in "
            "%s); such rows get the same noise within a step. Give each row its own index.",
            len(shared), source, index, ", ".join(where[:3]),
        )  # fmt: skip
