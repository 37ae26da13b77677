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
scores with the worth. The last row is how well the worth itself agrees from one run to another, which no method can
beat. Seeds differ in the adapter and the order of rows, not in the warmed-up model; a search has another seed than the
run that it is compared with. What is done is not done again.
"""

import json
import random
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
import verl  # noqa: F401  loads the plugin
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats

from verl_redit.demo import model as demo
from verl_redit.demo import task
from verl_redit.demo.engine import build, join, loss, supervised_batch, update
from verl_redit.flexora.evidence import correlation
from verl_redit.flexora.layers import layer_of, lora_factor
from verl_redit.flexora.scores import METHODS
from verl_redit.flexora.selection import load

LAYERS, RANK, ROWS = 12, 8, 32
OTHER_SEED = 1000


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
    whole = loss(engine, held_out)
    of_layer: dict[str, list[torch.Tensor]] = {}
    for name, parameter in engine.module.named_parameters():
        if (factor := lora_factor(name)) and factor[1] == "B":
            of_layer.setdefault(layer_of(factor[0]), []).append(parameter.data)
    rises = []
    for tensors in of_layer.values():
        kept = [tensor.clone() for tensor in tensors]
        for tensor in tensors:
            tensor.zero_()
        rises.append(loss(engine, held_out) - whole)
        for tensor, before in zip(tensors, kept, strict=True):
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


def once(file: Path, compute) -> list[float]:
    """What was computed before, or now."""
    if not file.is_file():
        file.write_text(json.dumps(compute()))
    return json.loads(file.read_text())


def main(
    out: Annotated[Path, typer.Option(help="Folder for the model and the outcomes.")] = Path("flexora-natural"),
    seeds: Annotated[int, typer.Option(help="Runs of each method.")] = 5,
    steps: Annotated[int, typer.Option(help="Updates of a run.")] = 60,
    warm_steps: Annotated[int, typer.Option(help="Batches of the warm start.")] = 300,
) -> None:
    """Measure what layers are worth, search with every method, and print the table."""
    console = Console()
    folder = out.resolve() / f"{steps}-steps"
    folder.mkdir(parents=True, exist_ok=True)
    model = warmed(out.resolve() / f"model-{warm_steps}", warm_steps)
    methods = [method for method in METHODS if method != "all"]
    with tempfile.TemporaryDirectory() as store:
        join(0, 1, Path(store) / "store")
        truth = [
            once(folder / f"worth-{seed}.json", lambda seed=seed: worth(model, seed, steps))
            for seed in track(range(seeds), "worth", console=console)
        ]
        found = {
            (method, seed): once(
                folder / f"{method}-{seed}.json", lambda method=method, seed=seed: scores(model, method, seed, steps)
            )
            for method, seed in track([(m, s) for m in methods for s in range(seeds)], "searches", console=console)
        }
        torch.distributed.destroy_process_group()
    console.print("worth of each layer, nats a token:", np.mean(truth, axis=0).round(4).tolist())
    table = Table("method", "rank correlation with the layers' worth", "95 % t interval")
    for method in methods:
        row(table, method, [correlation(np.array(found[method, seed]), np.array(truth[seed])) for seed in range(seeds)])
    pairs = [correlation(np.array(truth[a]), np.array(truth[b])) for a in range(seeds) for b in range(a)]
    table.add_row("worth in another run", f"{np.mean(pairs):.2f}", "")
    console.print(table)


def row(table: Table, name: str, values: list[float]) -> None:
    """Mean and interval over seeds."""
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    table.add_row(name, f"{np.mean(values):.2f}", f"{low:.2f} to {high:.2f}")


if __name__ == "__main__":
    typer.run(main)
