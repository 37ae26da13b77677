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

"""Two runs on a machine, each with a Ray cluster of its own, do not hand each other their weights."""

import os
from types import SimpleNamespace
from unittest import mock

import pytest
import ray
from ray import cloudpickle
from transformers import Qwen2Config
from verl.workers.config import HFModelConfig, RolloutConfig
from verl.workers.rollout.replica import RolloutMode
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer
from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

LONGEST_UNIX_SOCKET_PATH = 107


@pytest.fixture
def sockets(monkeypatch, tmp_path):
    """The sockets' addresses on a node with this id, in the first job of its cluster: the trainer's and vLLM's."""
    Qwen2Config(num_hidden_layers=1, architectures=["Qwen2ForCausalLM"]).save_pretrained(tmp_path)
    model, rollout = HFModelConfig(path=str(tmp_path), load_tokenizer=False), RolloutConfig(name="vllm", mode="async")
    # what an actor's process gets
    server = cloudpickle.loads(cloudpickle.dumps(ray.remote(vLLMHttpServer).__ray_metadata__.modified_class))
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")

    def on(node: str) -> tuple[str, str]:
        context = SimpleNamespace(get_job_id=lambda: "01000000", get_node_id=lambda: node)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
        with mock.patch.dict(os.environ, RANK="0", RAY_LOCAL_WORLD_SIZE="1"):
            trainer = ServerAdapter(rollout, model, None).zmq_handle
            server(rollout, model, RolloutMode.HYBRID, [], 0, 0, 1, 1, cuda_visible_devices="0")
            worker = SimpleNamespace(local_rank=0, model_runner=SimpleNamespace())
            return trainer, vLLMColocateWorkerExtension._get_zmq_handle(worker)

    return on


def test_both_ends_of_a_run_use_one_socket_and_another_run_another(sockets):
    trainer, worker = sockets("0" * 56)
    assert trainer == worker
    assert trainer not in sockets("1" * 56)
    assert len(trainer.removeprefix("ipc://")) <= LONGEST_UNIX_SOCKET_PATH
