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

"""The study's planted models are what it says: a search finds the layers that can learn, and nothing else can."""

import pytest
import torch

from recipes.flexora_study import planted
from verl_redit.demo.engine import build, join, loss, update
from verl_redit.flexora.layers import layer_of, lora_factor


@pytest.fixture(autouse=True)
def alone(tmp_path):
    join(0, 1, tmp_path / "store")
    yield
    torch.distributed.destroy_process_group()


def test_a_search_finds_the_planted_layers(tmp_path):
    outcome = planted.search(tmp_path, "align", 0, 20)
    assert outcome["found"] == planted.PLANTED and outcome["beats_chance"]


def test_the_other_layers_cannot_lower_the_loss_on_other_prompts(tmp_path):
    chosen = planted.plant(tmp_path / "model", 0)
    losses = {}
    for trained in (set(chosen), set(range(planted.LAYERS)) - set(chosen)):
        rest = "|".join(str(layer) for layer in range(planted.LAYERS) if layer not in trained)
        engine = build(tmp_path / "model", exclude_modules=rf"model\.layers\.(?:{rest})\..*",
                       enable_gradient_checkpointing=False)  # fmt: skip
        carrying = {
            layer_of(factor[0]) for name, _ in engine.module.named_parameters() if (factor := lora_factor(name))
        }
        assert carrying == {f"model.layers.{layer}" for layer in trained}
        before = loss(engine, planted.batch(0, 1000))
        for step in range(40):
            update(engine, planted.batch(0, step))
        losses[len(trained)] = before - loss(engine, planted.batch(0, 1000))
    assert losses[planted.PLANTED] > 0.3 > 0.02 > losses[planted.LAYERS - planted.PLANTED]
