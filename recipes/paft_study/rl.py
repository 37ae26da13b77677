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

"""The paper's claim at small scale, by reinforcement learning: one template against policies, on unseen templates.

    VERL_PLATFORM=cpu python recipes/paft_study/rl.py --out DIR

What is run, and when it stops, is in PLAN.md.

Each run is `python -m verl.trainer.main_ppo` (GRPO with LoRA, FSDP2, vLLM) on the demo's word problems, from one tiny
model that was warmed up on demonstrations of mixed quality under random train templates: it can read all of them a
little, as a large model can. So `fixed` is no model that saw one template; the question is what reinforcement on one
does to the others. It is judged by verl's own validation after the last step: greedy answers under every
held-out template. Arms share the seeds of the rows' order. A run that is finished is not run again.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from seeds import cell, draw, over_seeds, show, summary

from verl_redit.demo import run
from verl_redit.demo.process import run_once
from verl_redit.demo.report import training_steps
from verl_redit.demo.run import Arm
from verl_redit.demo.workspace import Sizes, keep_to, prepare
from verl_redit.paft.pool_file import load

ARMS = ["fixed", "static", "uniform", "block", "cycle", "adaptive"]
CLOSED_LOOP = ["trainer.v1.trainer_mode=redit_sync"]  # adaptive follows rewards
POOL = "gsm8k"
VOCABULARY = 1024
LONGEST_PROMPT = 320


def train(folder: Path, arm: str, seed: int, sizes: Sizes, items: int, console: Console) -> Path:
    """Run GRPO; returns the dump of the last validation."""
    trained = folder / f"{arm}-{seed}"
    pool = [f"+paft={arm}", f"paft.pool={POOL}", f"paft.seed={seed}", f"paft.grid.items={items}"]
    pool += CLOSED_LOOP if arm == "adaptive" else []
    greedy = [f"actor_rollout_ref.rollout.val_kwargs.{setting}" for setting in ("do_sample=false", "n=1")]
    arguments = [
        *run.command(folder, trained, sizes, Arm(trained.name, pool)), *greedy,
        f"data.max_prompt_length={LONGEST_PROMPT}",
        f"actor_rollout_ref.rollout.max_model_len={LONGEST_PROMPT + 2 * run.LONGEST_RESPONSE}",
        "actor_rollout_ref.rollout.val_kwargs.temperature=0",
        # the model before training is the same for all; one arm of one seed is asked
        f"trainer.val_before_train={str((arm, seed) == (ARMS[0], 0)).lower()}",
        f"trainer.test_freq={sizes.steps}",
    ]  # fmt: skip
    run_once(arguments, trained, trained.name, sizes, console)
    return trained / "validation" / f"{sizes.steps}.jsonl"


def show_rewards(arms: dict[str, list[Path]], console: Console) -> None:
    """Print the mean reward of rollouts in the first and the last four steps, over seeds."""
    table = Table("arm", "reward, first 4 steps, %", "last 4 steps, %")
    for arm, dumps in arms.items():
        curves = [
            [data["critic/score/mean"] for data in training_steps(dump.parents[1] / "metrics.jsonl")] for dump in dumps
        ]
        ends = [np.array([np.mean(curve[part]) for curve in curves]) for part in (slice(4), slice(-4, None))]
        table.add_row(arm, *(cell(over_seeds(values)) for values in ends))
    console.print(table)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the model, the rows and the runs.")] = Path("paft-rl-study"),
    seeds: Annotated[int, typer.Option(help="Runs of each arm.", min=2)] = 3,
    steps: Annotated[int, typer.Option(help="GRPO steps of each run.")] = 16,
    items: Annotated[int, typer.Option(help="Test problems under each template.")] = 32,
    warm_steps: Annotated[int, typer.Option(help="Batches of the warm start.")] = 450,
) -> None:
    """Train and judge every arm with every seed, and print the table."""
    console = Console()
    folder = out.resolve()
    keep_to(folder, steps=steps, items=items, warm_steps=warm_steps)
    sizes = Sizes(steps=steps, prompts=16, rollouts=8, ranks=1, seed=0, warm_steps=warm_steps, problems=2048)
    prepare(folder, sizes, console, load(POOL).of_split("train"), VOCABULARY)
    dumps: dict[str, list[Path]] = {arm: [] for arm in ARMS}
    for arm, seed in track([(arm, seed) for seed in range(seeds) for arm in ARMS], "runs", console=console):
        dumps[arm].append(train(folder, arm, seed, sizes, items, console))
    before = folder / f"{ARMS[0]}-0" / "validation" / "0.jsonl"
    of_model = summary({"before": [before]})
    of_tier = {tier: {**of_model[tier], **arms} for tier, arms in summary(dumps, ["fixed", "cycle"]).items()}
    (folder / "summary.json").write_text(json.dumps(of_tier, indent=1))
    draw(dumps, folder / "accuracy.png")
    show(of_tier, console)
    show_rewards(dumps, console)


if __name__ == "__main__":
    typer.run(main)
