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

"""Planted truth: a transformer in which only known layers can lower the loss. Does a search find them?

    VERL_PLATFORM=cpu python recipes/flexora_study/planted.py --out DIR

A token is a pair of a signal and a noise symbol, and the answer is a function of the signal alone. The residual stream
keeps the two apart: the planted layers read the half that holds the signal, the others the half that holds the noise,
so that LoRA there has gradients of the same kind, but nothing to learn. Each seed plants other layers and another
function. Searches run in verl's FSDP engine, as in training. A search that is done is not repeated.
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
from transformers import Qwen2Config, Qwen2ForCausalLM

from verl_redit.comparison.figures import mean_interval
from verl_redit.demo import model as demo
from verl_redit.demo.engine import build, join, supervised_batch, update
from verl_redit.demo.workspace import write_whole
from verl_redit.flexora.scores import METHODS
from verl_redit.flexora.selection import load

LAYERS, PLANTED, SYMBOLS, WIDTH = 8, 3, 16, 64
PROMPTS = SYMBOLS**2
ROWS = 64


def plant(folder: Path, seed: int) -> list[int]:
    """Write the model; returns the layers that can learn."""
    tokenizer = demo.build_tokenizer(["planted"])
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=PROMPTS + SYMBOLS, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16, tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    chosen = sorted(random.Random(seed).sample(range(LAYERS), PLANTED))
    constant, half = 0, (WIDTH - 2) // 2
    signal, noise = slice(1, 1 + half), slice(1 + half, 1 + 2 * half)
    with torch.no_grad():
        embedding, head = model.model.embed_tokens.weight.zero_(), model.lm_head.weight.zero_()
        symbols = torch.nn.functional.normalize(torch.randn(2, SYMBOLS, half), dim=-1)
        pairs = torch.arange(PROMPTS)
        embedding[:PROMPTS, signal] = symbols[0, pairs // SYMBOLS]
        embedding[:PROMPTS, noise] = symbols[1, pairs % SYMBOLS]
        embedding[:, constant] = 1.0
        head[:PROMPTS, constant] = -20.0  # no answer is a prompt's token, so there are no base rates to learn
        # small, so that answers begin equally likely and there is nothing to flatten either
        head[PROMPTS:, signal] = 0.3 * torch.randn(SYMBOLS, half) / half**0.5
        for number, layer in enumerate(model.model.layers):
            own = signal if number in chosen else noise
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight.zero_()[own] = 1.0
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                kept = linear.weight[own].clone()
                linear.weight.zero_()[own] = kept
    demo.save(model, tokenizer, folder)
    return chosen


def batch(seed: int, step: int):
    """Prompts drawn without repeats, and their answers."""
    draw = np.random.default_rng([seed, step])
    answers = np.random.default_rng(seed).permutation(SYMBOLS)
    prompts = draw.permutation(PROMPTS)[:ROWS]
    ids = [torch.tensor([prompt, PROMPTS + answers[prompt // SYMBOLS]]) for prompt in prompts]
    return supervised_batch(ids, [torch.tensor([0, 1])] * ROWS, ROWS // 2, ROWS)


def search(folder: Path, method: str, seed: int, steps: int) -> dict:
    """One search; returns how many of the chosen layers are planted, and whether it beats chance."""
    outcome = folder / f"{method}-{seed}.json"
    if not outcome.is_file():
        with tempfile.TemporaryDirectory() as scratch:
            planted = plant(Path(scratch) / "model", seed)
            settings = {"method": method, "search_steps": steps, "k": PLANTED, "seed": seed, "output": scratch}
            engine = build(Path(scratch) / "model", settings, seed=seed, enable_gradient_checkpointing=False)
            for step in range(steps if METHODS[method].measures else 0):
                update(engine, batch(seed, step))
            selection = load(Path(scratch) / "selection.json")
        chosen = [int(unit.name.rsplit(".", 1)[1]) for unit in selection.chosen]
        found = len(set(chosen) & set(planted))
        figures = {"planted": planted, "chosen": chosen, "found": found, "beats_chance": selection.beats_chance}
        write_whole(outcome, json.dumps(figures))
    return json.loads(outcome.read_text())


def main(
    out: Annotated[Path, typer.Option(help="Folder for the outcomes.")] = Path("flexora-planted"),
    seeds: Annotated[int, typer.Option(help="Models, each with other layers planted.", min=2)] = 10,
    steps: Annotated[int, typer.Option(help="Updates of a search.")] = 40,
) -> None:
    """Search every model with every method, and print the table."""
    console = Console()
    folder = out.resolve() / f"{steps}-steps"
    folder.mkdir(parents=True, exist_ok=True)
    methods = [method for method in METHODS if method != "all"]
    with tempfile.TemporaryDirectory() as store:
        join(0, 1, Path(store) / "store")
        jobs = track([(m, seed) for m in methods for seed in range(seeds)], "searches", console=console)
        found = {(method, seed): search(folder, method, seed, steps) for method, seed in jobs}
        torch.distributed.destroy_process_group()
    share_found = f"share of the {PLANTED} planted layers found"
    table = Table("method", share_found, "95 % t interval", "seeds that found all", "beat chance")
    for method in methods:
        of_method = [found[method, seed] for seed in range(seeds)]
        share = mean_interval([one["found"] / PLANTED for one in of_method])
        ends = f"{share.low:.2f} to {share.high:.2f}"
        whole = sum(one["found"] == PLANTED for one in of_method)
        beat = "" if not METHODS[method].measures else f"{sum(one['beats_chance'] for one in of_method)} of {seeds}"
        table.add_row(method, f"{share.mean:.2f}", ends, f"{whole} of {seeds}", beat)
    console.print(table)
    console.print(f"by chance: {PLANTED / LAYERS:.2f}")


if __name__ == "__main__":
    typer.run(main)
