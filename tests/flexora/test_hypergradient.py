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

"""The outer gradient through inner steps, against torch's own differentiation of them."""

import pytest
import torch
from torch.func import functional_call

from verl_redit.flexora.hypergradient import unrolled

LAYERS, WIDTH, RANK, RATE = 5, 6, 2, 0.3


class Gated(torch.nn.Module):
    """A small network with a low-rank update in each layer."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        random = torch.Generator().manual_seed(0)

        def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return (scale * torch.randn(*shape, generator=random)).to(dtype)

        self.base = [normal(WIDTH, WIDTH, scale=WIDTH**-0.5) for _ in range(LAYERS)]
        self.a = torch.nn.ParameterList(normal(RANK, WIDTH) for _ in range(LAYERS))
        self.b = torch.nn.ParameterList(normal(WIDTH, RANK, scale=0.3) for _ in range(LAYERS))
        self.train_data = normal(2, 16, WIDTH)
        self.held_out_data = normal(2, 16, WIDTH)

    def forward(self, data: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        x, wanted = data
        for layer in range(LAYERS):
            update = x @ self.a[layer].T @ self.b[layer].T
            x = torch.tanh(x @ self.base[layer].T + gates[layer] * update)
        return ((x - wanted) ** 2).mean()


def exact(model: Gated, steps: int) -> torch.Tensor:
    gates = torch.ones(LAYERS, dtype=model.train_data.dtype, requires_grad=True)
    values = dict(model.named_parameters())
    for _ in range(steps):
        loss = functional_call(model, values, (model.train_data, gates))
        slopes = torch.autograd.grad(loss, list(values.values()), create_graph=True)
        values = {name: value - RATE * slope for (name, value), slope in zip(values.items(), slopes, strict=True)}
    return torch.autograd.grad(functional_call(model, values, (model.held_out_data, gates)), gates)[0]


def by_differences(model: Gated, steps: int):
    values = [value.data for value in model.parameters()]
    ones = torch.ones(LAYERS, dtype=model.train_data.dtype)

    def gradients(data: torch.Tensor) -> list[torch.Tensor]:
        with torch.enable_grad():
            return list(torch.autograd.grad(model(data, ones), list(model.parameters())))

    def gates(slopes) -> torch.Tensor:
        of_b = zip(values[LAYERS:], slopes[LAYERS:], strict=True)
        return torch.stack([(value * slope).sum() for value, slope in of_b])

    def dot(left, right) -> float:
        return float(sum((a.double() * b.double()).sum() for a, b in zip(left, right, strict=True)))

    return unrolled(
        values,
        lambda: gradients(model.train_data),
        lambda: gradients(model.held_out_data),
        gates,
        dot,
        steps,
        RATE,
    )


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_agrees_with_exact_unrolling(steps, dtype):
    model = Gated(dtype)
    before = [value.detach().clone() for value in model.parameters()]
    found, first = by_differences(model, steps)
    expected = exact(model, steps)
    assert (found - expected).norm() < 1e-3 * expected.norm()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    loss = model(model.train_data, torch.ones(LAYERS, dtype=dtype))
    for a, b in zip(first, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        torch.testing.assert_close(a, b)


def test_inner_steps_matter():
    model = Gated(torch.float64)
    with torch.no_grad():
        for b in model.b:
            b.zero_()
    found, _ = by_differences(model, 1)
    assert found.norm() > 0  # gates alone change nothing while B is zero
    torch.testing.assert_close(found, exact(model, 1), rtol=1e-3, atol=1e-7)


def test_no_held_out_gradient_gives_no_outer_gradient():
    model = Gated(torch.float64)
    ones = torch.ones(LAYERS, dtype=torch.float64)
    slopes = torch.autograd.grad(model(model.train_data, ones), list(model.parameters()))
    moved = [value - RATE * slope for value, slope in zip(model.parameters(), slopes, strict=True)]
    x = model.held_out_data[0]
    for layer in range(LAYERS):
        x = torch.tanh(x @ model.base[layer].T + x @ moved[layer].T @ moved[LAYERS + layer].T)
    model.held_out_data[1] = x.detach()  # what the model answers after its inner step
    found, _ = by_differences(model, 1)
    assert found.abs().max() < 1e-10
