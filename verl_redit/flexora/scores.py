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

"""What a unit (a layer, or a module of it) is worth: from the gradients of a search's steps to one score per unit.

A method names the statistics that are measured in each step, and how their history becomes a score. Statistics are sums
over a unit's LoRA parameters, so shards of them add up. Everything about a search's evidence (halves of it, resampled
steps, the null model) is the same score of another history.

Flexora (arXiv 2408.10774) gates each layer's LoRA update with w = L·softmax(α) and learns α on held-out data. Here the
gates stay 1 in the forward pass unless asked otherwise, and α follows the gradient it would get. The gradient of a gate
needs no graph: the loss depends on w_l and B_l through their product, so ∂L/∂w_l = ⟨B_l, ∇L⟩ / w_l.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

# statistic -> float64 of shape (steps, units)
History: TypeAlias = Mapping[str, np.ndarray]

# Flexora's released code: Adam for α
ALPHA_RATE, BETA1, BETA2, EPSILON = 0.01, 0.9, 0.999, 1e-8
# of l1_gate: gates are shrunk by this share of the mean size of their gradients, and move by a hundredth of it
L1_PENALTY, L1_RATE = 0.1, 0.01


def softmax_gates(alpha: np.ndarray) -> np.ndarray:
    """L·softmax(α): gates whose mean is 1, float64 of shape (units,) (paper, eq. 4)."""
    powers = np.exp(alpha - alpha.max())
    return len(alpha) * powers / powers.sum()


def alpha_gradient(gates: np.ndarray, gate_gradient: np.ndarray) -> np.ndarray:
    """∂L/∂α from ∂L/∂w, shapes (units,); it sums to zero, so on average half of the units rise whatever the data is."""
    return gates * (gate_gradient - (gates * gate_gradient).sum() / len(gates))


def alphas(gate_gradients: np.ndarray, applied: bool = False) -> np.ndarray:
    """α after Adam's steps down these gate gradients.

    Args:
        gate_gradients: ∂L/∂w of each step, shape (steps, units).
        applied: whether the forward pass had the gates in it; if not, each gradient was taken at gates of 1.

    Returns:
        α of each step, shape (steps, units).
    """
    steps, units = gate_gradients.shape
    alpha, first, second = np.zeros((3, units))
    trace = np.empty((steps, units))
    for step, gradient in enumerate(gate_gradients, start=1):
        gates = softmax_gates(alpha) if applied else np.ones(units)
        slope = alpha_gradient(gates, gradient)
        first = BETA1 * first + (1 - BETA1) * slope
        second = BETA2 * second + (1 - BETA2) * slope**2
        alpha = alpha - ALPHA_RATE * (first / (1 - BETA1**step)) / (np.sqrt(second / (1 - BETA2**step)) + EPSILON)
        trace[step - 1] = alpha
    return trace


def _last_alpha(history: History) -> np.ndarray:
    return alphas(history["gate_gradient"])[-1]


def _as_at_gates_of_one(history: History) -> History:
    """Gate gradients at gates of 1 that move α as these did, which were taken at the gates of all steps before them."""
    gate_gradients = history["gate_gradient"]
    before = [np.zeros(gate_gradients.shape[1]), *alphas(gate_gradients, applied=True)[:-1]]
    pairs = zip(before, gate_gradients, strict=True)
    return {"gate_gradient": np.array([alpha_gradient(softmax_gates(alpha), gradient) for alpha, gradient in pairs])}


def _mean(statistic: str) -> Callable[[History], np.ndarray]:
    return lambda history: history[statistic].mean(0)


def _l1_gates(history: History) -> np.ndarray:
    """Gates after proximal steps with an L1 penalty: those that training does not hold up shrink."""
    gradients = history["gate_gradient"]
    scale = np.abs(gradients).mean() or 1.0
    gates = np.ones(gradients.shape[1])
    for gradient in gradients:
        gates = gates - L1_RATE * gradient / scale
        gates = np.sign(gates) * np.maximum(np.abs(gates) - L1_RATE * L1_PENALTY, 0)
    return gates


@dataclass(frozen=True)
class Method:
    """How units are scored.

    Args:
        measures: statistics of each step; none for a method that reads no gradient.
        passes: what is backpropagated in a step: ``none``, ``whole`` (the batch), ``halves`` (both train, the sum of
            their gradients is the batch's), ``held_out`` (some prompt groups set aside, the rest trains) or
            ``unrolled`` (the same, with inner steps and their products).
        score: history -> float64 of shape (units,), higher is better.
        gates: whether the score is α of the paper, whose sign means better or worse than average.
        source: where it comes from.
        signed: whether it goes by the sign of its statistics, and not by their size (`verl_redit.flexora.evidence`).
        read: a whole history -> one of which any steps can be scored.
    """

    measures: tuple[str, ...]
    passes: str
    score: Callable[[History], np.ndarray]
    gates: bool
    source: str
    signed: bool = False
    read: Callable[[History], History] = field(default=lambda history: history)


_ALPHA = ("gate_gradient",)

METHODS: dict[str, Method] = {
    "align": Method(
        ("agreement",), "halves", _mean("agreement"), False,
        "ours: mean ⟨g1, g2⟩ of two halves of the prompt groups. Unbiased for the square of half a batch's expected "
        "gradient, and at B=0 what `unrolled` has with one step, but for a factor", signed=True,
    ),
    "unrolled": Method(
        _ALPHA, "unrolled", _last_alpha, True, "the paper, algorithm 1: through K inner SGD steps", signed=True
    ),
    "first_order": Method(
        _ALPHA, "held_out", _last_alpha, True,
        "the released code's alternation. Left out of it: gates that act three times over, Adam's state wiped at each "
        "step, losses summed over held-out batches", signed=True,
    ),
    "sign": Method(("kept_sign",), "whole", _mean("kept_sign"), False, "share of gradient entries that keep their sign "
                   "from step to step, after arXiv 2605.12207"),
    "sensitivity": Method(("sensitivity",), "whole", _mean("sensitivity"), False, "mean |weight × gradient|, as in "
                          "AdaLoRA (arXiv 2303.10512) without its uncertainty"),
    "grad_norm": Method(("norm",), "whole", _mean("norm"), False, "mean norm of the gradient"),
    "l1_gate": Method(_ALPHA, "whole", _l1_gates, False, "gates learned on the training loss with an L1 penalty",
                      signed=True),
    "spectral": Method((), "none", _mean("prior"), False, "mean power-law exponent of the base weights' spectra "
                       "(Hill's estimator on the upper half), as in AlphaLoRA (arXiv 2410.10054): layers with lighter "
                       "tails first"),
    "random": Method((), "none", _mean("prior"), False, "keyed by seed and name"),
    "first": Method((), "none", _mean("prior"), False, "the lowest layers"),
    "middle": Method((), "none", _mean("prior"), False, "the layers nearest to the middle"),
    "last": Method((), "none", _mean("prior"), False, "the highest layers"),
    "all": Method((), "none", _mean("prior"), False, "every layer: ordinary LoRA, as a control"),
}  # fmt: skip

APPLIED = {name: replace(METHODS[name], read=_as_at_gates_of_one) for name in ("unrolled", "first_order")}
