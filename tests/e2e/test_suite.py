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

"""The suite: its supervised stage, and all three plugins in one run of the closed loop."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from tests.e2e.conftest import (
    ADAPTERS,
    CLOSED,
    POOL_SETTINGS,
    SIZES,
    TWO_UPDATES,
    metrics_of,
    rows_of,
    same_log_probs,
)
from tests.e2e.test_prompt_pool import templates_of
from verl_redit.flexora.layers import layer_of, lora_factor
from verl_redit.flexora.record import read
from verl_redit.flexora.selection import load

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def suite(train, tmp_path_factory) -> Path:
    """All three plugins in the closed loop, by the script of the layer search.

    Adaptive weights follow raw rewards while the gradient sees dithered ones; gates on layers are learned and applied
    in the four updates of two steps, so that rollouts of the second see them, and two layers go on, whatever so short
    a search says. The rate makes the first gates large enough to be seen.
    """
    return train(
        tmp_path_factory.mktemp("suite") / "run", CLOSED, "+redit=gaussian", "+paft=adaptive", *POOL_SETTINGS,
        "flexora.method=first_order",
        "flexora.apply=true", "flexora.search_steps=4", "flexora.k=2", "flexora.accept_noise=true", *TWO_UPDATES,
        ADAPTERS, "actor_rollout_ref.actor.optim.lr=5e-3", "trainer.save_freq=1",
        "trainer.val_before_train=false", "trainer.test_freq=-1", steps=3, script="flexora_gsm8k/run_qwen2_5_fsdp.sh",
    )  # fmt: skip


def test_the_supervised_stage_merges_the_chosen_layers_alone(first_stage, tmp_path):
    first_stage(tmp_path / "run")


def test_one_run_searches_and_goes_on_with_the_chosen_layers(suite):
    record = read(suite / "checkpoints/flexora/record.jsonl")
    assert len(record.steps) == 4
    assert metrics_of(suite)[1]["actor/flexora/step"] == 1.5  # the mean over the step's two mini-batches
    chosen = {unit.name for unit in load(suite / "checkpoints/flexora/selection.json").chosen}
    assert len(chosen) == 2 and chosen < record.units.keys()
    weights = torch.load(
        next((suite / "checkpoints/global_step_3/actor").glob("model_world_size_*_rank_0.pt")), weights_only=False
    )
    of_layer: dict[str, bool] = {}
    for name, value in weights.items():
        if (factor := lora_factor(name)) and factor[1] == "B":
            local = value.to_local() if hasattr(value, "to_local") else value
            of_layer[layer_of(factor[0])] = of_layer.get(layer_of(factor[0]), False) or bool(local.any())
    assert {layer for layer, moved in of_layer.items() if moved} == chosen
    assert same_log_probs(suite)


def test_the_closed_loop_logs_what_the_policy_saw(suite):
    for step in (1, 2):
        logged, rows = metrics_of(suite)[step], rows_of(suite / "rollouts" / f"{step}.jsonl")
        groups = templates_of(suite / "rollouts" / f"{step}.jsonl")
        assert logged["paft/templates"] == len({id for templates in groups.values() for id in templates})
        of_template = defaultdict(list)
        for row in rows:
            [template] = groups[row["uid"].split("_")[0]]
            of_template[template].append(row["score"])
        means = [sum(scores) / len(scores) for scores in of_template.values()]
        assert logged["paft/accuracy/mean"] == pytest.approx(sum(means) / len(means), abs=1e-6)
        assert logged["redit/effective_std"] > 0


def test_the_weights_are_in_the_checkpoint(suite):
    state = json.loads((suite / "checkpoints" / "global_step_2" / "verl_redit.json").read_text())
    assert state.keys() == {"redit", "paft"}
    learned = state["paft"]["learned"]
    assert sum(learned["groups"]) == 2 * SIZES.prompts
    assert len(learned["items"]) == 2 * SIZES.prompts
