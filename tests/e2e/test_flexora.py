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

"""Flexora by the recipes' scripts: a supervised search, and both trainers on what it chose."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import ADAPTERS, TWO_UPDATES, same_log_probs, trained_layers
from verl_redit.flexora.selection import load

pytestmark = pytest.mark.e2e


def losses(folder: Path) -> list[float]:
    entries = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [entry["data"]["train/loss"] for entry in entries if "train/loss" in entry["data"]]


SUPERVISED = [
    "data.max_length=256", "model.target_modules=all-linear", "trainer.total_epochs=1", "trainer.save_freq=6",
    "flexora.search_steps=5", "flexora.accept_noise=true",
]  # fmt: skip


@pytest.fixture(scope="module")
def search(finetune, tmp_path_factory):
    """A supervised search. Its choice is accepted as it is: a few updates of a tiny model show nothing."""
    folder = tmp_path_factory.mktemp("search") / "run"
    return finetune("flexora_sft/run_qwen2_5_fsdp.sh", folder, *SUPERVISED, "flexora.k=2", FLEXORA="search")


@pytest.fixture(scope="module")
def selection(search):
    return search / "search/seed0/flexora/selection.json"


def test_supervised_search_and_training_on_its_choice(search, selection, finetune, tmp_path):
    chosen = load(selection)
    assert len(chosen.chosen) == 2 and chosen.scored_steps + chosen.skipped_steps == 5
    script, folder = "flexora_sft/run_qwen2_5_fsdp.sh", tmp_path / "selected"
    run = finetune(script, folder, *SUPERVISED, FLEXORA="selected", OUTPUT_DIR=str(search))  # where the search was
    assert trained_layers(search / "selected/seed0/global_step_6") == {unit.name for unit in chosen.chosen}
    assert trained_layers(search / "search/seed0/global_step_6") == {unit.name for unit in chosen.units}
    assert losses(search)[-1] < losses(search)[0] and losses(run)[-1] < losses(run)[0]


def test_grpo_searches_and_trains_the_chosen_layers_alone_which_reach_vllm(train, tmp_path):
    script = "flexora_gsm8k/run_qwen2_5_fsdp.sh"
    searched = train(
        tmp_path / "search", "flexora.search_steps=4", "flexora.k=1", f"flexora.output={tmp_path / 'chosen'}",
        *TWO_UPDATES, script=script, block={"FLEXORA": "search"},
    )  # fmt: skip
    selection = tmp_path / "chosen/selection.json"
    chosen = load(selection)
    assert chosen.scored_steps + chosen.skipped_steps == 4 and chosen.settings["method"] == "align"
    last = json.loads((searched / "metrics.jsonl").read_text().splitlines()[-1])["data"]
    assert last["actor/flexora/step"] == 3.5  # the mean over the step's two mini-batches
    run = train(
        tmp_path / "run", "flexora.accept_noise=true", "flexora.stop_backward=true", "flexora.restrict_rollouts=true",
        "trainer.save_freq=2", *TWO_UPDATES, ADAPTERS, script=script,
        block={"FLEXORA": "selected", "SELECTION": str(selection)},
    )  # fmt: skip
    wanted = {unit.name for unit in chosen.chosen}
    assert trained_layers(run / "checkpoints/global_step_2/actor") == wanted
    assert "'--lora_target_modules'" in (run / "log.txt").read_text()  # as vLLM was started
    assert same_log_probs(run)
