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
"""Do the three add up? Every combination of ReDit, PAFT and Flexora in verl's own trainer.

    VERL_PLATFORM=cpu python -m recipes.lab.factorial --out DIR

Each run is `python -m verl.trainer.main_ppo` in the closed loop, on the demo's word problems and prompts, from one
tiny model that was warmed up under the train prompts. It is judged by verl's validation under held-out prompts after
the last step. What is run, and when it stops, is in PLAN.md. A run that is finished is not run again.
"""

import json
from itertools import combinations, product
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from recipes.lab.runs import Job, run_all
from verl_redit.comparison.figures import mean_interval
from verl_redit.comparison.intervals import draw_intervals
from verl_redit.demo.run import POOL
from verl_redit.demo.workspace import Sizes, keep_to, prepare
from verl_redit.paft.pool_file import load

FACTORS = ("ReDit", "PAFT", "Flexora")
SAMPLES = 4
Cell = tuple[bool, ...]  # which of the factors a run has
CELLS: list[Cell] = list(product((False, True), repeat=len(FACTORS)))


def sizes_of(steps: int, seed: int) -> Sizes:
    """Of a run, and with seed 0 of the model and the rows that all share."""
    return Sizes(steps=steps, prompts=16, rollouts=8, ranks=1, seed=seed, warm_steps=450, problems=2048)


def job(folder: Path, cell: Cell, seed: int, steps: int) -> Job:
    """The run of a cell with a seed."""
    redit, paft, flexora = cell
    overrides = [
        "trainer.v1.trainer_mode=redit_sync", f"+paft={'cycle' if paft else 'fixed'}", f"paft.pool={POOL}",
        f"paft.seed={seed}", "paft.grid.items=32",
    ]  # fmt: skip
    if redit:
        overrides += ["+redit=gaussian", f"redit.seed={seed}"]
    if flexora:
        overrides += [
            "+flexora=one_run", "flexora.method=sensitivity", f"flexora.search_steps={max(1, steps // 3)}",
            "flexora.switch=keep", "flexora.accept_noise=true", f"flexora.seed={seed}",
        ]  # fmt: skip
    return Job(folder / title(cell) / f"seed{seed}", overrides, sizes_of(steps, seed), SAMPLES)


def title(cell: Cell) -> str:
    """The names of a cell's factors."""
    return "+".join(name for name, has in zip(FACTORS, cell, strict=True) if has) or "none"


def effects(accuracy: dict[Cell, float]) -> dict[str, float]:
    """Effects of one seed.

    Returns:
        For a factor, what it adds, mean over the others. For two, what they add together beyond what each adds alone,
        mean over the third; for three, how much more that is with the third than without.
    """
    found = {}
    for size in range(1, len(FACTORS) + 1):
        for chosen in combinations(range(len(FACTORS)), size):
            signed = sum(value * (-1) ** sum(not cell[at] for at in chosen) for cell, value in accuracy.items())
            found[" × ".join(FACTORS[at] for at in chosen)] = signed / 2 ** (len(FACTORS) - size)
    return found


def main(
    out: Annotated[Path, typer.Option(help="Folder for the model, the rows and the runs.")] = Path("lab-factorial"),
    seeds: Annotated[int, typer.Option(help="Runs of each combination.", min=2)] = 3,
    steps: Annotated[int, typer.Option(help="GRPO steps of each run.")] = 24,
    processes: Annotated[int, typer.Option(help="Runs side by side.", min=1)] = 2,
) -> None:
    """Train every combination with every seed, and print accuracies and effects."""
    console, folder = Console(), out.resolve()
    keep_to(folder, steps=steps)
    prepare(folder, sizes_of(steps, 0), console, load(POOL).of_split("train"))
    jobs = {(cell, seed): job(folder, cell, seed, steps) for seed in range(seeds) for cell in CELLS}
    run_all(list(jobs.values()), folder, processes, console)
    accuracy = {key: of_dump(one.dump) for key, one in jobs.items()}
    table = Table("", "accuracy under unseen prompts, %", "95 % t interval")
    of_cell = {title(cell): [accuracy[cell, seed] for seed in range(seeds)] for cell in CELLS}
    for name, values in of_cell.items():
        _row(table, name, values)
    draw_intervals(of_cell, "accuracy under unseen prompts", folder / "accuracy.png")
    table.add_section()
    of_seed = [effects({cell: accuracy[cell, seed] for cell in CELLS}) for seed in range(seeds)]
    for name in of_seed[0]:
        _row(table, f"effect of {name}", [found[name] for found in of_seed])
    console.print(table)


def of_dump(dump: Path) -> float:
    """Mean accuracy in a dump of validation."""
    return fmean(json.loads(line)["acc"] for line in dump.read_text().splitlines())


def _row(table: Table, name: str, values: list[float]) -> None:
    found = mean_interval([100 * value for value in values])
    table.add_row(name, f"{found.mean:.1f}", f"{found.low:.1f} to {found.high:.1f}")


if __name__ == "__main__":
    typer.run(main)
