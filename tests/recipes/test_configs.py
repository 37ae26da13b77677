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

import os
import subprocess
import sys
from pathlib import Path

import pytest
import verl  # noqa: F401  loads the plugin
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from verl.utils.config import omega_conf_to_dataclass

RECIPES = Path(__file__).parents[2] / "recipes"
CONFIGS = sorted(RECIPES.glob("*/config/*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_it_composes_and_verls_dataclasses_take_it(file):
    with initialize_config_dir(str(file.parent), version_base=None):
        config = compose(file.stem, ["trainer.default_local_dir=out"])
    assert config.trainer.project_name == file.stem
    supervised = "actor_rollout_ref" not in config
    optim = config.optim if supervised else config.actor_rollout_ref.actor.optim
    assert omega_conf_to_dataclass(optim).lr == optim.lr
    recipe = {"redit", "paft", "flexora"} & set(file.stem.split("_"))
    assert all(name in config for name in recipe)


@pytest.mark.parametrize(("redit", "manager"), [("gaussian", "redit"), ("none", "naive")])
def test_the_script_that_no_test_runs_composes(redit, manager):
    """verl reads pictures with qwen_vl_utils, and so with torchvision, whose wheels load beside CUDA's torch alone."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "REDIT": redit}
    script = RECIPES / "redit_geo3k/run_qwen2_5_vl_fsdp.sh"
    shown = subprocess.run(
        ["bash", script, "--cfg", "job"], env=environment, capture_output=True, text=True, check=True
    )
    config = OmegaConf.create(shown.stdout)
    assert config.reward.reward_manager.name == manager and ("redit" in config) == (redit != "none")
    assert config.actor_rollout_ref.model.exclude_modules == ".*visual.*" and config.data.image_key == "images"


@pytest.mark.parametrize("policy", ["adaptive", "block", "cycle", "fixed", "static", "stratified", "uniform"])
def test_a_policy_is_chosen_by_name(policy):
    with initialize_config_dir(str(RECIPES / "paft_gsm8k/config"), version_base=None):
        assert compose("paft_gsm8k", [f"paft={policy}"]).paft.policy == policy
