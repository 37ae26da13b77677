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

    VERL_PLATFORM=cpu OMP_NUM_THREADS=1 python recipes/benchmarks/flexora.py

The engine trains in one process, on the demo's task, with its model in twelve layers.

Time: arms alternate; each step of an arm stands over the stock step before it. Reported: median of the ratios and the
middle 80 % of them.

Memory: the most bytes that tensors hold at one time in the first two steps, less the same of stock, in copies of the
LoRA gradients. What a search keeps from step to step is counted, and so are momenta, which are the same in both. Ranks
are large and rows short there, so that the peak is one of gradients: where activations are larger, they may hide a copy
that is not held at their peak, and the figure is an upper bound.

Synced bytes: what the engine hands to vLLM at a weight sync once the base weights are there.
"""

import gc
import itertools
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import torch
import typer
import verl  # noqa: F401  loads the plugin
from prompt_pool import middle
from torch.profiler import ProfilerActivity, profile

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
# the layers that have no LoRA
FEWER = {"the upper half": range(6), "the upper quarter": range(9)}


def prepared(folder: Path) -> Path:
    """A random model of the demo's shape with more layers."""
    problems = task.problems(64, 0, "train")
    tokenizer = demo.build_tokenizer([f"{problem.question}\n{problem.solution()}" for problem in problems])
    demo.save(demo.build_model(tokenizer, 0, LAYERS), tokenizer, folder)
    return folder


def regex_of(layers: Iterable[int]) -> str:
    """PEFT's ``exclude_modules`` for these layers."""
    return rf"model\.layers\.(?:{'|'.join(map(str, layers))})\..*"


def searching(model: Path, settings: dict, rank: int = RANK):
    node = {**settings, "search_steps": 10**6, "output": tempfile.mkdtemp(dir=model.parent)}
    return build(model, node, lora_rank=rank)


def without(model: Path, layers: range, stop_backward: bool = False):
    """An engine that trains a selection without these layers, the lowest."""
    output = tempfile.mkdtemp(dir=model.parent)
    build(model, {"method": "last", "k": LAYERS - len(layers), "output": output}, lora_rank=RANK)
    node = {"mode": "selected", "selection": f"{output}/selection.json", "stop_backward": stop_backward}
    return build(model, node, lora_rank=RANK, exclude_modules=regex_of(layers))


def times(model: Path, stock, rounds: int) -> dict[str, list[float]]:
    """Seconds of each arm's steps over those of stock."""
    tokenizer = stock.model_config.tokenizer
    pairs = [demo.encode(tokenizer, demo.bare(row), row.solution()) for row in task.problems(ROWS, 0, "train")]
    ids = [torch.tensor(prompt + answer) for prompt, answer in pairs]
    masks = [torch.tensor([0] * len(prompt) + [1] * len(answer)) for prompt, answer in pairs]

    def seconds(engine) -> float:
        data = supervised_batch(ids, masks, ROWS // 4, ROWS)
        began = time.perf_counter()
        update(engine, data)
        return time.perf_counter() - began

    def over_stock(engine) -> list[float]:
        pairs = [(seconds(stock), seconds(engine)) for _ in range(rounds + 3)]
        return middle([of_arm / of_stock for of_stock, of_arm in pairs[3:]])  # the first ones warm up

    figures = {name: over_stock(searching(model, settings)) for name, settings in SEARCHES.items()}
    for (name, layers), stop in itertools.product(FEWER.items(), (False, True)):
        told = f"LoRA on {name} of the layers" + (", stop_backward" if stop else "")
        figures[told] = over_stock(without(model, layers, stop))
    return figures


def peak(engine, trace: Path) -> int:
    """The most bytes that tensors hold at one time in two steps, above those held before."""
    rows = [torch.arange(8) + number for number in range(8)]
    masks = [torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])] * len(rows)
    gc.collect()  # what earlier engines held would be freed within the steps
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(2):
            update(engine, supervised_batch(rows, masks, 2, len(rows)))
    profiler.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    return max(itertools.accumulate(event["args"]["Bytes"] for event in events))


def memory(model: Path) -> dict[str, float]:
    """Copies of the LoRA gradients that each search holds above stock."""
    rank, trace = 64, model.parent / "trace.json"
    stock = build(model, lora_rank=rank)
    copy = sum(value.nbytes for value in stock.module.parameters() if value.requires_grad)
    base = peak(stock, trace)
    return {
        name: round((peak(searching(model, settings, rank), trace) - base) / copy, 2)
        for name, settings in SEARCHES.items()
    }


def synced_bytes(engine) -> int:
    tensors, _ = engine.get_per_tensor_param(base_sync_done=True)
    return sum(tensor.nbytes for _, tensor in tensors)


def main(rounds: Annotated[int, typer.Option(min=10, help="Steps of each arm.")] = 30) -> None:
    """Measure and print JSON."""
    with tempfile.TemporaryDirectory() as scratch:
        join(0, 1, Path(scratch) / "store")
        model = prepared(Path(scratch) / "model")
        stock = build(model, lora_rank=RANK)
        synced = {"all layers": synced_bytes(stock)}
        synced |= {name: synced_bytes(without(model, layers)) for name, layers in FEWER.items()}
        result = {
            "bytes synced with LoRA on": synced,
            "copies of the LoRA gradients at the peak of a step, above stock": memory(model),
            "seconds of a step, over stock": times(model, stock, rounds),
        }
        torch.distributed.destroy_process_group()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    typer.run(main)
