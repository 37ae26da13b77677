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

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig, OmegaConf

from verl_redit.closed_loop import MODES, is_closed_loop
from verl_redit.paft.checks import load_checked
from verl_redit.paft.config import PaftConfig
from verl_redit.paft.grid import grid_templates
from verl_redit.paft.pool import Pool
from verl_redit.settings import listed, nearest, parse


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
    scorer = config.reward.custom_reward_function.path
    if scorer == "pkg://verl_redit.paft.scoring" and OmegaConf.select(config, "reward.sandbox_fusion.url"):
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
    yield from row_problems("data.train_files", listed(config.data.train_files), pool, settings)
    if settings.validation == "grid":
        yield from row_problems("data.val_files", listed(config.data.val_files), pool, settings)


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


def row_problems(setting: str, files: list[str], pool: Pool, settings: PaftConfig) -> Iterator[str]:
    """Rows of parquet files that lack a field; other files are checked row by row as they are rendered."""
    paths = [Path(file).expanduser() for file in files]
    for file in paths:
        if file.suffix == ".parquet" and file.is_file():
            for field in pool.fields:
                yield from _without(f"{setting}: {file}", file, field, (settings.fields or {}).get(field, field))


def _without(where: str, file: Path, field: str, key: str) -> Iterator[str]:
    schema = pq.read_schema(file)
    struct = schema.field("extra_info").type if "extra_info" in schema.names else pa.struct([])
    if struct.get_field_index(key) < 0:
        present = ", ".join(struct.field(number).name for number in range(struct.num_fields)) or "nothing"
        yield (
            f"{where}: rows have no extra_info.{key}, only {present}; keep the raw {field} there when preparing the "
            f"data, or say where it is: paft.fields.{field}=<key>"
        )
        return
    first = 0
    for batch in pq.ParquetFile(file).iter_batches(columns=[f"extra_info.{key}"]):
        row = pc.index(pc.is_null(pc.struct_field(batch.column(0), key)), True).as_py()
        if row >= 0:
            yield f"{where}: row {first + row} has no extra_info.{key}; fill it in, or drop the row"
            return
        first += len(batch)
