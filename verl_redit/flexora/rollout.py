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

"""vLLM with LoRA on the chosen layers alone. By itself it wraps every linear module, whatever the adapter is on."""

from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import wrapt

# vLLM's fused modules, as Llama, Qwen and most others have them
FUSED = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj",
         "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}  # fmt: skip

MEND = "set flexora.restrict_rollouts=false, or give vLLM's own names in rollout.engine_kwargs.vllm.lora_target_modules"


def wrapped_modules(modules: Iterable[str]) -> list[str]:
    """vLLM's ``lora_target_modules`` for an adapter on ``modules``: their full names, and those of the fused modules
    that hold them."""
    names = set(modules)
    for module in list(names):
        parent, _, name = module.rpartition(".")
        if name in FUSED:
            names.add(f"{parent}.{FUSED[name]}")
    return sorted(names)


def refuse_lost_modules(model_manager: ModuleType) -> None:
    """A restricted vLLM leaves out what it does not wrap of an adapter, without a word, and would sample from another
    policy than the one that is trained."""

    def wrap(wrapped, manager: Any, args: tuple, kwargs: dict[str, Any]):
        wrapped(*args, **kwargs)
        if (restricted := _restriction(manager)) and not manager.modules:
            raise ValueError(f"none of vLLM's modules has a name of lora_target_modules ({restricted[0]}, …); {MEND}")

    def add(wrapped, manager: Any, args: tuple, kwargs: dict[str, Any]):
        (adapter,) = args or kwargs.values()
        if _restriction(manager):
            parts = {name for packed in manager.packed_modules.values() for name in packed}
            if lost := adapter.loras.keys() - manager.modules.keys() - parts:
                raise ValueError(
                    f"{len(lost)} modules of the adapter are not among lora_target_modules "
                    f"({', '.join(sorted(lost)[:3])}, …), so rollouts would leave them out; {MEND}"
                )
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(model_manager, "LoRAModelManager._create_lora_modules", wrap)
    wrapt.wrap_function_wrapper(model_manager, "LoRAModelManager._add_adapter", add)


def _restriction(manager: Any) -> Sequence[str] | None:
    # vLLM 0.18 has no such setting
    return getattr(manager.lora_config, "target_modules", None)
