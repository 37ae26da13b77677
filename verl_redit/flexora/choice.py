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

"""Which units to train, from their scores: the rules."""

from collections.abc import Callable

import numpy as np

RULES = ["top_k", "budget", "positive", "z_score"]


class NoChoice(ValueError):
    """A rule that keeps no unit or all of them; the message says how to get a selection."""


def chooser(rule: str, k: int | None, budget: float, z: float, sizes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The rule as a function from scores to what it keeps, bool of the same shape (units,).

    Args:
        rule: ``top_k`` (the best ``k``), ``budget`` (the best that fit into a share of all LoRA parameters),
            ``positive`` (score above 0: the paper's α > 0) or ``z_score`` (``z`` standard deviations above the mean).
        k: units to keep; None for half of them, rounded up.
        budget: share of parameters, above 0 and below 1.
        sizes: LoRA parameters of each unit, shape (units,).
    """
    rules = {
        "top_k": lambda scores: _best(scores, (len(scores) + 1) // 2 if k is None else k),
        "budget": lambda scores: _within(scores, budget, sizes),
        "positive": lambda scores: scores > 0,
        "z_score": lambda scores: scores > scores.mean() + z * scores.std(),
    }
    return rules[rule]


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    kept = np.zeros(len(scores), dtype=bool)
    kept[np.argsort(-scores, kind="stable")[:k]] = True
    return kept


def _within(scores: np.ndarray, budget: float, sizes: np.ndarray) -> np.ndarray:
    kept = np.zeros(len(scores), dtype=bool)
    left = budget * sizes.sum()
    for unit in np.argsort(-scores, kind="stable"):
        if sizes[unit] <= left:
            kept[unit] = True
            left -= sizes[unit]
    return kept


def refuse_empty(kept: np.ndarray, rule: str) -> None:
    """Raise NoChoice if nothing or everything is kept."""
    if not kept.any():
        raise NoChoice(f"flexora.rule={rule} keeps none of {len(kept)} units; use rule=top_k, or a larger budget")
    if kept.all():
        raise NoChoice(
            f"flexora.rule={rule} keeps all of {len(kept)} units, which is ordinary LoRA; use rule=top_k with a "
            "smaller k, or drop +flexora"
        )
