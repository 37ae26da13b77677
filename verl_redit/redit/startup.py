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
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from verl_redit.redit.config import ReditConfig
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

    if settings.inner not in REWARD_MANAGER:
        managers = [name for name in REWARD_MANAGER if name != "redit"]
        yield f"redit.inner: {settings.inner!r} is not a registered reward manager; {nearest(settings.inner, managers)}"
    yield from _silently_without_effect(config, settings)
    if OmegaConf.select(config, "data.custom_cls.path") is None:
        for setting in ("data.train_files", "data.val_files"):
            for file in _listed(OmegaConf.select(config, setting)):
                yield from _row_problems(setting, Path(file).expanduser(), settings)


def _silently_without_effect(config: DictConfig, settings: ReditConfig) -> Iterator[str]:
    """Settings with which verl would run, and something would not happen that the user asked for."""
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


def _listed(files: Any) -> list[str]:
    if files is None:
        return []
    return [files] if isinstance(files, str) else list(files)


def _row_problems(setting: str, file: Path, settings: ReditConfig) -> Iterator[str]:
    if file.suffix != ".parquet" or not file.is_file():
        return  # other formats are checked row by row as they are scored; a missing file is told elsewhere
    schema = pq.read_schema(file)
    if "extra_info" not in schema.names:
        yield f"{setting}: {file} has no column extra_info; write {{'split': 'train', 'index': <row>}} into each row"
        return
    extra_info = pq.read_table(file, columns=["extra_info"]).column("extra_info")
    names = {field.name for field in extra_info.type} if pa.types.is_struct(extra_info.type) else set()
    rows = extra_info.to_pylist()
    if settings.unlabelled_rows is None:
        unlabelled = [row for row, info in enumerate(rows) if not (info or {}).get("split")]
        if unlabelled:
            yield (
                f"{setting}: {file} row {unlabelled[0]}: extra_info has no split, nor have {len(unlabelled) - 1} other "
                "rows; write one ('train' for training rows), or set redit.unlabelled_rows=train or validation"
            )
    if setting == "data.train_files" and "index" in names:
        _report_duplicates(file, rows)


def _report_duplicates(file: Path, rows: list[dict[str, Any] | None]) -> None:
    sources = pq.read_table(file, columns=["data_source"]).column("data_source").to_pylist()
    places = defaultdict(list)
    for row, (source, info) in enumerate(zip(sources, rows, strict=True)):
        if info and info["index"] is not None:
            places[source, info["index"]].append(row)
    shared = {key: where for key, where in places.items() if len(where) > 1}
    if shared:
        (source, index), where = next(iter(shared.items()))
        logger.warning(
            "%s: %d pairs of data_source and extra_info.index occur more than once (first: %r, %r in rows %s); such "
            "rows get the same noise within a step. Give each row its own index.",
            file, len(shared), source, index, where[:5],
        )  # fmt: skip
