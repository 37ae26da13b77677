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

"""Does it help to train the chosen layers? Arms with equally many trainable parameters, supervised and by GRPO.

    VERL_PLATFORM=cpu python recipes/flexora_study/helps.py supervised --out DIR
    VERL_PLATFORM=cpu python recipes/flexora_study/helps.py grpo --out DIR

The model is the demo's with twelve layers, warmed up on demonstrations of mixed quality. LoRA goes on half of the
layers, or on all of them at half the rank. A search is a run of verl's trainer with `+flexora=search`, for half as many
steps as the run with `+flexora=selected` that follows, which begins anew; what the search costs is reported beside it.
Accuracy is that of answers sampled at temperature 1 to problems drawn anew; the task is small, so about a tenth of them
stand in training as well, for every arm. Seeds differ in rows (or their order) and in the search, not in the warmed-up
model. A run that is finished is not run again.
"""

import json
import re
import shutil
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from natural import warmed
from peft import PeftModel
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from verl_redit.comparison.figures import mean_interval
from verl_redit.comparison.intervals import draw_intervals
from verl_redit.demo import model as demo
from verl_redit.demo import run, supervised, task
from verl_redit.demo.process import run_to_end
from verl_redit.demo.report import training_steps
from verl_redit.demo.run import Arm
from verl_redit.demo.workspace import Sizes, keep_to, write_whole
from verl_redit.flexora.export import export
from verl_redit.flexora.scores import METHODS
from verl_redit.flexora.selection import load

RANK, CHOSEN = 4, 6
# arm -> method and its settings
ARMS: dict[str, tuple[str, list[str]]] = {
    **{method: (method, []) for method in ("random", "first", "middle", "last", "grad_norm", "sensitivity", "align")},
    "unrolled, applied": ("unrolled", ["flexora.apply=true"]),
}
HALF_RANK = "all layers, half the rank"
TESTED = 512


@dataclass
class Outcome:
    """One run: accuracy from 0 to 1, seconds of its training steps, and of the search's before it."""

    accuracy: float
    seconds: float
    search_seconds: float = 0.0
    parameters: int = 0
    beats_chance: bool | None = None


class Supervised:
    """`verl.trainer.sft_trainer`: clean solutions, each seen once."""

    group = "sft_"
    batch, steps = 32, 48

    def train(self, model: Path, folder: Path, seed: int, steps: int, rank: int, overrides: list[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        task.write_conversations(task.problems(steps * self.batch, seed, "train"), folder / "train.parquet")
        supervised.train(
            model, folder / "train.parquet", folder, *overrides, "data.val_files=null", "data.max_length=256",
            f"data.train_batch_size={self.batch}", f"data.micro_batch_size_per_gpu={self.batch}",
            f"model.lora_rank={rank}", f"model.lora_alpha={2 * rank}", "model.target_modules=all-linear",
            "+engine.mixed_precision={param_dtype:float32,reduce_dtype:float32,buffer_dtype:float32}",
            "optim.lr=3e-3", "trainer.total_epochs=1", f"trainer.save_freq={steps}", "trainer.resume_mode=disable",
            ranks=1,
        )  # fmt: skip

    def accuracy(self, model: Path, folder: Path, steps: int) -> float:
        adapter = folder / "adapter"
        if not adapter.is_dir():
            export(folder / f"checkpoints/global_step_{steps}", adapter, str(model))
        return answered(model, adapter)

    def seconds(self, folder: Path) -> float:
        # verl's own "total time" stays 0; its progress bar after the last step but one is free of the checkpoint
        bars = re.findall(r"Epoch 1/1: .*?(\d+)/(\d+) \[(\d+):(\d+)<", (folder / "log.txt").read_text())
        counts = [tuple(map(int, bar)) for bar in bars]
        steps, passed = next((n, 60 * minutes + s) for done, n, minutes, s in counts if done == n - 1)
        return passed * steps / (steps - 1)


class Grpo:
    """`verl.trainer.main_ppo`, whose own validation after the last step is the judge."""

    group = ""
    prompts, rollouts, steps = 16, 8, 24

    def train(self, model: Path, folder: Path, seed: int, steps: int, rank: int, overrides: list[str]) -> None:
        sizes = Sizes(steps, self.prompts, self.rollouts, ranks=1, seed=seed, warm_steps=0, problems=0)
        rows = folder.parent / "rows"
        rows.mkdir(exist_ok=True)
        task.write_rows(task.problems(2048, 0, "train"), "train", rows / "train.parquet")
        task.write_rows(test_problems(), "test", rows / "test.parquet")
        arguments = [
            *run.command(rows, folder, sizes, Arm(folder.name, overrides)), f"actor_rollout_ref.model.path={model}",
            f"actor_rollout_ref.model.lora_rank={rank}", f"actor_rollout_ref.model.lora_alpha={2 * rank}",
            "actor_rollout_ref.rollout.val_kwargs.n=1", "trainer.val_before_train=false",
            f"trainer.test_freq={steps}",
        ]  # fmt: skip
        run_to_end(arguments, folder, folder.name, sizes, Console(quiet=True))

    def accuracy(self, model: Path, folder: Path, steps: int) -> float:
        lines = (folder / f"validation/{steps}.jsonl").read_text().splitlines()
        return fmean(json.loads(line)["acc"] for line in lines)

    def seconds(self, folder: Path) -> float:
        return sum(data["timing_s/step"] for data in training_steps(folder / "metrics.jsonl"))


def answered(model: Path, adapter: Path | None = None) -> float:
    """Accuracy of a model on the test problems."""
    weights = AutoModelForCausalLM.from_pretrained(model)
    if adapter:
        weights = PeftModel.from_pretrained(weights, adapter).merge_and_unload()
    return demo.sampled_accuracy(weights, AutoTokenizer.from_pretrained(model), test_problems(), 0)


def test_problems() -> list[task.Problem]:
    return task.problems(TESTED, 0, "test")


class Regime(str, Enum):
    """How to train."""

    supervised = "supervised"
    grpo = "grpo"


REGIMES: dict[Regime, Supervised | Grpo] = {Regime.supervised: Supervised(), Regime.grpo: Grpo()}


def arm(regime: Supervised | Grpo, model: Path, folder: Path, name: str, seed: int, steps: int) -> Outcome:
    """Search if the arm does, train, and judge."""
    place = folder / f"{re.sub(r'[ ,]+', '_', name)}-{seed}"
    if name == HALF_RANK:
        return trained(regime, model, place, seed, steps, RANK // 2, [])
    search = place.with_name(place.name + "-search")
    method, settings = ARMS[name]
    measures = METHODS[method].measures
    if not (search / "done").is_file():
        shutil.rmtree(search, ignore_errors=True)
        # methods that measure nothing choose as the engine starts
        length = steps // 2 if measures else 1
        node = [
            f"+flexora={regime.group}search", f"flexora.method={method}", *settings, f"flexora.k={CHOSEN}",
            f"flexora.seed={seed}", f"flexora.search_steps={length}",
        ]  # fmt: skip
        regime.train(model, search, seed, length, RANK, node)
        (search / "done").touch()
    chosen = search / "checkpoints/flexora/selection.json"
    node = [f"+flexora={regime.group}selected", f"flexora.selection={chosen}", "flexora.accept_noise=true"]
    outcome = trained(regime, model, place, seed, steps, RANK, node)
    selection = load(chosen)
    outcome.search_seconds = regime.seconds(search) if measures else 0.0
    outcome.beats_chance = selection.beats_chance
    outcome.parameters = sum(unit.parameters for unit in selection.chosen)
    return outcome


def trained(
    regime: Supervised | Grpo, model: Path, place: Path, seed: int, steps: int, rank: int, node: list[str]
) -> Outcome:
    """The outcome of a run, or of the one that was made before."""
    outcome = place / "outcome.json"
    if not outcome.is_file():
        shutil.rmtree(place, ignore_errors=True)
        regime.train(model, place, seed, steps, rank, node)
        figures = {"accuracy": regime.accuracy(model, place, steps), "seconds": regime.seconds(place)}
        write_whole(outcome, json.dumps(figures))
    return Outcome(**json.loads(outcome.read_text()))


def main(
    regime: Annotated[Regime, typer.Argument(help="How to train.")],
    out: Annotated[Path, typer.Option(help="Folder for the model and the runs.")] = Path("flexora-helps"),
    seeds: Annotated[int, typer.Option(help="Runs of each arm.", min=2)] = 3,
    steps: Annotated[int | None, typer.Option(help="Training steps of each run; without it, the plan's.")] = None,
    warm_steps: Annotated[int, typer.Option(help="Batches of the warm start.")] = 300,
) -> None:
    """Run every arm with every seed, print the table and draw it."""
    console, steps = Console(), steps or REGIMES[regime].steps
    model = warmed(out.resolve() / f"model-{warm_steps}", warm_steps)
    folder = out.resolve() / f"{regime.value}-{steps}-steps"
    keep_to(folder, warm_steps=warm_steps)
    jobs = [(name, seed) for seed in range(seeds) for name in [HALF_RANK, *ARMS]]
    found = {
        (name, seed): arm(REGIMES[regime], model, folder, name, seed, steps)
        for name, seed in track(jobs, "runs", console=console)
    }
    table = Table(
        "LoRA on", "accuracy, %", f"over {HALF_RANK}", "over random", "over last", "seconds a step",
        "search / training", "beat chance",
    )  # fmt: skip
    outcomes = {name: [found[name, seed] for seed in range(seeds)] for name in [HALF_RANK, *ARMS]}
    for name, of_arm in outcomes.items():
        row(table, name, of_arm, [outcomes[base] for base in (HALF_RANK, "random", "last")], steps)
    console.print(table)
    accuracies = {name: [100 * outcome.accuracy for outcome in of_arm] for name, of_arm in outcomes.items()}
    draw_intervals(accuracies, f"accuracy, %, {regime.value}", folder / "accuracy.png")
    sizes = {outcome.parameters for outcome in found.values()} - {0}
    console.print(f"before training: {answered(model):.1%}; trainable parameters of an arm: {sizes}")


def row(table: Table, name: str, outcomes: list[Outcome], bases: list[list[Outcome]], steps: int) -> None:
    """Means over seeds, and of the differences from other arms by seed."""
    gains = [[one.accuracy - other.accuracy for one, other in zip(outcomes, base, strict=True)] for base in bases]
    share = fmean(outcome.search_seconds / outcome.seconds for outcome in outcomes)
    judged = [outcome.beats_chance for outcome in outcomes if outcome.beats_chance is not None]
    table.add_row(
        name, points([outcome.accuracy for outcome in outcomes]), *map(points, gains),
        f"{fmean(outcome.seconds for outcome in outcomes) / steps:.2f}", f"{share:.2f}" if share else "",
        f"{sum(judged)} of {len(judged)}" if judged else "",
    )  # fmt: skip


def points(values: list[float]) -> str:
    """Mean over seeds with its 95 % t interval, in points."""
    found = mean_interval([100 * value for value in values])
    return f"{found.mean:.1f} ({found.low:.1f} to {found.high:.1f})"


if __name__ == "__main__":
    typer.run(main)
