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

"""What Flexora does to a LoRA adapter in place: gates on its layers, and an adapter made anew."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from verl_redit.flexora.layers import unit_of
from verl_redit.flexora.search import Factors


def lora_modules(module: torch.nn.Module) -> dict[str, Any]:
    """Name in the base model -> module, for those that have LoRA factors.

    Args:
        module: PEFT's wrapper, in an FSDP engine or not.
    """
    base: Any = getattr(module, "_fsdp_wrapped_module", module).get_base_model()  # type: ignore[operator]
    named = ((name.replace("_fsdp_wrapped_module.", ""), part) for name, part in base.named_modules())
    return {name.removesuffix("._fsdp_wrapped_module"): part for name, part in named if hasattr(part, "lora_A")}


def lora_parameters(part: Any) -> int:
    """Number of LoRA parameters of a module, sharded or not."""
    return part.r["default"] * (part.in_features + part.out_features)


def set_gates(module: torch.nn.Module, gates: Mapping[str, float], grain: str) -> None:
    """Multiply each unit's LoRA update by its gate, once, in the forward pass.

    Args:
        gates: unit -> gate.
    """
    for name, part in lora_modules(module).items():
        part.set_scale("default", gates[unit_of(name, grain)])


@torch.no_grad()
def fold_gates(factors: Factors, gates: Mapping[str, float], grain: str) -> None:
    """Multiply each unit's B by its gate.

    Args:
        gates: unit -> gate.
    """
    for value, module, is_b in zip(factors.values, factors.modules, factors.is_b, strict=True):
        if is_b:
            value.mul_(gates[unit_of(module, grain)])


def begin_anew(factors: Factors, inputs: Mapping[str, int], seed: int, shard: int) -> None:
    """Begin all LoRA factors anew.

    Args:
        inputs: module -> its inputs.
        shard: this rank's number among those that hold the shards of one copy.
    """
    for value, module, is_b in zip(factors.values, factors.modules, factors.is_b, strict=True):
        _fill(value, "B" if is_b else "A", inputs[module], seed, module, shard)


@torch.no_grad()
def _fill(shard: torch.Tensor, factor: str, fan_in: int, *key: int | str) -> None:
    """Fill this rank's shard of a LoRA factor as PEFT begins: B with zeros, A evenly in ±1/√fan_in.

    Args:
        fan_in: inputs of the module.
        key: of the draw; replicas of a shard share it.
    """
    if factor == "B":
        shard.zero_()
        return
    digest = hashlib.blake2b(" ".join(map(str, key)).encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    drawn = torch.rand(shard.shape, generator=generator)
    shard.copy_((2 * drawn - 1) / fan_in**0.5)
