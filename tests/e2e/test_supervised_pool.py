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

"""Supervised fine-tuning on a prompt pool by the recipe's script: two FSDP2 ranks, stopped and resumed."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
STEPS_PER_EPOCH = 6


@pytest.fixture(scope="module")
def on_pool(finetune, conversations):
    """Two epochs of six steps with a checkpoint after every third."""
    settings = [
        "paft.grid.items=4", f"data.val_files={conversations / 'val.parquet'}",
        "data.max_length=768",
        "trainer.total_epochs=2", "trainer.save_freq=3", "trainer.test_freq=6",
    ]  # fmt: skip
    return lambda folder, *overrides: finetune("paft_sft/run_qwen2_5_fsdp.sh", folder, *settings, *overrides)


@pytest.fixture(scope="module")
def whole(on_pool, tmp_path_factory):
    return on_pool(tmp_path_factory.mktemp("whole") / "run")


def steps_of(folder: Path) -> dict[int, tuple[float, int]]:
    """Step -> loss and tokens; prompts differ in length, so other pairs of row and template give other tokens."""
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        entry["step"]: (round(entry["data"]["train/loss"], 5), entry["data"]["train/global_tokens"])
        for entry in entries
        if "train/loss" in entry["data"]
    }


def test_epochs_differ_in_their_templates(whole):
    steps = steps_of(whole)
    assert list(steps) == list(range(1, 2 * STEPS_PER_EPOCH + 1))
    assert len({tokens for _, tokens in steps.values()}) > STEPS_PER_EPOCH


def test_the_grid_is_validated(whole):
    losses = [
        entry["data"]["val/loss"]
        for entry in map(json.loads, (whole / "metrics.jsonl").read_text().splitlines())
        if "val/loss" in entry["data"]
    ]
    assert len(losses) == 2 and losses[1] < losses[0]


@pytest.mark.parametrize("step", [3, STEPS_PER_EPOCH], ids=["mid-epoch", "end of an epoch"])
def test_a_resumed_run_draws_the_same_pairs(whole, on_pool, tmp_path, step):
    resumed = on_pool(
        tmp_path / "run", "trainer.resume_mode=resume_path",
        f"trainer.resume_from_path={whole / 'cycle/seed0' / f'global_step_{step}'}",
    )  # fmt: skip
    assert steps_of(resumed) == {number: values for number, values in steps_of(whole).items() if number > step}
