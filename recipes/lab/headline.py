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
"""The lab's headline arms in verl's own trainer, where answers are rarely right.

    VERL_PLATFORM=cpu python -m recipes.lab.headline --out DIR

Each run is `python -m verl.trainer.main_ppo` (GRPO with LoRA, FSDP2, vLLM) on the demo's word problems, from one tiny
model that was warmed up for so short a time that it answers about a tenth of them. Arms of a seed share the order of
the rows and the seed of the rollouts. What is run, and when it stops, is in PLAN.md. A run that is finished is not run
again.
"""

from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from recipes.lab.runs import Job, run_all
from verl_redit.comparison.figures import VALIDATION, compare
from verl_redit.comparison.logs import read_run
from verl_redit.comparison.page import print_comparison
from verl_redit.demo.report import RAW_REWARD, TIED_GROUPS, read_curves
from verl_redit.demo.workspace import Sizes, keep_to, prepare

ARMS = {
    "grpo": [],
    "gaussian": ["+redit=gaussian"],
    "mixed-only": ["+redit=gaussian", "trainer.v1.trainer_mode=redit_sync", "redit.apply_to=mixed"],
}
SAMPLES = 8
EDGE = 8  # steps at either end of a run


def sizes_of(steps: int, warm_steps: int, seed: int) -> Sizes:
    """Of a run, and with seed 0 of the model and the rows that all share."""
    return Sizes(steps=steps, prompts=16, rollouts=8, ranks=1, seed=seed, warm_steps=warm_steps, problems=2048)


def job(folder: Path, arm: str, sizes: Sizes) -> Job:
    """The run of an arm with the seed in its sizes."""
    noise = [f"redit.seed={sizes.seed}"] if ARMS[arm] else []
    return Job(folder / arm / f"seed{sizes.seed}", [*ARMS[arm], *noise], sizes, SAMPLES)


def rewards(arms: dict[str, list[Path]]) -> Table:
    """Of rollouts, as the scorer gave them, without noise: mean over the runs of each arm, in percent.

    Args:
        arms: name -> folders of its runs.
    """
    table = Table("", f"reward, first {EDGE} steps", f"last {EDGE}", "tied groups")
    for arm, folders in arms.items():
        runs = [read_curves(arm, folder).points for folder in folders]
        curves = [[value for _, value in points[RAW_REWARD]] for points in runs]
        tied = fmean(value for points in runs for _, value in points[TIED_GROUPS])
        first = fmean(value for curve in curves for value in curve[:EDGE])
        last = fmean(value for curve in curves for value in curve[-EDGE:])
        table.add_row(arm, *(f"{100 * value:.1f}" for value in (first, last, tied)))
    return table


def main(
    out: Annotated[Path, typer.Option(help="Folder for the model, the rows and the runs.")] = Path("lab-headline"),
    seeds: Annotated[int, typer.Option(help="Runs of each arm.", min=2)] = 3,
    steps: Annotated[int, typer.Option(help="GRPO steps of each run.")] = 48,
    warm_steps: Annotated[int, typer.Option(help="Batches of the warm start.")] = 150,
    processes: Annotated[int, typer.Option(help="Runs side by side.", min=1)] = 2,
) -> None:
    """Train every arm with every seed, and print the comparison."""
    console, folder = Console(), out.resolve()
    keep_to(folder, steps=steps, warm_steps=warm_steps)
    prepare(folder, sizes_of(steps, warm_steps, 0), console)
    jobs = {(arm, seed): job(folder, arm, sizes_of(steps, warm_steps, seed)) for seed in range(seeds) for arm in ARMS}
    run_all(list(jobs.values()), folder, processes, console)
    folders = {arm: [jobs[arm, seed].folder for seed in range(seeds)] for arm in ARMS}
    logs = {arm: [read_run(run / "metrics.jsonl") for run in runs] for arm, runs in folders.items()}
    print_comparison(compare(logs, VALIDATION), console)
    console.print(rewards(folders))


if __name__ == "__main__":
    typer.run(main)
