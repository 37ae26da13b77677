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

"""One search over an engine's LoRA parameters: what is measured in a step, and the history of it. No verl in here."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from verl_redit.flexora.hypergradient import unrolled
from verl_redit.flexora.layers import lora_factor, unit_of, units_of
from verl_redit.flexora.scores import Method


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Factors:
    """The LoRA factors A and B of a model, whole or sharded, and sums over the units that they belong to.

    Args:
        parameters: the model's named parameters.
        grain: see `verl_redit.flexora.layers`.
        total: adds up a float64 tensor over the ranks that hold the other shards.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, torch.nn.Parameter]], grain: str, total: Callable[[Tensor], Tensor]
    ):
        named = [(factor, parameter) for name, parameter in parameters if (factor := lora_factor(name))]
        self.units = units_of({module for (module, _), _ in named}, grain)
        self.total = total
        self.parameters = [parameter for _, parameter in named]
        self.modules = [module for (module, _), _ in named]
        self.is_b = [factor == "B" for (_, factor), _ in named]
        number = {unit: position for position, unit in enumerate(self.units)}
        self._unit = torch.tensor([number[unit_of(module, grain)] for module in self.modules])
        self.sizes = self.sums(torch.tensor(parameter.numel()) for parameter in self.values)

    @property
    def values(self) -> list[Tensor]:
        """This rank's shards of the parameters."""
        return [local(parameter.data) for parameter in self.parameters]

    def take(self) -> list[Tensor]:
        """This rank's shards of the gradients, zero where there is none; the parameters have none afterwards."""
        gradients = [
            torch.zeros_like(local(parameter.data)) if parameter.grad is None else local(parameter.grad)
            for parameter in self.parameters
        ]
        for parameter in self.parameters:
            parameter.grad = None
        return gradients

    def give(self, gradients: Sequence[Tensor]) -> None:
        """Set the parameters' gradients."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if isinstance(parameter, DTensor):
                gradient = DTensor.from_local(
                    gradient, parameter.device_mesh, parameter.placements, shape=parameter.shape,
                    stride=parameter.stride(), run_check=False,
                )  # fmt: skip
            parameter.grad = gradient

    def sums(self, terms: Iterable[Tensor]) -> np.ndarray:
        """Sum of one scalar for each parameter over the parameters of a unit and all shards, float64 (units,)."""
        stacked = torch.stack([term.double() for term in terms])  # on its device, for one transfer instead of hundreds
        summed = stacked.new_zeros(len(self.units)).index_add_(0, self._unit.to(stacked.device), stacked)
        return self.total(summed.cpu()).numpy()

    def dots(self, left: Sequence[Tensor], right: Sequence[Tensor]) -> np.ndarray:
        """Inner product over each unit, float64 (units,)."""
        return self.sums((a.double() * b.double()).sum() for a, b in zip(left, right, strict=True))

    def gate_gradient(self, gradients: Sequence[Tensor]) -> np.ndarray:
        """∂L/∂w of gates w on the units' updates at w = 1: ⟨B, ∇_B L⟩, float64 (units,). ⟨A, ∇_A L⟩ is the same."""
        pairs = zip(self.values, gradients, self.is_b, strict=True)
        return self.sums((v.double() * g.double()).sum() if is_b else g.new_zeros(()) for v, g, is_b in pairs)


class Search:
    """Measures a method's statistics while an engine trains.

    Args:
        inner_steps: K of ``unrolled``.

    Attributes:
        gates: those in the forward pass, float64 (units,); all 1 unless they are applied.
    """

    def __init__(self, factors: Factors, method: Method, inner_steps: int):
        self.factors = factors
        self.method = method
        self.inner_steps = inner_steps
        self.gates = np.ones(len(factors.units))
        self._signs: list[Tensor] | None = None
        pairs = zip(factors.values, factors.is_b, strict=True)
        self._entries_of_b = factors.sums(torch.tensor(v.numel() if is_b else 0) for v, is_b in pairs)

    def measure(
        self, train: Callable[[], object], other: Callable[[], object] | None = None, rate: float = 0.0
    ) -> dict[str, np.ndarray]:
        """Backpropagate one step's parts, and leave the parameters with the gradient to train on.

        Args:
            train: backpropagates the part that trains.
            other: backpropagates the other half, which trains as well, or the part that is held out; only for methods
                whose passes have one.
            rate: the optimizer's learning rate, the η of inner steps.

        Returns:
            Statistic -> float64 (units,). Empty if it takes an earlier step to compare with.
        """
        return getattr(self, f"_{self.method.passes}")(train, other, rate)

    def _gradients(self, backpropagate: Callable[[], object]) -> list[Tensor]:
        with torch.enable_grad():
            backpropagate()
        return self.factors.take()

    def _whole(self, train, other, rate):
        gradients = self._gradients(train)
        statistics = {name: getattr(self, f"_{name}")(gradients) for name in self.method.measures}
        self.factors.give(gradients)
        return {name: value for name, value in statistics.items() if value is not None}

    def _halves(self, train, other, rate):
        first, second = self._gradients(train), self._gradients(other)
        statistics = {"agreement": self.factors.dots(first, second)}
        torch._foreach_add_(first, second)
        self.factors.give(first)
        return statistics

    def _held_out(self, train, other, rate):
        statistics = {"gate_gradient": self._gate_gradient(self._gradients(other))}
        train()
        return statistics

    def _unrolled(self, train, other, rate):
        factors = self.factors
        gradient, gradients = unrolled(
            factors.values,
            partial(self._gradients, train),
            partial(self._gradients, other),
            lambda gradients: torch.from_numpy(self._gate_gradient(gradients)),
            lambda left, right: float(factors.dots(left, right).sum()),
            self.inner_steps,
            rate,
        )
        factors.give(gradients)
        return {"gate_gradient": gradient.numpy()}

    def _gate_gradient(self, gradients: Sequence[Tensor]) -> np.ndarray:
        return self.factors.gate_gradient(gradients) / self.gates

    def _norm(self, gradients: list[Tensor]) -> np.ndarray:
        return np.sqrt(self.factors.dots(gradients, gradients))

    def _sensitivity(self, gradients: list[Tensor]) -> np.ndarray:
        pairs = zip(self.factors.values, gradients, strict=True)
        return self.factors.sums((v.double() * g.double()).abs().sum() for v, g in pairs) / self.factors.sizes

    def _kept_sign(self, gradients: list[Tensor]) -> np.ndarray | None:
        pairs = zip(gradients, self.factors.is_b, strict=True)
        of_b = [gradient if is_b else gradient.new_empty(0) for gradient, is_b in pairs]
        finite = np.isfinite(self.factors.sums(gradient.float().abs().sum() for gradient in of_b))
        if not finite.all():
            return np.where(finite, 0.0, np.nan)  # the step is skipped; the next one is compared with the last good one
        before, self._signs = self._signs, [gradient.sign().to(torch.int8) for gradient in of_b]
        if before is None:
            return None
        kept = self.factors.sums((a * b > 0).sum() for a, b in zip(before, self._signs, strict=True))
        return kept / self._entries_of_b
