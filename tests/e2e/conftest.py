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

"""One tiny model and one set of problems for runs of the real trainers, most of them by the recipes' own scripts."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftConfig
from rich.console import Console
from transformers import AutoModelForCausalLM
from verl.utils.reward_score import default_compute_score

from verl_redit.demo import run, task
from verl_redit.demo.process import run_to_end
from verl_redit.demo.run import Arm
from verl_redit.demo.workspace import Sizes, prepare
from verl_redit.flexora.layers import layer_of, lora_factor
from verl_redit.flexora.selection import load
from verl_redit.paft.config import Grid

RECIPES = Path(__file__).parents[2] / "recipes"
SIZES = Sizes(steps=2, prompts=8, rollouts=4, ranks=1, seed=0, warm_steps=80, problems=256)
STD = 0.1
CLOSED = "trainer.v1.trainer_mode=redit_sync"
GRID = Grid(items=4, templates=5)
POOL_SETTINGS = [
    "paft.pool=gsm8k",
    f"paft.grid.items={GRID.items}",
    f"paft.grid.templates={GRID.templates}",
    "data.max_prompt_length=640",
    "actor_rollout_ref.rollout.max_model_len=704",
    "data.filter_overlong_prompts=true",
    # workers that draw ahead of the checkpoint
    "data.dataloader_num_workers=2",
]
# what a recipe's script needs here, with data of its own
SMALL = [
    "+host=cpu", "trainer.total_training_steps=2", "trainer.val_before_train=false", "trainer.test_freq=-1",
    "data.train_batch_size=8", "actor_rollout_ref.actor.ppo_mini_batch_size=8",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=8",
    "actor_rollout_ref.rollout.n=2", "data.max_prompt_length=768", "data.max_response_length=32",
]  # fmt: skip
# adapters go to vLLM; the demo's command merges them
ADAPTERS = "actor_rollout_ref.model.lora.merge=false"
TWO_UPDATES = [
    f"actor_rollout_ref.actor.ppo_mini_batch_size={SIZES.prompts // 2}",
    f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={SIZES.rollouts}",
    "actor_rollout_ref.rollout.calculate_log_probs=true",
]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Path:
    """A folder with the demo's model and data."""
    folder = tmp_path_factory.mktemp("workspace")
    prepare(folder, SIZES, Console())
    return folder


def run_script(script: str, folder: Path, overrides: list[str], sizes: Sizes = SIZES, **block: str) -> Path:
    """Run a recipe's script with this in its user block; returns the folder with its log and metrics."""
    variables = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OUTPUT_DIR": str(folder), **block}
    arguments = ["env", *(f"{name}={value}" for name, value in variables.items()), "bash", str(RECIPES / script)]
    run_to_end([*arguments, *overrides, f"hydra.run.dir={folder / 'hydra'}"], folder, script, sizes, Console())
    return folder


@pytest.fixture(scope="session")
def train(workspace) -> Callable[..., Path]:
    """Run GRPO through verl's entry point, with ReDit unless told otherwise, or through a recipe's script; returns the
    folder with its log, metrics and rollouts."""

    def to_the_end(
        folder: Path,
        *overrides: str,
        redit: bool = True,
        script: str | None = None,
        block: dict[str, str] | None = None,
        **sizes: int,
    ) -> Path:
        chosen = replace(SIZES, **sizes)
        if script:
            settings = run.settings(workspace, folder, chosen, folder.name)
            return run_script(script, folder, [*settings, *overrides], chosen, **(block or {}))
        arm = Arm("with ReDit", ["+redit=gaussian", f"redit.std={STD}"]) if redit else Arm("stock")
        arguments = [*run.command(workspace, folder, chosen, arm), *overrides]
        run_to_end(arguments, folder, arm.title, chosen, Console())
        return folder

    return to_the_end


@pytest.fixture(scope="session")
def conversations(tmp_path_factory) -> Path:
    """A folder with supervised rows, train and val."""
    folder = tmp_path_factory.mktemp("conversations")
    for split, count in [("train", 200), ("val", 40)]:
        task.write_conversations(task.problems(count, 0, split), folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="session")
def finetune(workspace, conversations) -> Callable[..., Path]:
    """Run a recipe's script for verl's supervised trainer on two FSDP2 ranks, six steps an epoch; returns the folder
    with log and metrics."""

    def to_the_end(script: str, folder: Path, *overrides: str, **block: str) -> Path:
        settings = [
            "+host=cpu_sft", f"data.train_files={conversations / 'train.parquet'}", "data.val_files=null",
            "trainer.test_freq=-1", "data.train_batch_size=32", "optim.lr=1e-3",
        ]  # fmt: skip
        block = {"MODEL_PATH": str(workspace / "model"), "NUM_GPUS": "2", **block}
        return run_script(script, folder, [*settings, *overrides], replace(SIZES, ranks=2), **block)

    return to_the_end


@pytest.fixture(scope="session")
def first_stage(finetune, workspace) -> Callable[[Path], Path]:
    """Run the suite's first script: a pool, a search of one update, and a merged model in which the chosen layers alone
    differ; returns the stage's folder."""

    def to_the_end(folder: Path) -> Path:
        finetune(
            "suite_gsm8k/run_1_supervised_qwen2_5_fsdp.sh", folder, "data.max_length=768", "trainer.total_epochs=1",
            "flexora.search_steps=1", "flexora.k=2", "flexora.accept_noise=true",
        )  # fmt: skip
        stage = folder / "supervised/seed0"
        chosen = {unit.name for unit in load(stage / "flexora/selection.json").chosen}
        modules = PeftConfig.from_pretrained(str(stage / "adapter")).target_modules
        assert len(chosen) == 2 and {".".join(module.split(".")[:3]) for module in modules} == chosen
        base, merged = (
            AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (workspace / "model", stage / "model")
        )
        assert {name.removesuffix(".weight") for name in base if not base[name].equal(merged[name])} == set(modules)
        return stage

    return to_the_end


@pytest.fixture(scope="session")
def rows_of_question(workspace) -> dict[str, list[int]]:
    """Question -> its rows in the training data."""
    rows: dict[str, list[int]] = {}
    for row in pq.read_table(workspace / "train.parquet").to_pylist():
        rows.setdefault(row["extra_info"]["question"], []).append(row["extra_info"]["index"])
    return rows


def rows_of(dump: Path) -> list[dict]:
    """The rows of one of verl's dumps."""
    return [json.loads(line) for line in dump.read_text().splitlines()]


def noise_of(dump: Path, questions: Iterable[str]) -> dict[tuple[str, int, int], float]:
    """What was added to the scorer's reward in verl's dump of one step: (question, session, nth such row) -> noise."""
    noise: dict[tuple[str, int, int], float] = {}
    for row in rows_of(dump):
        [question] = [question for question in questions if question in row["input"]]
        session = int(row["uid"].split("_")[1])
        nth = sum(key[:2] == (question, session) for key in noise)
        noise[question, session, nth] = row["score"] - default_compute_score(
            task.DATA_SOURCE, row["output"], row["gts"]
        )
    return noise


def metrics_of(folder: Path) -> dict[int, dict[str, float]]:
    """Step -> metrics, from verl's file logger."""
    entries = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {entry["step"]: entry["data"] for entry in entries}


def same_log_probs(folder: Path) -> bool:
    """Whether the actor and vLLM agree in each step; B is zero in the first, and after a switch in the next."""
    steps = {step: of for step, of in metrics_of(folder).items() if "training/rollout_probs_diff_max" in of}
    return len(steps) > 1 and all(of["training/rollout_probs_diff_max"] < 1e-5 for of in steps.values())


def trained_layers(checkpoint: Path) -> set[str]:
    """Layers with LoRA in an FSDP checkpoint of verl's."""
    shard = next(checkpoint.glob("model_world_size_*_rank_0.pt"))
    names = torch.load(shard, weights_only=False, map_location="cpu")
    return {layer_of(factor[0]) for name in names if (factor := lora_factor(name))}
