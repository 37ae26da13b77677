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

"""Start-up and step times of the real trainer, with the suite and without, alternating in one run.

    python recipes/benchmarks/trainer.py --out DIR

Each arm is the demo's command with one or two ranks. Reported: seconds from the command to the end of the first step,
`timing_s/step` of the later steps, and the ratio of the medians (each over stock) with a bootstrap interval.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from scipy.stats import bootstrap

from verl_redit.demo import run
from verl_redit.demo.report import training_steps
from verl_redit.demo.run import Arm, Sizes

STOCK = Arm("stock GRPO")
ARMS = [
    STOCK,
    Arm("reward manager", ["+redit=gaussian"]),
    Arm("closed loop", ["+redit=gaussian", "trainer.v1.trainer_mode=redit_sync"]),
]


def ratio_of_medians(dithered: np.ndarray, stock: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.median(dithered, axis=axis) / np.median(stock, axis=axis)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the model, the data and the runs.")] = Path("benchmark-output"),
    rounds: Annotated[int, typer.Option(help="Runs of each arm.")] = 2,
    steps: Annotated[int, typer.Option(help="Steps of each run.")] = 15,
    ranks: Annotated[int, typer.Option(help="FSDP ranks.")] = 1,
) -> None:
    """Measure start-up and steps of each arm."""
    console = Console()
    sizes = Sizes(steps=steps, prompts=16, rollouts=8, ranks=ranks, seed=0, warm_steps=100, problems=512)
    run.prepare(out.resolve(), sizes, console)
    starts: dict[str, list[float]] = {arm.title: [] for arm in ARMS}
    seconds: dict[str, list[float]] = {arm.title: [] for arm in ARMS}
    for number in range(rounds):
        for arm in ARMS if number % 2 == 0 else ARMS[::-1]:
            folder = out.resolve() / f"{time.time_ns()}-{number}-{arm.folder}"
            arguments = [*run.command(out.resolve(), folder, sizes, arm), "trainer.val_before_train=false"]
            began = time.time()
            run.train([*arguments, "trainer.test_freq=-1"], folder, arm.title, sizes, console)
            starts[arm.title].append(round((folder / "rollouts" / "1.jsonl").stat().st_mtime - began, 1))
            entries = training_steps(folder / "metrics.jsonl")[1:]
            seconds[arm.title] += [entry["data"]["timing_s/step"] for entry in entries]
    print(
        json.dumps(
            {
                "ranks": ranks,
                "seconds to the end of the first step": starts,
                "median step": {title: round(statistics.median(values), 2) for title, values in seconds.items()},
                "ratio to stock, 95% interval": {
                    title: compared(np.array(values), np.array(seconds[STOCK.title]))
                    for title, values in seconds.items()
                    if title != STOCK.title
                },
            }
        )
    )


def compared(arm: np.ndarray, stock: np.ndarray) -> list[float]:
    """Ratio of the medians with both ends of its bootstrap interval."""
    interval = bootstrap((arm, stock), ratio_of_medians, rng=0, method="percentile").confidence_interval
    return [round(float(value), 3) for value in (ratio_of_medians(arm, stock), interval.low, interval.high)]


if __name__ == "__main__":
    typer.run(main)
