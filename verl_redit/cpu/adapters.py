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

"""What verl and vLLM take for granted and a CPU does not have; each function changes one module after its import."""

import gc
import logging
from types import ModuleType
from typing import Any

import wrapt

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2


def collect_less_often(platform_manager: ModuleType) -> None:
    """A run imports verl and vLLM in ten processes, and a fifth of an import is spent on garbage there is none of."""
    gc.set_threshold(100_000, 50, 50)


def collapse_backend(verl_distributed: ModuleType) -> None:
    """verl asks for one backend on the host and one on the device; torch refuses the list when both are the CPU."""
    if hasattr(verl_distributed, "get_default_backend"):
        logger.debug("verl chooses one backend for the CPU itself")
        return

    def init(wrapped, instance, args: tuple, kwargs: dict[str, Any]):
        if kwargs.get("backend") == "cpu:gloo,cpu:gloo":
            kwargs = {**kwargs, "backend": "gloo"}
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(verl_distributed.torch.distributed, "init_process_group", init)


def register_fsdp2_engine(transformer_impl: ModuleType) -> None:
    """verl registers its FSDP engines for cuda and npu; FSDP2 runs on gloo as it is."""
    registry = transformer_impl.EngineRegistry
    if "cpu" in registry._engines["language_model"]["fsdp2"]:
        logger.debug("verl has registered FSDP2 for the CPU itself")
        return
    register = registry.register(model_type="language_model", backend="fsdp2", device="cpu")
    register(transformer_impl.FSDPEngineWithLMHead)


def keep_linear_weights(vllm_layers_utils: Any) -> None:
    """vLLM's CPU build packs each linear weight and drops the original, so a second weight sync finds nothing to
    write to. Keep it and compute with torch."""
    pack = vllm_layers_utils.dispatch_cpu_unquantized_gemm

    def keep(layer: Any, remove_weight: bool) -> None:
        if layer.weight.ndim != 2:
            pack(layer, remove_weight)
        else:
            layer.cpu_linear = vllm_layers_utils.torch.nn.functional.linear

    vllm_layers_utils.dispatch_cpu_unquantized_gemm = keep


def poll_often(replay_buffer: ModuleType) -> None:
    """verl's trainer looks for finished rollouts every two seconds; a model that fits here needs less for a step."""

    def build(wrapped, instance, args: tuple, kwargs: dict[str, Any]):
        return wrapped(*args, **{"poll_interval": POLL_SECONDS, **kwargs})

    wrapt.wrap_function_wrapper(replay_buffer, "ReplayBuffer.__init__", build)
