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

"""Scores of the methods that read no gradient: by place, by chance, or from the base weights."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from verl_redit.flexora.layers import layer_of


def prior(method: str, units: Mapping[str, Sequence[str]], seed: int) -> np.ndarray:
    """``first``, ``middle``, ``last``, ``random`` or ``all``: float64 of shape (units,).

    Args:
        units: unit -> its modules, from the lowest layer to the highest.
    """
    layers = [layer_of(modules[0]) for modules in units.values()]
    numbers = {layer: number for number, layer in enumerate(dict.fromkeys(layers))}
    depth = np.array([numbers[layer] for layer in layers], dtype=float)
    if method == "random":
        digests = [hashlib.blake2b(f"{seed} {unit}".encode(), digest_size=6).digest() for unit in units]
        return np.array([int.from_bytes(digest, "big") / 2**48 for digest in digests])
    scores = {"first": -depth, "last": depth, "middle": -np.abs(depth - depth.max() / 2), "all": np.ones(len(depth))}
    return scores[method]


@torch.no_grad()
def tail_exponent(weight: torch.Tensor) -> float:
    """Hill's estimate of the power law of a weight matrix' spectrum, from the upper half of its eigenvalues.

    Small for heavy tails, which well-trained matrices have (AlphaLoRA, arXiv 2410.10054, section 3).

    Args:
        weight: of a linear module, shape (out, in).
    """
    short = weight.float() if len(weight) <= weight.shape[1] else weight.float().T
    eigenvalues = torch.linalg.eigvalsh(short @ short.T).clamp(min=1e-30).flip(0)
    upper = eigenvalues[: max(len(eigenvalues) // 2, 2)].log()
    spread = (upper[:-1] - upper[-1]).mean().clamp(min=1e-6)  # equal eigenvalues have no tail at all
    return float(1 + 1 / spread)


def spectral(
    units: Mapping[str, Sequence[str]], weights: Mapping[str, torch.Tensor], device: str | int = "cpu"
) -> np.ndarray:
    """Mean `tail_exponent` of each unit's modules, float64 of shape (units,).

    Args:
        weights: module -> its base weight.
        device: where spectra are computed, one weight after the other.
    """
    exponents = {name: tail_exponent(weights[name].to(device)) for modules in units.values() for name in modules}
    return np.array([np.mean([exponents[module] for module in modules]) for modules in units.values()])
