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

"""A natural model: how well does each method rank layers by what they are worth after training?

    VERL_PLATFORM=cpu python recipes/flexora_study/natural.py --out DIR

The model is the demo's with twelve layers, warmed up on demonstrations of mixed quality. For each seed, LoRA on all
layers is trained for a short run on clean solutions, and a layer's worth is the rise of held-out loss when its B is set
to zero. Each method searches in a run of its own with the same data, and is judged by Spearman's correlation of its
scores with the worth. The last row, for comparison, is how well the worth in one run ranks that in another; scores with
less noise than a run can do better. Seeds differ in the adapter and the order of rows, not in the warmed-up model; a
search has another seed than the run that it is compared with. What is done is not done again.
"""

import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
import verl  # noqa: F401  loads the plugin
from rich.console import Console
from rich.progress import track
from rich.table import Table

from verl_redit.comparison.figures import mean_interval
from verl_redit.comparison.intervals import draw_intervals
from verl_redit.demo import model as demo
from verl_redit.demo import task
from verl_redit.demo.engine import build, join, loss, supervised_batch, update
from verl_redit.demo.workspace import keep_to, write_whole
from verl_redit.flexora.evidence import correlation
from verl_redit.flexora.layers import depth_order, layer_of, lora_factor
from verl_redit.flexora.scores import METHODS
from verl_redit.flexora.selection import load

LAYERS, RANK, ROWS = 12, 8, 32
OTHER_SEED = 1000
WORTH = "worth"


def warmed(folder: Path, steps: int) -> Path:
    """The model, warmed up once."""
    if not (folder / "config.json").is_file():
        problems = task.problems(2048, 0, "train")
        tokenizer = demo.build_tokenizer([f"{problem.question}\n{problem.solution()}" for problem in problems])
        model = demo.warm_start(problems, tokenizer, 0, steps, lambda step, loss: None, layers=LAYERS)
        demo.save(model, tokenizer, folder)
    return folder


class Rows:
    """Clean solutions as batches: to train on, and to judge by."""

    def __init__(self, engine):
        self.tokenizer = engine.model_config.tokenizer
        self.training = task.problems(2048, 0, "train")
        self.test = task.problems(256, 0, "test")

    def drawn(self, seed: int, step: int):
        """A batch of training rows."""
        return self._batch(random.Random(f"{seed} {step}").sample(self.training, ROWS))

    def held_out(self):
        """All test rows."""
        return self._batch(self.test)

    def _batch(self, problems: list[task.Problem]):
        pairs = [demo.encode(self.tokenizer, demo.bare(problem), problem.solution()) for problem in problems]
        ids = [torch.tensor(prompt + answer) for prompt, answer in pairs]
        masks = [torch.tensor([0] * len(prompt) + [1] * len(answer)) for prompt, answer in pairs]
        return supervised_batch(ids, masks, ROWS // 2, len(pairs))


def worth(model: Path, seed: int, steps: int) -> list[float]:
    """Rise of the held-out loss, in nats a token, when a layer is left out of the trained adapter."""
    engine = build(model, lora_rank=RANK, seed=seed, enable_gradient_checkpointing=False)
    rows = Rows(engine)
    for step in range(steps):
        update(engine, rows.drawn(seed, step))
    held_out = rows.held_out()
    return leave_one_out(engine.module, lambda: loss(engine, held_out))


def leave_one_out(module: torch.nn.Module, measure: Callable[[], float]) -> list[float]:
    """How much a measure of a model with LoRA rises when B of one layer is zero, for each layer from the lowest."""
    of_layer: dict[str, list[torch.Tensor]] = {}
    for name, parameter in module.named_parameters():
        if (factor := lora_factor(name)) and factor[1] == "B":
            of_layer.setdefault(layer_of(factor[0]), []).append(parameter.data)
    whole, rises = measure(), []
    for layer in sorted(of_layer, key=depth_order):
        kept = [tensor.clone() for tensor in of_layer[layer]]
        for tensor in of_layer[layer]:
            tensor.zero_()
        rises.append(measure() - whole)
        for tensor, before in zip(of_layer[layer], kept, strict=True):
            tensor.copy_(before)
    return rises


def scores(model: Path, method: str, seed: int, steps: int) -> list[float]:
    """One search; each layer's score."""
    with tempfile.TemporaryDirectory() as scratch:
        seed += OTHER_SEED
        settings = {"method": method, "search_steps": steps, "seed": seed, "output": scratch}
        engine = build(model, settings, lora_rank=RANK, seed=seed, enable_gradient_checkpointing=False)
        rows = Rows(engine)
        for step in range(steps if METHODS[method].measures else 0):
            update(engine, rows.drawn(seed, step))
        return [unit.score for unit in load(Path(scratch) / "selection.json").units]


def compare(
    folder: Path, seeds: int, worth: Callable[[int], list[float]], scores: Callable[[str, int], list[float]]
) -> None:
    """Measure what layers are worth with each seed, search with every method, print the table and draw it.

    Args:
        folder: where outcomes and the picture are kept; outcomes that are there are not computed again.
        worth: seed -> what each layer is worth.
        scores: method, seed -> what each layer is thought to be worth.
    """
    console = Console()
    folder.mkdir(parents=True, exist_ok=True)
    methods = [method for method in METHODS if method != "all"]
    found: dict[tuple[str, int], np.ndarray] = {}
    jobs = [(name, seed) for seed in range(seeds) for name in [WORTH, *methods]]
    with tempfile.TemporaryDirectory() as store:
        join(0, 1, Path(store) / "store")
        for name, seed in track(jobs, "runs", console=console):
            file = folder / f"{name}-{seed}.json"
            if not file.is_file():
                write_whole(file, json.dumps(worth(seed) if name == WORTH else scores(name, seed)))
            found[name, seed] = np.array(json.loads(file.read_text()))
        torch.distributed.destroy_process_group()
    truth = [found[WORTH, seed] for seed in range(seeds)]
    console.print("worth of each layer:", np.mean(truth, axis=0).round(4).tolist())
    table = Table("method", "rank correlation with the layers' worth", "95 % t interval")
    ranked = {method: [correlation(found[method, seed], truth[seed]) for seed in range(seeds)] for method in methods}
    for method in methods:
        row(table, method, ranked[method])
    draw_intervals(ranked, "rank correlation with the layers' worth", folder / "correlations.png")
    pairs = [correlation(truth[a], truth[b]) for a in range(seeds) for b in range(a)]
    table.add_row("worth in another run", f"{np.mean(pairs):.2f}", "")
    console.print(table)


def row(table: Table, name: str, values: list[float]) -> None:
    """Mean and interval over seeds."""
    found = mean_interval(values)
    table.add_row(name, f"{found.mean:.2f}", f"{found.low:.2f} to {found.high:.2f}")


def main(
    out: Annotated[Path, typer.Option(help="Folder for the model and the outcomes.")] = Path("flexora-natural"),
    seeds: Annotated[int, typer.Option(help="Runs of each method.", min=2)] = 5,
    steps: Annotated[int, typer.Option(help="Updates of a run.")] = 60,
    warm_steps: Annotated[int, typer.Option(help="Batches of the warm start.")] = 300,
) -> None:
    """Measure what layers are worth, search with every method, and print the table."""
    keep_to(out, steps=steps, warm_steps=warm_steps)
    model = warmed(out.resolve() / f"model-{warm_steps}", warm_steps)
    compare(
        out.resolve() / f"{steps}-steps",
        seeds,
        lambda seed: worth(model, seed, steps),
        lambda method, seed: scores(model, method, seed, steps),
    )


if __name__ == "__main__":
    typer.run(main)
