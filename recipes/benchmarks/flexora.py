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

"""What a layer search costs a training step, and what training fewer layers saves, in verl's FSDP engine.

    VERL_PLATFORM=cpu python recipes/benchmarks/flexora.py

The engine trains in one process, on the demo's task, with its model in twelve layers. Arms alternate; each step of an
arm stands over the stock step before it. Reported: median of the ratios and the middle 80 % of them.
"""

import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
import verl  # noqa: F401  loads the plugin
from prompt_pool import middle

from verl_redit.demo import model as demo
from verl_redit.demo import task
from verl_redit.demo.engine import build, join, supervised_batch, update

LAYERS, ROWS, RANK = 12, 64, 8
SEARCHES = {
    "align": {"method": "align"},
    "first_order, a quarter held out": {"method": "first_order"},
    "unrolled, one inner step": {"method": "unrolled"},
    "sign": {"method": "sign"},
    "grad_norm": {"method": "grad_norm"},
}
FEWER = {"the upper half": range(6), "the upper quarter": range(9)}


def prepared(folder: Path) -> Path:
    """A random model of the demo's shape with more layers."""
    problems = task.problems(64, 0, "train")
    tokenizer = demo.build_tokenizer([f"{problem.question}\n{problem.solution()}" for problem in problems])
    demo.save(demo.build_model(tokenizer, 0, LAYERS), tokenizer, folder)
    return folder


def rows(tokenizer):
    """One batch of the demo's problems with their solutions."""
    pairs = [demo.encode(tokenizer, demo.bare(row), row.solution()) for row in task.problems(ROWS, 0, "train")]
    ids = [torch.tensor(prompt + answer) for prompt, answer in pairs]
    masks = [torch.tensor([0] * len(prompt) + [1] * len(answer)) for prompt, answer in pairs]
    return ids, masks


def seconds(engine, data) -> float:
    began = time.perf_counter()
    update(engine, data)
    return time.perf_counter() - began


def main(rounds: Annotated[int, typer.Option(min=10, help="Steps of each arm.")] = 30) -> None:
    """Measure and print JSON."""
    with tempfile.TemporaryDirectory() as scratch:
        join(0, 1, Path(scratch) / "store")
        model = prepared(Path(scratch) / "model")
        stock = build(model, lora_rank=RANK)
        ids, masks = rows(stock.model_config.tokenizer)
        number = itertools.count()

        def batch():
            return supervised_batch(ids, masks, ROWS // 4, ROWS)

        def over_stock(engine) -> list[float]:
            ratios = []
            for step in range(rounds + 3):
                base = seconds(stock, batch())
                if step >= 3:
                    ratios.append(seconds(engine, batch()) / base)
                else:
                    seconds(engine, batch())
            return middle(ratios)

        def searching(settings: dict):
            node = {**settings, "search_steps": 10**6, "output": f"{scratch}/{next(number)}"}
            return build(model, node, lora_rank=RANK)

        def without(layers, stop_backward: bool):
            """An engine whose lower layers have no LoRA."""
            excluded = rf"model\.layers\.(?:{'|'.join(map(str, layers))})\..*"
            node = {"method": "all", "output": f"{scratch}/{next(number)}", "stop_backward": stop_backward}
            return build(model, node, lora_rank=RANK, exclude_modules=excluded)

        figures = {name: over_stock(searching(settings)) for name, settings in SEARCHES.items()}
        for (name, layers), stop in itertools.product(FEWER.items(), (False, True)):
            told = f"LoRA on {name} of the layers" + (", stop_backward" if stop else "")
            figures[told] = over_stock(without(layers, stop))
        torch.distributed.destroy_process_group()
    print(json.dumps({f"a step with {name}, over stock": figure for name, figure in figures.items()}, indent=1))


if __name__ == "__main__":
    typer.run(main)
