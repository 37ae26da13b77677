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
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import verl  # noqa: F401  loads the plugin
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from verl.utils.config import omega_conf_to_dataclass
from vllm.engine.arg_utils import AsyncEngineArgs

from verl_redit.flexora.config import FlexoraConfig
from verl_redit.paft.config import PaftConfig
from verl_redit.redit.config import ReditConfig
from verl_redit.settings import parse

RECIPES = Path(__file__).parents[2] / "recipes"
SCRIPTS = sorted(RECIPES.glob("*/*.sh"))
CONFIGS = sorted(RECIPES.glob("*/config/*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_it_composes_and_verls_dataclasses_take_it(file):
    with initialize_config_dir(str(file.parent), version_base=None):
        config = compose(file.stem, ["trainer.default_local_dir=out"])
    assert config.trainer.project_name == file.stem
    groups = [next(iter(entry)) for entry in OmegaConf.load(file).defaults if OmegaConf.is_dict(entry)]
    assert "recipe" in groups and len(groups) > 1 and all(group in config for group in groups if group != "recipe")
    if "actor_rollout_ref" in config:
        part = config.actor_rollout_ref
        assert omega_conf_to_dataclass(part.actor).ppo_mini_batch_size == part.actor.ppo_mini_batch_size
        assert omega_conf_to_dataclass(part.rollout).n == part.rollout.n
        gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
        assert gpus % part.rollout.tensor_model_parallel_size == 0
        assert part.rollout.engine_kwargs.vllm.keys() <= {field.name for field in fields(AsyncEngineArgs)}
    else:
        assert omega_conf_to_dataclass(config.optim).lr == config.optim.lr
        assert omega_conf_to_dataclass(config.engine).strategy == "fsdp2"


def composed(script: str, **block: str):
    """What a recipe's script asks of verl, with this in its user block."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command, environment = ["bash", RECIPES / script, "--cfg", "job"], {**os.environ, "PATH": path, **block}
    return OmegaConf.create(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize(("redit", "manager"), [("gaussian", "redit"), ("none", "naive")])
def test_the_script_that_no_test_runs_composes(redit, manager, tmp_path):
    """verl reads pictures with qwen_vl_utils, and so with torchvision, whose PyPI wheels load beside CUDA's torch."""
    config = composed("redit_geo3k/run_qwen2_5_vl_fsdp.sh", REDIT=redit, OUTPUT_DIR=str(tmp_path))
    assert config.reward.reward_manager.name == manager and ("redit" in config) == (redit != "none")
    assert config.actor_rollout_ref.model.exclude_modules == ".*visual.*"
    assert config.trainer.default_local_dir == str(tmp_path / redit / "seed0")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: f"{script.parent.name}/{script.stem}")
def test_a_script_keeps_the_log_of_an_earlier_start(script, tmp_path):
    for command in ("python3", "torchrun"):
        (tmp_path / command).symlink_to("/bin/true")
    log = tmp_path / "metrics.jsonl"
    log.write_text("earlier")
    block = {"VERL_FILE_LOGGER_PATH": str(log), "OUTPUT_DIR": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    # what follows the run in a script fails without it
    subprocess.run(["bash", script], env={**os.environ, **block}, capture_output=True)
    (kept,) = tmp_path.glob("metrics.jsonl.*")
    assert kept.read_text() == "earlier" and log.read_text() == ""


def test_the_second_of_two_runs_takes_what_the_first_wrote(tmp_path):
    script, block = "flexora_gsm8k/run_qwen2_5_fsdp.sh", {"OUTPUT_DIR": str(tmp_path), "SEED": "3"}
    search, selected = (composed(script, FLEXORA=stage, **block) for stage in ("search", "selected"))
    assert parse(FlexoraConfig, search.flexora, "flexora").mode == "search"
    assert parse(FlexoraConfig, selected.flexora, "flexora").selection == f"{search.flexora.output}/selection.json"
    assert search.trainer.default_local_dir != selected.trainer.default_local_dir


@pytest.mark.parametrize("recipe", ["flexora_gsm8k", "flexora_sft"])
def test_without_a_choice_all_layers_are_trained(recipe, tmp_path):
    script = f"{recipe}/run_qwen2_5_fsdp.sh"
    without, chosen = (composed(script, FLEXORA=mode, OUTPUT_DIR=str(tmp_path)) for mode in ("none", "one_run"))
    assert "flexora" in chosen and "flexora" not in without
    model = without.model if recipe.endswith("sft") else without.actor_rollout_ref.model
    assert model.lora_rank > 0 and not model.lora.get("flexora") and not model.exclude_modules


@pytest.mark.parametrize("redit", ["uniform", "none"])
def test_the_suite_s_second_stage_takes_another_dithering_and_policy(redit, tmp_path):
    script = "suite_gsm8k/run_2_grpo_qwen2_5_fsdp.sh"
    config = composed(script, REDIT=redit, POLICY="adaptive", SEED="3", OUTPUT_DIR=str(tmp_path))
    assert config.paft.policy == "adaptive" and config.actor_rollout_ref.rollout.seed == config.data.seed == 3
    if redit == "none":
        assert "redit" not in config and config.reward.reward_manager.name == "naive"
    else:
        assert (config.redit.distribution, config.redit.apply_to, config.redit.seed) == ("uniform", "mixed", 3)


@pytest.mark.parametrize("policy", ["adaptive", "block", "cycle", "fixed", "static", "stratified", "uniform"])
def test_a_policy_is_chosen_by_name(policy):
    with initialize_config_dir(str(RECIPES / "paft_gsm8k/config"), version_base=None):
        assert compose("paft_gsm8k", [f"paft={policy}"]).paft.policy == policy


def test_the_commands_for_gpus_compose_and_report_on_their_runs(tmp_path):
    """Every run of one seed that RESULTS.md asks for, by its own lines; what would start verl notes its arguments."""
    (text,) = re.findall(r"```bash\n(control\(\).*?)```", (RECIPES / "RESULTS.md").read_text(), re.DOTALL)
    for program in ("python", "python3", "torchrun", "verl-redit"):
        (tmp_path / program).write_text(
            f'#!/bin/bash\nprintf "%s\\0" {program} "$@" >> {tmp_path}/noted; echo >> {tmp_path}/noted\n'
        )
        (tmp_path / program).chmod(0o755)
    (tmp_path / "recipes").symlink_to(RECIPES)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    subprocess.run(["bash", "-c", text.replace("0 1 2", "0")], env=environment, cwd=tmp_path, capture_output=True)
    folders, reports, outs = [], [], set()
    for line in (tmp_path / "noted").read_text().splitlines():
        program, *arguments = line.split("\0")[:-1]
        if program == "verl-redit" and arguments[0] == "report":
            named = arguments[1 : arguments.index("--out")]
            reports.append([tmp_path / "checkpoints" / folder for folder in named if folder != "robustness"])
            outs.add(arguments[-1])
        elif "--config-path" in arguments:
            place = arguments.index("--config-path")
            with initialize_config_dir(arguments[place + 1], version_base=None):
                config = compose(arguments[place + 3], arguments[place + 4 :])
            folders.append(tmp_path / config.trainer.default_local_dir)
            for node, settings in (("redit", ReditConfig), ("paft", PaftConfig), ("flexora", FlexoraConfig)):
                if node in config:
                    parse(settings, config[node], node)
    assert len(folders) == len(set(folders)) == 13 + 9 + 12 + 2
    assert len(outs) == len(reports) == 8 and all(folder.is_dir() for folder in reports[0])
    arms = {folder for report in reports for folder in report}
    searches = {folder for folder in folders if "search" in folder.parts or "paft_sft" in folder.parts}
    first_stage = tmp_path / "checkpoints/suite_gsm8k/supervised/seed0"
    told = {folder for folder in folders if arms & {folder, *folder.parents}}
    assert told == set(folders) - searches - {first_stage}
    bases = [report[0].name for report in reports]
    assert bases == ["none", "none", "fixed", "fixed", "seed0", "none", "none", "fixed"]
