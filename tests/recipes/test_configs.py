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

"""Recipes' configurations compose with verl's own tools."""

from pathlib import Path

import pytest
import verl  # noqa: F401  loads the plugin
from hydra import compose, initialize_config_dir
from verl.utils.config import omega_conf_to_dataclass

RECIPES = Path(__file__).parents[2] / "recipes"
CONFIGS = sorted(RECIPES.glob("*/config/*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_it_composes_and_verls_dataclasses_take_it(file):
    with initialize_config_dir(str(file.parent), version_base=None):
        config = compose(file.stem, ["actor_rollout_ref.model.path=model", "trainer.default_local_dir=out"])
    assert config.trainer.project_name == file.stem
    assert omega_conf_to_dataclass(config.actor_rollout_ref.actor).optim.lr == config.actor_rollout_ref.actor.optim.lr


@pytest.mark.parametrize("policy", ["adaptive", "block", "cycle", "fixed", "static", "stratified", "uniform"])
def test_a_policy_is_chosen_by_name(policy):
    with initialize_config_dir(str(RECIPES / "paft_gsm8k/config"), version_base=None):
        assert compose("paft_gsm8k", [f"paft={policy}"]).paft.policy == policy
