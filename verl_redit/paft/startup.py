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

"""What can be told about a run with a prompt pool before it starts: its settings, its pool and its rows."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from omegaconf import DictConfig, OmegaConf

from verl_redit.closed_loop import MODES, is_closed_loop
from verl_redit.data_files import first_row, parquet, struct_fields
from verl_redit.paft.checks import load_checked
from verl_redit.paft.config import PaftConfig
from verl_redit.paft.grid import grid_templates
from verl_redit.paft.pool import Pool, Template
from verl_redit.paft.rows import LABELS
from verl_redit.settings import nearest, parse


def problems(config: DictConfig) -> Iterator[str]:
    """One line for each reason why the run cannot draw from its pool, with the mend."""
    try:
        settings = parse(PaftConfig, config.get("paft"), "paft")
        pool = load_checked(settings.pool)
        if settings.validation == "grid":
            grid_templates(pool, settings.grid)
    except ValueError as error:
        yield str(error)
        return
    yield from pool_problems(settings, pool)
    if settings.policy == "adaptive" and not is_closed_loop(config):
        yield (
            "paft.policy=adaptive: weights follow rewards, which only the closed loop sees; set "
            f"trainer.v1.trainer_mode to one of {', '.join(MODES)}, or use another policy"
        )
    filters = config.algorithm.filter_groups.enable
    if settings.policy == "adaptive" and filters:
        yield (
            "algorithm.filter_groups.enable=true: groups of equal rewards never reach the trainer, so a template that "
            "always fails would not be seen to; set it to false, or use another policy than paft.policy=adaptive"
        )
    scores = config.reward.custom_reward_function.path == "pkg://verl_redit.paft.scoring"
    if scores and config.reward.reward_model.enable:
        yield (
            "reward.reward_model.enable=true: +paft scores by rule, so the reward model would not be asked; set it to "
            "false, or ask it from a reward.custom_reward_function of your own"
        )
    if scores and OmegaConf.select(config, "reward.sandbox_fusion.url"):
        yield (
            "reward.sandbox_fusion.url: verl hands it to its own scorers alone, so code would run outside the sandbox; "
            "score through a reward.custom_reward_function of your own, or drop it"
        )
    if (config.data.get("train_max_samples") or -1) > 0 and config.data.shuffle and config.data.get("seed") is None:
        yield "data.train_max_samples: without data.seed each start takes other rows; set data.seed"
    if config.data.custom_cls.name != "PromptPoolDataset":
        yield "data.custom_cls: another data set renders the prompts, so paft would do nothing; drop it, or drop +paft"
    if settings.validation == "grid" and (config.data.get("val_max_samples") or -1) > 0:
        yield "data.val_max_samples: the grid chooses its rows by key; set paft.grid.items, and drop this"
    shown = {"data.train_files": pool.of_split("train"), "data.val_files": []}
    if settings.validation == "grid":
        shown["data.val_files"] = grid_templates(pool, settings.grid)
    for setting, templates in shown.items():
        files = OmegaConf.select(config, setting)
        yield from label_problems(setting, files)
        if templates:
            yield from row_problems(setting, files, pool, settings)
        if scores:
            yield from answer_problems(setting, files, templates)


def resume_problems(config: DictConfig, checkpoint: Path) -> Iterator[str]:
    """Why the run cannot go on from a checkpoint's draws: the pool is another one.

    The sampler refuses that too, but verl hands it its state after the first validation.
    """
    loader = checkpoint / "data.pt"
    if not loader.is_file():
        return
    before = _found(torch.load(loader, weights_only=True), "paft.pool content")
    settings = parse(PaftConfig, config.get("paft"), "paft")
    here = load_checked(settings.pool).content_hash
    if before not in (None, here):
        yield (
            f"paft.pool={settings.pool}: {checkpoint} was written with the pool's content {before}, this run has "
            f"{here}; set it back, or begin a new run (trainer.resume_mode=disable, and another "
            "trainer.default_local_dir)"
        )


def _found(state: Any, key: str) -> Any:
    """The value of a key somewhere in nested dictionaries, or None."""
    if not isinstance(state, dict):
        return None
    if key in state:
        return state[key]
    return next((found for value in state.values() if (found := _found(value, key)) is not None), None)


def pool_problems(settings: PaftConfig, pool: Pool) -> Iterator[str]:
    """What the settings ask of the pool and it does not have."""
    train = [template for template in pool.of_split("train") if template.weight > 0]
    ids = [template.id for template in train]
    if settings.template is not None and settings.template not in ids:
        hint = nearest(settings.template, ids)
        yield f"paft.template: {settings.template!r} is no train template of pool {pool.name}; {hint}"
    if settings.policy in ("cycle", "adaptive") and len({template.weight for template in train}) > 1:
        yield (
            f"paft.policy={settings.policy}: does not read weights, but those of pool {pool.name} differ; use "
            "paft.policy=uniform, or drop them"
        )
    if any(template.contract == "think_boxed" for template in pool.templates) and not find_spec("mathruler"):
        yield f"paft.pool={pool.name}: its scorer needs mathruler; pip install 'verl-redit[geometry3k]'"
    if settings.policy == "stratified" and len({template.tier for template in train}) < 2:
        yield f"paft.policy=stratified: the train templates of pool {pool.name} have one tier; use paft.policy=cycle"
    for field in settings.fields or {}:
        if field not in pool.fields:
            yield f"paft.fields.{field}: pool {pool.name} has no such field; {nearest(field, list(pool.fields))}"


def row_problems(setting: str, files: Any, pool: Pool, settings: PaftConfig) -> Iterator[str]:
    """Rows that lack a field."""
    for file in parquet(files):
        for field in pool.fields:
            yield from _without(f"{setting}: {file}", file, field, (settings.fields or {}).get(field, field))


def label_problems(setting: str, files: Any) -> Iterator[str]:
    """Files whose rows have keys that `PromptPoolDataset` writes its labels to."""
    for file in parquet(files):
        if taken := [name for name in struct_fields(file, "extra_info") if name in LABELS]:
            yield f"{setting}: {file}: the pool's labels would replace the rows' own extra_info.{taken[0]}; rename it"


def answer_problems(setting: str, files: Any, templates: Sequence[Template]) -> Iterator[str]:
    """Rows without an answer that the scorers of these templates can compare with."""
    contracts = {template.contract for template in templates} - {"own"}
    for file in parquet(files) if contracts else ():
        where = f"{setting}: {file}"
        kind = struct_fields(file, "reward_model").get("ground_truth")
        told = f"{where}: rows have no reward_model.ground_truth" if kind is None else ""
        if kind is not None and pa.types.is_nested(kind):
            told = f"{where}: reward_model.ground_truth is {kind}"
        if told:
            yield f"{told}; give the answer as text or a number"
        elif (row := first_row(file, "reward_model", "ground_truth", pc.is_null)) >= 0:
            yield f"{where}: row {row} has no reward_model.ground_truth; fill it in, or drop the row"
        elif "letter" in contracts and (row := first_row(file, "reward_model", "ground_truth", _is_no_letter)) >= 0:
            yield f"{where}: the reward_model.ground_truth of row {row} is not the letter of an option; give that"


def _is_no_letter(answers: pa.Array) -> pa.Array:
    return pc.invert(pc.match_substring_regex(pc.cast(answers, pa.string()), r"^\s*[A-Za-z]\s*$"))


def _without(where: str, file: Path, field: str, key: str) -> Iterator[str]:
    present = struct_fields(file, "extra_info")
    if key not in present:
        yield (
            f"{where}: rows have no extra_info.{key}, only {', '.join(present) or 'nothing'}; keep the raw {field} "
            f"there when preparing the data, or say where it is: paft.fields.{field}=<key>"
        )
    elif (row := first_row(file, "extra_info", key, pc.is_null)) >= 0:
        yield f"{where}: row {row} has no extra_info.{key}; fill it in, or drop the row"
