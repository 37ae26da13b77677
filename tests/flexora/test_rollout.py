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

"""An adapter that a restricted vLLM would lose a part of is refused, by vLLM's own manager."""

from types import SimpleNamespace

import pytest
import torch
import verl  # noqa: F401  loads the plugin
from vllm.lora.lora_model import LoRAModel
from vllm.lora.model_manager import LoRAModelManager

from verl_redit.flexora.rollout import wrapped_modules

LAYER = "model.layers.1"
CHOSEN = [f"{LAYER}.self_attn.{name}_proj" for name in "qkvo"] + [f"{LAYER}.mlp.{n}_proj" for n in ("gate", "up")]


def manager(target_modules: list[str] | None) -> LoRAModelManager:
    """One that has wrapped layer 1, as far as adding an adapter asks for it."""
    made = object.__new__(LoRAModelManager)
    made.lora_config = SimpleNamespace(target_modules=target_modules)
    made.packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
    made.supported_lora_modules = ["qkv_proj", "o_proj", "gate_up_proj"]
    made.packed_modules, made._registered_adapters = {}, {}
    names = [f"{LAYER}.{name}" for name in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj")]
    made.modules = {name: None for name in names if made._match_target_modules(name)}
    for name in made.modules:
        made._register_packed_modules(name)
    made._create_merged_loras_inplace = lambda adapter: None
    return made


def adapter(modules: list[str]) -> LoRAModel:
    return LoRAModel(1, 8, dict.fromkeys(modules))


@pytest.mark.parametrize("chosen", [CHOSEN, [f"{LAYER}.self_attn.o_proj"], [f"{LAYER}.mlp.up_proj"]])
def test_what_was_chosen_is_wrapped(chosen):
    added = manager(wrapped_modules(chosen))
    added._add_adapter(adapter(chosen))
    assert 1 in added._registered_adapters


def test_a_module_outside_is_named():
    with pytest.raises(ValueError, match=r"2 modules of the adapter.*model.layers.2.mlp.gate_proj.*restrict_rollouts"):
        outside = ["model.layers.2.mlp.gate_proj", f"{LAYER}.self_attn.o_proj"]
        manager(wrapped_modules(CHOSEN[:3]))._add_adapter(adapter([*CHOSEN[:3], *outside]))


def test_a_model_with_other_names_in_vllm_is_told():
    made = object.__new__(LoRAModelManager)
    made.lora_config = SimpleNamespace(target_modules=["model.language_model.layers.0.self_attn.o_proj"])
    made.supported_lora_modules, made.packed_modules_mapping = ["o_proj"], {}
    made.model, made.modules = torch.nn.ModuleDict({"o_proj": torch.nn.Linear(2, 2)}), {}
    with pytest.raises(ValueError, match="none of vLLM's modules has a name of lora_target_modules"):
        made._create_lora_modules()


def test_an_unrestricted_vllm_is_left_alone():
    added = manager(None)
    added._add_adapter(adapter(["model.layers.2.mlp.gate_proj"]))
    assert 1 in added._registered_adapters
