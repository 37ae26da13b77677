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

"""The gradient of held-out loss with respect to layer gates, through inner training steps (arXiv 2408.10774, alg. 1).

Inner steps: θ_{k+1} = θ_k − η ∇_θ L_train(θ_k, w), k < K. The outer gradient at gates w is

    dL_val/dw = ∂_w L_val(θ_K) − η Σ_k ∂²_{wθ} L_train(θ_k) λ_{k+1},    λ_k = λ_{k+1} − η ∂²_θ L_train(θ_k) λ_{k+1}

with λ_K = ∇_θ L_val(θ_K). Both products are central differences of gradients along λ, two more passes for each inner
step; no graph is kept, so gradient checkpointing and sharded parameters need nothing special.
"""

import math
from collections.abc import Callable, Sequence

import torch

# length of a difference's step relative to that of the parameters: short enough to be straight, long enough to be seen
# in float32; bfloat16 sees nothing that short
DIFFERENCE = 1e-4


@torch.no_grad()
def unrolled(
    values: Sequence[torch.Tensor],
    train: Callable[[], list[torch.Tensor]],
    held_out: Callable[[], list[torch.Tensor]],
    gate_gradient: Callable[[Sequence[torch.Tensor]], torch.Tensor],
    dot: Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], float],
    steps: int,
    rate: float,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The outer gradient, and the training gradient at the parameters as they are; they are as they were afterwards.

    Args:
        values: the parameters or this rank's shards of them; changed in place and set back, bit by bit.
        train: gradients of the training loss at the present parameters, in the order of ``values``.
        held_out: the same of the held-out loss.
        gate_gradient: ∂L/∂w, float64 of shape (units,), from gradients of L at the present parameters.
        dot: inner product over all ranks.
        steps: K, at least 1.
        rate: η, above 0.

    Returns:
        The outer gradient, not finite if a held-out gradient is not, and the training gradient.

    Memory while a pass runs, beside the gradients that it makes: two copies of the parameters with one inner step, and
    with K > 1 two more and K - 1 of the path.
    """
    values = list(values)
    path: list[list[torch.Tensor]] = []
    first: list[torch.Tensor] = []
    for _ in range(steps):
        gradients = train()
        first = first or gradients
        path.append([value.clone() for value in values])
        torch._foreach_add_(values, gradients, alpha=-rate)
    adjoint = held_out()
    total = gate_gradient(adjoint)
    for step, point in enumerate(reversed(path)):
        length = dot(adjoint, adjoint)
        if not math.isfinite(length):
            total = total * math.nan
        if not math.isfinite(length) or length == 0:
            break
        reach = DIFFERENCE * (dot(point, point) / length) ** 0.5
        torch._foreach_copy_(values, point)
        torch._foreach_add_(values, adjoint, alpha=reach)
        is_last = step + 1 == steps
        if is_last:
            adjoint = []  # not needed any more: no copy of it while gradients are made
        sides: list[list[torch.Tensor]] = []
        for side in (1, -1):
            gradients = train()
            total = total - side * rate / (2 * reach) * gate_gradient(gradients)
            if not is_last:
                sides.append(gradients)
            del gradients  # else it would be held while the next ones are made
            if side > 0:  # to the other side of the point
                torch._foreach_neg_(values)
                torch._foreach_add_(values, point, alpha=2)
        if sides:
            torch._foreach_sub_(*sides)
            torch._foreach_sub_(adjoint, sides[0], alpha=rate / (2 * reach))
    torch._foreach_copy_(values, path[0])
    return total, first
