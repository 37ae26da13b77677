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

"""ReDit's claims in the lab: arms × regimes × updates a step × seeds, as `PLAN.md` has laid them down.

python -m recipes.lab.redit run --out DIR       # what is done is not done again
python -m recipes.lab.redit report --out DIR    # tables, figures, results.json; also of a grid that is half done
"""

import json
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recipes.lab.grpo import Settings
from recipes.lab.outcomes import SMOOTHING, UPDATES, Grid, final
from recipes.lab.outcomes import report as tell
from recipes.lab.run import train
from recipes.lab.runs import wait_for
from recipes.lab.task import REGIMES, Task

app = typer.Typer(add_completion=False)
DITHER = {"std": 0.0289}  # the suite's preset: uniform noise of half-width 0.05, as in the authors' MATH script, has it
DR_GRPO = {"norm_adv_by_std_in_grpo": False, "loss_agg_mode": "seq-mean-token-sum-norm"}
GRPO = "GRPO"
ARMS: dict[str, dict] = {
    GRPO: {},
    "ReDit, Gaussian": {"redit": DITHER},
    "ReDit, uniform": {"redit": {**DITHER, "distribution": "uniform"}},
    "tied groups only": {"redit": {**DITHER, "apply_to": "tied"}},
    "mixed groups only": {"redit": {**DITHER, "apply_to": "mixed"}},
    "clean std with a floor": {"redit": {**DITHER, "std_source": "clean"}},
    "Dr.GRPO": DR_GRPO,
    "Dr.GRPO with ReDit": {**DR_GRPO, "redit": DITHER},
    "filter_groups": {"redit": {"strategy": "accuracy_band"}},
    "accuracy band 0.2 to 0.8": {"redit": {"strategy": "accuracy_band", "accuracy_band": [0.2, 0.8]}},
    "RL-ZVP": {"redit": {"strategy": "directed"}},
    "batch std": {"redit": {"std": 0.0, "std_source": "batch"}},
    "noise on advantages": {"redit": {**DITHER, "strategy": "advantage_noise"}},
    "random rewards": {"coin": True},
}
# what a user could switch on
JUDGED = [
    "ReDit, Gaussian", "ReDit, uniform", "tied groups only", "mixed groups only", "clean std with a floor",
    "Dr.GRPO with ReDit",
]  # fmt: skip
BASES = {"Dr.GRPO with ReDit": "Dr.GRPO"}
TUNED = "GRPO, tuned rate"
RATE = 1e-3
RATES = [5e-4, 1e-3, 2e-3, 4e-3, 8e-3]
TUNING_SEEDS = [1000, 1001, 1002, 1003, 1004]


task = lru_cache(maxsize=1)(Task)  # all arms of a cell begin with the same


def tuned_rate(grid: Grid, regime: str, updates: int) -> float:
    """The rate with the best mean final accuracy of GRPO on seeds that are used for nothing else."""

    def accuracy(rate: float) -> float:
        runs = (one(grid, regime, updates, f"GRPO at {rate}", {"lr": rate}, seed) for seed in TUNING_SEEDS)
        return sum(map(final, runs))

    return max(RATES, key=accuracy)


def one(grid: Grid, regime: str, updates: int, arm: str, changes: dict, seed: int) -> dict:
    """The outcome of a run, or of the one that was made before with the same settings."""
    settings = replace(Settings(lr=RATE, steps=grid.steps, mini_batches=updates), **changes)
    place = grid.place(regime, updates, arm, seed, asdict(settings))
    if not place.is_file():
        grid.keep(place, asdict(train(task(regime, seed), settings, seed)))
    return json.loads(place.read_text())


def cell(grid: Grid, regime: str, updates: int, seed: int) -> None:
    """All arms of a regime with one number of updates and one seed."""
    for arm, changes in ARMS.items():
        one(grid, regime, updates, arm, changes, seed)
    one(grid, regime, updates, TUNED, {"lr": tuned_rate(grid, regime, updates)}, seed)


def _ignore_ctrl_c() -> None:
    """In a worker, which the terminal interrupts as well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


Out = Annotated[Path, typer.Option(help="Folder for the outcomes.")]
Steps = Annotated[int, typer.Option(help="GRPO steps of a run.", min=SMOOTHING)]


@app.command()
def run(
    out: Out = Path("lab-redit"),
    seeds: Annotated[int, typer.Option(help="Runs of each arm.", min=1)] = 20,
    steps: Steps = 200,
    processes: Annotated[int, typer.Option(help="Runs side by side.", min=1)] = os.cpu_count() or 1,
) -> None:
    """Run what is missing of the grid; after a failure, or ctrl-C, cells that have begun go to their end."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a process for each processor, not a thread
    spawn = multiprocessing.get_context("spawn")
    # the first seed's cells make the tuning runs that the others read
    for chosen in (range(1), range(1, seeds)):
        jobs = [(regime, updates, seed) for seed in chosen for regime in REGIMES for updates in UPDATES]
        with ProcessPoolExecutor(processes, spawn, _ignore_ctrl_c) as pool:
            started = [pool.submit(cell, Grid(out, steps), *job) for job in jobs]
            wait_for(pool, started, f"cells with seeds {chosen.start} to {chosen.stop - 1}", Console())


@app.command()
def report(out: Out = Path("lab-redit"), steps: Steps = 200) -> None:
    """Print the tables of what is done, and write them with figures beside it."""
    try:
        tell(Grid(out, steps), list(REGIMES), [*ARMS, TUNED], GRPO, JUDGED, BASES, Console())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--out") from error


if __name__ == "__main__":
    app()
