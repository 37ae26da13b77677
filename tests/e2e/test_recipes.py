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

"""Every recipe's own script for two steps, with the demo's model; GSM8K's on the real data set.

`redit_geo3k` is not among them: verl reads images with qwen_vl_utils, which needs torchvision, whose published wheels
load beside a CUDA build of torch alone.
"""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from peft import PeftConfig
from transformers import AutoModelForCausalLM

from tests.e2e.conftest import metrics_of, rows_of, trained_layers
from verl_redit.flexora.selection import load
from verl_redit.paft.pool_file import load as load_pool

pytestmark = pytest.mark.e2e
RECIPES = Path(__file__).parents[2] / "recipes"
PROMPTS, ROLLOUTS, STD = 8, 2, 0.0289
GRPO = [
    "+host=cpu", "trainer.total_training_steps=2", "trainer.val_before_train=False", "trainer.test_freq=-1",
    f"data.train_batch_size={PROMPTS}", f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS}",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=8",
    f"actor_rollout_ref.rollout.n={ROLLOUTS}", "data.max_prompt_length=1280", "data.max_response_length=32",
]  # fmt: skip
SUPERVISED = ["+host=cpu_sft", "trainer.total_training_steps=2", "trainer.test_freq=-1", "data.max_length=2048"]


def run(script: str, data: Path, output: Path, overrides: list[str], **settings: str) -> Path:
    """Run a recipe's script with these settings of its user block; returns the folder with metrics.jsonl."""
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DATA_DIR": str(data),
        "OUTPUT_DIR": str(output), "VERL_FILE_LOGGER_PATH": str(output / "metrics.jsonl"), **settings,
    }  # fmt: skip
    output.mkdir(exist_ok=True)
    result = subprocess.run(
        ["bash", RECIPES / script, *overrides], env=environment, cwd=output, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return output


def prepare(dataset: str, source: Path, out: Path) -> Path:
    command = [sys.executable, RECIPES / "prepare.py", dataset, "--source", source, "--out", out]
    subprocess.run(command, check=True)
    return out


@pytest.fixture(scope="module")
def gsm8k(gsm8k_source, tmp_path_factory) -> Path:
    """The first rows of the real GSM8K, prepared."""
    source = tmp_path_factory.mktemp("source")
    for split in ("train", "test"):
        with (gsm8k_source / f"{split}.jsonl").open() as rows:
            (source / f"{split}.jsonl").write_text("".join(islice(rows, 128)))
    return prepare("gsm8k", source, source / "prepared")


@pytest.fixture(scope="module")
def model(workspace) -> str:
    return str(workspace / "model")


def dithered(metrics: dict) -> bool:
    """Whether rewards are noise alone: the tiny model answers no real problem, so every raw reward is 0."""
    return 0 < metrics["critic/score/max"] < 5 * STD and metrics["actor/grad_norm"] > 0


def test_redit_gsm8k(gsm8k, model, tmp_path):
    metrics = metrics_of(run("redit_gsm8k/run_qwen2_5_fsdp.sh", gsm8k, tmp_path / "out", GRPO, MODEL_PATH=model))
    assert list(metrics) == [1, 2] and all(dithered(step) for step in metrics.values())


def test_redit_math(model, tmp_path):
    for split in ("train", "test"):
        rows = [
            {"problem": f"What is ${a} + 1$?", "solution": f"\\boxed{{{a + 1}}}", "level": "Level 1", "type": "Algebra"}
            for a in range(16)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = prepare("math", tmp_path, tmp_path / "data")
    metrics = metrics_of(run("redit_math/run_qwen2_5_fsdp.sh", data, tmp_path / "out", GRPO, MODEL_PATH=model))
    assert list(metrics) == [1, 2] and all(dithered(step) for step in metrics.values())


def test_paft_gsm8k(gsm8k, model, tmp_path):
    rollouts = f"trainer.rollout_data_dir={tmp_path / 'rollouts'}"
    out = run("paft_gsm8k/run_qwen2_5_fsdp.sh", gsm8k, tmp_path / "out", [*GRPO, rollouts], MODEL_PATH=model)
    assert list(metrics_of(out)) == [1, 2]
    train = {template.id for template in load_pool("gsm8k").templates if template.split == "train"}
    shown = [row["template_id"] for step in (1, 2) for row in rows_of(tmp_path / "rollouts" / f"{step}.jsonl")]
    assert len(shown) == 2 * PROMPTS * ROLLOUTS and len(set(shown)) == 2 * PROMPTS and set(shown) <= train


def test_flexora_gsm8k(gsm8k, model, tmp_path):
    short = ["flexora.search_steps=1", "flexora.k=1", "flexora.accept_noise=true"]
    out = run("flexora_gsm8k/run_qwen2_5_fsdp.sh", gsm8k, tmp_path / "out", [*GRPO, *short], MODEL_PATH=model)
    assert list(metrics_of(out)) == [1, 2]
    assert len(load(out / "one_run/flexora/selection.json").chosen) == 1


def test_paft_sft(gsm8k, model, tmp_path):
    out = run("paft_sft/run_qwen2_5_fsdp.sh", gsm8k, tmp_path / "out", SUPERVISED, MODEL_PATH=model)
    assert list(metrics_of(out)) == [1, 2]
    assert (out / "cycle/global_step_2").is_dir()


def test_flexora_sft_search_and_then_what_it_chose(gsm8k, model, tmp_path):
    short = [*SUPERVISED, "flexora.search_steps=2", "flexora.k=2", "flexora.accept_noise=true"]
    for stage in ("search", "selected"):
        run("flexora_sft/run_qwen2_5_fsdp.sh", gsm8k, tmp_path, short, MODEL_PATH=model, FLEXORA=stage)
    chosen = load(tmp_path / "search/flexora/selection.json").chosen
    assert trained_layers(tmp_path / "selected/global_step_2") == {unit.name for unit in chosen}


def test_suite_gsm8k(gsm8k, model, tmp_path):
    short = [*SUPERVISED, "flexora.search_steps=1", "flexora.k=2", "flexora.accept_noise=true"]
    run("suite_gsm8k/run_1_supervised_qwen2_5_fsdp.sh", gsm8k, tmp_path, short, MODEL_PATH=model)
    selection = load(tmp_path / "supervised/flexora/selection.json")
    modules = PeftConfig.from_pretrained(str(tmp_path / "adapter")).target_modules
    assert {unit.name for unit in selection.chosen} == {".".join(module.split(".")[:3]) for module in modules}
    base, merged = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (model, tmp_path / "model"))
    changed = {name.removesuffix(".weight") for name in base if not base[name].equal(merged[name])}
    assert changed == {module.removeprefix("base_model.model.") for module in modules}

    (tmp_path / "metrics.jsonl").unlink()
    second = [*GRPO, "flexora.accept_noise=true", "trainer.save_freq=2"]
    run("suite_gsm8k/run_2_grpo_qwen2_5_fsdp.sh", gsm8k, tmp_path, second)
    metrics = metrics_of(tmp_path)
    assert list(metrics) == [1, 2] and metrics[2]["paft/templates"] == PROMPTS
    assert metrics[2]["redit/effective_std"] == pytest.approx(STD, rel=0.5)
    assert trained_layers(tmp_path / "grpo/global_step_2/actor") == {unit.name for unit in selection.chosen}
