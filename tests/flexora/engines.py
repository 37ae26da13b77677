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

"""verl's own FSDP engine on a tiny model, in this process or in several, with and without Flexora."""

from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from tensordict import TensorDict
from transformers import Qwen2Config, Qwen2ForCausalLM

from verl_redit.demo import engine as local
from verl_redit.demo import model as demo
from verl_redit.demo.engine import join
from verl_redit.demo.task import problems

LAYERS = 6


def save_model(folder: Path, layers: int = LAYERS, seed: int = 0) -> Path:
    """A random Qwen2 that verl loads as any other model."""
    tokenizer = demo.build_tokenizer([problem.question for problem in problems(64, 0, "train")])
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    demo.save(Qwen2ForCausalLM(config), tokenizer, folder)
    return folder


def build(model: Path, flexora: dict[str, Any] | None, **settings: Any):
    """An engine, ready to train; ``flexora`` is its config node, None for verl's own."""
    return local.build(model, flexora, enable_gradient_checkpointing=True, **settings)


def batch(
    step: int, rows: int = 8, repeats: int = 2, rank: int = 0, ranks: int = 1, micro_batch: int = 2
) -> TensorDict:
    """This rank's share of a supervised batch: ``rows`` prompts, each ``repeats`` times with another answer."""
    random = torch.Generator().manual_seed(step)
    ids, masks = [], []
    for row in range(rows):
        prompt = torch.randint(5, 60, (4 + row % 3,), generator=random)
        for _ in range(repeats):
            answer = torch.randint(5, 60, (3 + row % 2,), generator=random)
            ids.append(torch.cat([prompt, answer]))
            masks.append(torch.cat([torch.zeros_like(prompt), torch.ones_like(answer)]))
    own = slice(rank, None, ranks)
    return local.supervised_batch(ids[own], masks[own], micro_batch, rows * repeats)


def train(engine, steps: int, first: int = 0, **share: int) -> list[dict]:
    """Update ``steps`` times on `batch` with this share of it; returns the engine's outputs."""
    return [local.update(engine, batch(step, **share)) for step in range(first, first + steps)]


def parameters(engine) -> dict[str, torch.Tensor]:
    """Copies of the LoRA parameters, whole."""
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
        for name, value in engine.module.named_parameters()
        if "lora_" in name
    }


def _histories(rank: int, ranks: int, model: Path, searches: list[dict[str, Any]], steps: int, folder: Path) -> None:
    torch.set_num_threads(1)
    join(rank, ranks, folder / "store")
    outcomes = []
    for number, flexora in enumerate(searches):
        # plain steps and rows one by one, so that ranks differ by the order of sums alone
        engine = build(model, {**flexora, "output": str(folder / str(number))}, lr=0.1, optimizer={"optimizer": "SGD"})
        train(engine, steps, rank=rank, ranks=ranks, micro_batch=1)
        outcomes.append((engine.record.history(), parameters(engine)))
    if rank == 0:
        torch.save(outcomes, folder / "outcomes.pt")
    torch.distributed.destroy_process_group()


def histories_on(ranks: int, model: Path, searches: list[dict[str, Any]], steps: int, folder: Path) -> list[tuple]:
    """History of each search and the parameters after it, on this many FSDP2 ranks."""
    folder.mkdir()
    torch.multiprocessing.spawn(_histories, (ranks, model, searches, steps, folder), nprocs=ranks)
    return torch.load(folder / "outcomes.pt", weights_only=False)
