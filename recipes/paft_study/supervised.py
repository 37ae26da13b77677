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

"""The paper's claim at small scale, supervised: one template against policies, blocks and sizes of pools.

    python recipes/paft_study/supervised.py policies --out DIR      # also: blocks, pools; arms in common run once

What is run, and when it stops, is in PLAN.md.

Each run is verl's own supervised trainer (`verl.trainer.sft_trainer`, FSDP2, full fine-tuning) on the demo's word
problems, from one tiny model that was warmed up on bare questions. It is judged by greedy answers to test problems
under every held-out template of the pool, written as verl writes its validation dumps, which `verl-redit report
robustness` reads. Arms share the seeds of the rows' order. A run that is finished is not run again.
"""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from seeds import draw, show, summary
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from verl_redit.demo import model, supervised, task
from verl_redit.demo.workspace import keep_to, write_whole
from verl_redit.paft import importing
from verl_redit.paft.pool import Pool, Template, render
from verl_redit.paft.pool_file import load
from verl_redit.paft.scoring import compute_score


@dataclass(frozen=True)
class Arm:
    """What differs between runs.

    Args:
        policy: which template a draw gets.
        block: draws that share one with policy ``block``.
        templates: how many of the pool's train templates there are, drawn by the seed; None for all.
    """

    policy: str
    block: int = 4
    templates: int | None = None


ARMS = {
    **{policy: Arm(policy) for policy in ("fixed", "static", "uniform", "cycle")},
    **{f"block-{size}": Arm("block", block=size) for size in (1, 4, 16, 64)},
    **{f"pool-{count}": Arm("cycle", templates=count) for count in (1, 3, 12)},
}


class Study(str, Enum):
    """Which arms."""

    policies = "policies"
    blocks = "blocks"
    pools = "pools"


STUDIES = {
    Study.policies: ["fixed", "static", "uniform", "block-4", "cycle"],
    Study.blocks: ["block-1", "block-4", "block-16", "block-64"],
    Study.pools: ["pool-1", "pool-3", "pool-12", "cycle"],
}
POOL = "gsm8k"
VOCABULARY = 1024
LONGEST_REPLY = 24
RANKS = 2


@dataclass(frozen=True)
class Sizes:
    """How large the study is."""

    seeds: int
    rows: int
    items: int
    epochs: int
    batch: int
    warm_steps: int


def prepare(folder: Path, sizes: Sizes, pool: Pool, console: Console) -> None:
    """Write the warmed-up model and the rows."""
    if (folder / "model" / "config.json").is_file():
        return
    problems = task.problems(sizes.rows, 0, "train")
    texts = [turn["content"] for template in pool.of_split("train") for turn in render(template, {"question": ""})]
    tokenizer = model.build_tokenizer([*texts, *(f"{row.question}\n{row.solution()}" for row in problems)], VOCABULARY)
    with console.status("warm start"):
        warmed = model.warm_start(problems, tokenizer, 0, sizes.warm_steps, lambda step, loss: None)
    task.write_conversations(problems, folder / "train.parquet")
    model.save(warmed, tokenizer, folder / "model")


def shown(folder: Path, pool: Pool, arm: Arm, seed: int) -> str:
    """The pool of an arm, as ``paft.pool`` takes it; a smaller one holds what the next larger one of the seed holds."""
    if arm.templates is None:
        return POOL
    train = pool.of_split("train")
    kept = random.Random(f"{seed}/pool").sample(train, len(train))[: arm.templates]
    file = folder / f"pool-{arm.templates}-{seed}.yaml"
    if not file.is_file():
        importing.write(replace(pool, templates=(*kept, *pool.of_split("held_out"))), file)
    return str(file)


def train(folder: Path, run: Path, pool: Pool, arm: Arm, seed: int, sizes: Sizes) -> Path:
    """Run verl's supervised trainer; returns the folder of the trained model."""
    steps = sizes.rows // sizes.batch * sizes.epochs
    trained, done = run / "checkpoints" / f"global_step_{steps}" / "huggingface", run / "trained"
    if done.exists():
        return trained
    supervised.train(
        folder / "model", folder / "train.parquet", run, "+paft=sft",
        f"paft.pool={shown(folder, pool, arm, seed)}", f"paft.seed={seed}", f"paft.policy={arm.policy}",
        f"paft.block={arm.block}", "data.val_files=null", f"data.train_batch_size={sizes.batch}",
        f"data.micro_batch_size_per_gpu={sizes.batch // RANKS}", "data.max_length=512",
        "+engine.mixed_precision={param_dtype:float32,reduce_dtype:float32,buffer_dtype:float32}",
        f"trainer.total_epochs={sizes.epochs}", "trainer.save_freq=-1", "checkpoint.save_contents=[hf_model]",
        "trainer.resume_mode=disable", ranks=RANKS,
    )  # fmt: skip
    done.touch()
    return trained


def judge(run: Path, trained: Path, pool: Pool, sizes: Sizes) -> None:
    """Write the answers to every test problem under every held-out template, and under the one that `fixed` trains."""
    for folder, templates in [("validation", pool.of_split("held_out")), ("seen", pool.of_split("train")[:1])]:
        dump = run / folder / "1.jsonl"
        if not dump.is_file():
            lines = answers(trained, templates, sizes.items)
            dump.parent.mkdir(exist_ok=True)
            write_whole(dump, "".join(json.dumps(entry) + "\n" for entry in lines))


def answers(trained: Path, templates: list[Template], items: int) -> list[dict]:
    """Lines of a dump: greedy answers to test problems under each template."""
    tokenizer = AutoTokenizer.from_pretrained(trained)
    weights = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    lines = []
    for template in templates:
        problems = task.problems(items, 0, "test")
        prompts = [render(template, {"question": problem.question}) for problem in problems]
        for item, reply in enumerate(answer(weights, tokenizer, prompts)):
            lines.append(line(template, item, str(problems[item].answer), reply))
    return lines


@torch.no_grad()
def answer(weights: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[dict]]) -> Iterable[str]:
    """Greedy replies."""
    tokenizer.padding_side = "left"
    texts = [tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False) for prompt in prompts]
    batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
    output = weights.generate(**batch, max_new_tokens=LONGEST_REPLY, do_sample=False)  # type: ignore[operator]
    return tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def line(template: Template, item: int, gold: str, reply: str) -> dict:
    """One line as verl's validation dumps have it."""
    labels = {
        "contract": template.contract, "template_id": template.id, "tier": template.tier,
        "item_id": f"{task.DATA_SOURCE}/{item}",
    }  # fmt: skip
    scored = compute_score(task.DATA_SOURCE, reply, gold, labels)
    return {"input": "", "output": reply, "gts": gold, "step": 1, "uid": f"{template.id}-{item}_0_0", **scored}


def main(
    study: Annotated[Study, typer.Argument(help="Which arms.")],
    out: Annotated[Path, typer.Option(help="Folder for the model, the rows and the runs.")] = Path("paft-study"),
    seeds: Annotated[int, typer.Option(help="Runs of each arm.", min=2)] = 5,
    rows: Annotated[int, typer.Option(help="Training rows.")] = 2048,
    items: Annotated[int, typer.Option(help="Test problems under each template.")] = 64,
    epochs: Annotated[int, typer.Option(help="Passes over the rows.")] = 4,
    batch: Annotated[int, typer.Option(help="Rows in a step.")] = 32,
    warm_steps: Annotated[int, typer.Option(help="Batches of the warm start.")] = 450,
) -> None:
    """Train and judge every arm of the study with every seed, and print the table."""
    console = Console()
    folder, sizes, pool = out.resolve(), Sizes(seeds, rows, items, epochs, batch, warm_steps), load(POOL)
    keep_to(folder, rows=rows, items=items, epochs=epochs, batch=batch, warm_steps=warm_steps)
    prepare(folder, sizes, pool, console)
    runs = {arm: [folder / f"{arm}-{seed}" for seed in range(seeds)] for arm in STUDIES[study]}
    pairs = [(arm, seed) for seed in range(seeds) for arm in STUDIES[study]]
    for arm, seed in track(pairs, description="runs", console=console):
        run = runs[arm][seed]
        judge(run, train(folder, run, pool, ARMS[arm], seed, sizes), pool, sizes)
    seen, unseen = (
        {arm: [run / dumps / "1.jsonl" for run in folders] for arm, folders in runs.items()}
        for dumps in ("seen", "validation")
    )
    # policies are judged against two of them, a curve by its ends
    bases = ["fixed", "cycle"] if study is Study.policies else [next(iter(runs))]
    of_tier = {"trained template": summary(seen, bases)["all"], **summary(unseen, bases)}
    (folder / f"{study.value}.json").write_text(json.dumps(of_tier, indent=1))
    draw(unseen, folder / f"{study.value}.png")
    show(of_tier, console)


if __name__ == "__main__":
    typer.run(main)
