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

    python recipes/benchmarks/trainer.py --out DIR                  dithering against stock
    python recipes/benchmarks/trainer.py --out DIR --plugin paft    a prompt pool against prompts rendered beforehand

Each arm is the demo's command with one or two ranks. Reported: seconds from the command to the end of the first step,
`timing_s/step` of the later steps, and the ratio of the medians (each over stock) with a bootstrap interval.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from scipy.stats import bootstrap

from verl_redit.demo import run
from verl_redit.demo.process import run_to_end
from verl_redit.demo.report import training_steps
from verl_redit.demo.run import Arm
from verl_redit.demo.workspace import Sizes, prepare
from verl_redit.paft.pool import render
from verl_redit.paft.pool_file import load
from verl_redit.settings import check_name

STOCK = "stock GRPO"
# for the texts of the pool's templates
ROOM = ["data.max_prompt_length=640", "actor_rollout_ref.rollout.max_model_len=704"]


def arms(plugin: str, out: Path) -> list[tuple[Arm, list[str]]]:
    """The arms to compare, stock first, each with overrides of the demo's own settings."""
    check_name("--plugin", plugin, ["redit", "paft"])
    closed = "trainer.v1.trainer_mode=redit_sync"
    if plugin == "redit":
        return [
            (Arm(STOCK), []),
            (Arm("reward manager", ["+redit=gaussian"]), []),
            (Arm("closed loop", ["+redit=gaussian", closed]), []),
        ]
    template = load("gsm8k").of_split("train")[0]
    rows = pq.read_table(out / "train.parquet").to_pylist()
    for row in rows:
        row["prompt"] = render(template, {"question": row["extra_info"]["question"]})
    pq.write_table(pa.Table.from_pylist(rows), out / "rendered.parquet")
    pool = ["+paft=fixed", "paft.pool=gsm8k", "paft.validation=stock"]
    return [
        (Arm(STOCK), [*ROOM, f"data.train_files={out / 'rendered.parquet'}"]),
        (Arm("prompt pool", pool), ROOM),
        (Arm("prompt pool in the closed loop", [*pool, closed]), ROOM),
    ]


def ratio_of_medians(arm: np.ndarray, stock: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.median(arm, axis=axis) / np.median(stock, axis=axis)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the model, the data and the runs.")] = Path("benchmark-output"),
    rounds: Annotated[int, typer.Option(help="Runs of each arm.")] = 2,
    steps: Annotated[int, typer.Option(help="Steps of each run.")] = 15,
    ranks: Annotated[int, typer.Option(help="FSDP ranks.")] = 1,
    plugin: Annotated[str, typer.Option(help="What is compared with stock: redit or paft.")] = "redit",
) -> None:
    """Measure start-up and steps of each arm."""
    console = Console()
    sizes = Sizes(steps=steps, prompts=16, rollouts=8, ranks=ranks, seed=0, warm_steps=100, problems=512)
    prepare(out.resolve(), sizes, console)
    compared_arms = arms(plugin, out.resolve())
    starts: dict[str, list[float]] = {arm.title: [] for arm, _ in compared_arms}
    seconds: dict[str, list[float]] = {arm.title: [] for arm, _ in compared_arms}
    for number in range(rounds):
        for arm, overrides in compared_arms if number % 2 == 0 else compared_arms[::-1]:
            folder = out.resolve() / f"{time.time_ns()}-{number}-{arm.folder}"
            quiet = ["trainer.val_before_train=false", "trainer.test_freq=-1"]
            arguments = [*run.command(out.resolve(), folder, sizes, arm), *overrides, *quiet]
            began = time.time()
            run_to_end(arguments, folder, arm.title, sizes, console)
            starts[arm.title].append(round((folder / "rollouts" / "1.jsonl").stat().st_mtime - began, 1))
            logged = training_steps(folder / "metrics.jsonl")[1:]
            seconds[arm.title] += [data["timing_s/step"] for data in logged]
    print(
        json.dumps(
            {
                "ranks": ranks,
                "seconds to the end of the first step": starts,
                "median step": {title: round(statistics.median(values), 2) for title, values in seconds.items()},
                "ratio to stock, 95% interval": {
                    title: compared(np.array(values), np.array(seconds[STOCK]))
                    for title, values in seconds.items()
                    if title != STOCK
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
