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

"""What Flexora does to a LoRA adapter in place: how it is built, gates on its layers, and one made anew."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from verl_redit.flexora.layers import unit_of, unit_of_parameter
from verl_redit.flexora.search import Factors, local


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


@contextmanager
def no_embedding_gradients(base: Any) -> Iterator[None]:
    """Keep those that build an adapter from asking for gradients of the embeddings.

    transformers, verl and PEFT each ask for them, for the sake of reentrant checkpointing, which verl's is not.

    Args:
        base: a model of transformers.
    """
    base.disable_input_require_grads()
    base.enable_input_require_grads = lambda: None
    yield
    del base.enable_input_require_grads


class Gates:
    """Gates in the forward pass of a model with LoRA: each multiplies its unit's update, once.

    Args:
        module: PEFT's wrapper, in an FSDP engine or not.
        grain: what a unit is.
    """

    def __init__(self, module: torch.nn.Module, grain: str):
        self.of_unit: dict[str, float] = {}  # empty while none acts
        self._module, self._grain = module, grain

    def act(self, gates: Mapping[str, float]) -> None:
        """Set the gate of every unit."""
        self.of_unit = dict(gates)
        for name, part in lora_modules(self._module).items():
            part.set_scale("default", gates[unit_of(name, self._grain)])

    @torch.no_grad()
    def fold(self, factors: Factors, optimizer: torch.optim.Optimizer) -> None:
        """Move the gates into B, so that nothing changes as they end.

        Args:
            optimizer: what it knows of B's gradients is scaled as they are, if it is one of Adam's kind.
        """
        if self.of_unit:
            for parameter, module, is_b in zip(factors.parameters, factors.modules, factors.is_b, strict=True):
                if is_b:
                    gate = self.of_unit[unit_of(module, self._grain)]
                    local(parameter.data).mul_(gate)
                    for name, power in (("exp_avg", 1), ("exp_avg_sq", 2), ("max_exp_avg_sq", 2)):
                        if (moment := optimizer.state.get(parameter, {}).get(name)) is not None:
                            local(moment).div_(gate**power)
            self.act(dict.fromkeys(self.of_unit, 1.0))
            self.of_unit = {}

    def in_b(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Named tensors of the adapter, with B times its gate, for those that know no gates."""
        for name, tensor in tensors:
            unit = unit_of_parameter(name, self._grain)
            yield name, tensor * self.of_unit[unit] if unit in self.of_unit and ".lora_B." in name else tensor


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
