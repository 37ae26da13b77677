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

"""Weights that follow losses: templates that the model fails on are drawn more often.

Not in PAFT, which names the choice of templates as future work. The weights are exponentiated losses, as in group
distributionally robust optimisation (Sagawa et al., arXiv 1911.08731), mixed with a uniform floor and capped. A
template's loss is confounded with the difficulty of the items it was drawn with, so what an item usually loses is
subtracted. A template whose answers cannot be read looks like the hardest of all; it is set aside instead of loved.
"""

import logging
import math
from typing import Any

import numpy as np

from verl_redit.paft.config import Adaptive
from verl_redit.paft.selection import Group, Policy, find, limits_of

logger = logging.getLogger(__name__)
WINDOW = 64  # latest groups of a template that CVaR is taken over


def weights_of(losses: np.ndarray, shown: np.ndarray, settings: Adaptive) -> np.ndarray:
    """Shares of the draws: exponentiated losses on a uniform floor, capped.

    Args:
        losses: float64 of shape (templates,).
        shown: which templates are drawn at all, bool of shape (templates,), with at least one True.
        settings: ``rate``, ``floor`` and ``cap``.

    Returns:
        float64 of shape (templates,), with sum 1 and 0 where ``shown`` is False.
    """
    share = np.where(shown, np.exp(settings.rate * (losses - losses[shown].max())), 0.0)
    share = (1 - settings.floor) * share / share.sum() + settings.floor * shown / shown.sum()
    limit = settings.cap / shown.sum()
    while (over := share > limit * (1 + 1e-9)).any():
        # what the cap takes goes to those below it, in proportion
        below = shown & (share < limit)
        excess = (share[over] - limit).sum()
        share[over] = limit
        room = share[below] if share[below].any() else np.ones(below.sum())
        share[below] += excess * room / room.sum()
    return share


class AdaptivePolicy(Policy):
    """Draws by `weights_of` the templates' losses, which `observe` keeps."""

    def __init__(self, *args):
        super().__init__(*args)
        self.how = self.settings.adaptive
        self.number = {template.id: number for number, template in enumerate(self.templates)}
        self.groups = np.zeros(len(self.templates), dtype=np.int64)
        self.losses = np.zeros(len(self.templates))
        self.parsed = np.zeros(len(self.templates))
        self.latest: list[list[float]] = [[] for _ in self.templates]
        self.items: dict[str, tuple[int, float]] = {}
        self.usual = 0.0  # mean loss of all groups
        self.shown = np.array([template.weight > 0 for template in self.templates])
        self.share = weights_of(self.losses, self.shown, self.how)

    def next(self, draw):
        return find(limits_of(self.share), self._variates("draw", draw.epoch)[draw.position])

    def observe(self, groups):
        super().observe(groups)
        for group in groups:
            self._take(group)
        self._quarantine()
        self.share = weights_of(self._values(), self.shown, self.how)

    def _take(self, group: Group) -> None:
        number, accuracy = self.number[group.template], group.accuracy
        loss = math.sqrt(accuracy * (1 - accuracy)) if self.how.loss == "signal" else 1 - accuracy
        count, of_item = self.items.get(group.item, (0, 0.0))
        # what the item usually loses, as if it had lost once what all items do: a new item is an average one
        usual = (count * of_item + self.usual) / (count + 1)
        excess = loss - usual if self.groups.any() else 0.0
        self.usual += (loss - self.usual) / (self.groups.sum() + 1)
        self.items[group.item] = (count + 1, of_item + (loss - of_item) / (count + 1))
        self.groups[number] += 1
        step = max(self.how.memory, 1 / self.groups[number])  # a plain mean until the memory is full
        self.parsed[number] += step * (group.parsed - self.parsed[number])
        self.losses[number] += step * (excess - self.losses[number])
        self.latest[number] = [*self.latest[number], excess][-WINDOW:]

    def _values(self) -> np.ndarray:
        """What the weights are made from, float64 of shape (templates,)."""
        if self.how.loss == "cvar":
            worst = [sorted(losses)[-math.ceil(self.how.worst * len(losses)) :] for losses in self.latest]
            return np.array([np.mean(losses) if losses else 0.0 for losses in worst])
        if self.how.explore:
            seldom = np.sqrt(np.log(1 + self.groups.sum()) / (1 + self.groups))
            return self.losses + self.how.explore * seldom
        return self.losses

    def _quarantine(self) -> None:
        """Set aside templates whose replies can be read far less often than the other templates' replies."""
        known = self.shown & (self.groups >= self.how.quarantine_after)
        if not known.any():
            return
        bar = self.how.quarantine_below * self.parsed[known].mean()
        for number in np.flatnonzero(known & (self.parsed < bar)):
            self.shown[number] = False
            logger.warning(
                "paft: template %s is not drawn any more: %.0f%% of its replies can be read, %.0f%% on average",
                self.templates[number].id, 100 * self.parsed[number], 100 * self.parsed[known].mean(),
            )  # fmt: skip

    def metrics(self):
        measured = super().metrics()
        if measured:
            shown = self.share[self.shown]
            measured["paft/weight/max"] = float(shown.max())
            measured["paft/weight/min"] = float(shown.min())
            measured["paft/quarantined"] = sum(
                template.weight > 0 and not shown for template, shown in zip(self.templates, self.shown, strict=True)
            )
        return measured

    def state_dict(self) -> dict[str, Any]:
        return {
            "groups": self.groups.tolist(),
            "losses": self.losses.tolist(),
            "parsed": self.parsed.tolist(),
            "latest": self.latest,
            "items": self.items,
            "usual": self.usual,
            "shown": self.shown.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.groups = np.array(state["groups"], dtype=np.int64)
        self.losses, self.parsed = np.array(state["losses"]), np.array(state["parsed"])
        self.latest = [list(losses) for losses in state["latest"]]
        self.usual = state["usual"]
        self.items = {item: (count, usual) for item, (count, usual) in state["items"].items()}
        self.shown = np.array(state["shown"])
        self.share = weights_of(self._values(), self.shown, self.how)
