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

"""Which template a draw gets: the policies, behind one contract, and the order of rows that goes with them.

A draw is one row leaving the sampler; all rollouts of a group come from one draw and share its template. Every choice
is a function of (seed, epoch, position), so worker count, order of asking and resume change nothing.

PAFT (arXiv 2502.12859, section 3.3) draws one template for every K training steps, independently (`Block`); its
released code binds templates to rows once, before training (`Static`). `Cycle` is ours: the same share for every
template, exactly, and no template twice for a row before it has seen all.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from verl_redit.paft.config import PaftConfig
from verl_redit.paft.pool import Template


def keyed(*key: int | str) -> np.random.Generator:
    """A generator of its own for each key."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big")))


@dataclass(frozen=True)
class Draw:
    """One row leaving the sampler.

    Args:
        row: its number in the data set.
        epoch: passes over the data set before this one.
        position: its place in the epoch's order, from 0.
        number: draws before it in the whole run.
    """

    row: int
    epoch: int
    position: int
    number: int


@dataclass(frozen=True)
class Group:
    """What came of one draw.

    Args:
        template: id of its template.
        item: id of its row.
        accuracy: mean accuracy of its rollouts, or reward if the scorer tells no accuracy, before any dithering.
        parsed: share of them whose answer could be read.
    """

    template: str
    item: str
    accuracy: float
    parsed: float


class Policy:
    """Which template a draw gets.

    Args:
        templates: the pool's train templates.
        settings: of the run.
        rows: rows of the data set.
        shuffle: whether the rows' order changes from epoch to epoch.
    """

    def __init__(self, templates: Sequence[Template], settings: PaftConfig, rows: int, shuffle: bool):
        self.templates = list(templates)
        self.settings = settings
        self.rows = rows
        self.shuffle = shuffle
        self.observed: list[Group] = []
        weights = np.array([template.weight for template in self.templates])
        self.limits = limits_of(weights)

    def order(self, epoch: int) -> np.ndarray:
        """Row numbers in the order of an epoch, int64 of shape (rows,)."""
        return self._keyed("order", epoch).permutation(self.rows) if self.shuffle else np.arange(self.rows)

    def next(self, draw: Draw) -> int:
        """Number of the template that this draw gets."""
        raise NotImplementedError

    def observe(self, groups: Sequence[Group]) -> None:
        """Learn what came of draws."""
        self.observed += groups

    def state_dict(self) -> dict[str, Any]:
        """What `next` depends on beyond the draw, as JSON holds it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it over."""

    def metrics(self) -> dict[str, float]:
        """Of the groups observed since the last call, over their templates."""
        if not self.observed:
            return {}
        of_template: dict[str, list[Group]] = defaultdict(list)
        for group in self.observed:
            of_template[group.template].append(group)
        accuracy = [fmean(group.accuracy for group in groups) for groups in of_template.values()]
        parsed = [fmean(group.parsed for group in groups) for groups in of_template.values()]
        most = max(map(len, of_template.values())) / len(self.observed)
        self.observed = []
        return {
            "paft/templates": len(of_template),
            "paft/largest_share": most,
            "paft/accuracy/mean": fmean(accuracy),
            "paft/accuracy/std": pstdev(accuracy),
            "paft/accuracy/min": min(accuracy),
            "paft/parsed/mean": fmean(parsed),
            "paft/parsed/min": min(parsed),
        }

    def _keyed(self, purpose: str, *key: int | str) -> np.random.Generator:
        return keyed(self.settings.seed, purpose, *key)

    @lru_cache(maxsize=2)  # noqa: B019  a policy lives as long as its run
    def _variates(self, purpose: str, epoch: int) -> np.ndarray:
        """One number in [0, 1) for each position of an epoch, or for each row: float64 of shape (rows,)."""
        return self._keyed(purpose, epoch).random(self.rows)


def limits_of(weights: np.ndarray) -> np.ndarray:
    """Upper ends of the templates' shares of [0, 1): float64 of the same shape."""
    limits = np.cumsum(weights / weights.sum())
    limits[np.flatnonzero(weights)[-1] :] = 1.0
    return limits


def find(limits: np.ndarray, variate: float) -> int:
    """Number of the template whose share of [0, 1) holds ``variate``; ``limits`` as `limits_of` gives them."""
    return int(np.searchsorted(limits, variate, side="right"))


class Fixed(Policy):
    """One template for all: ordinary fine-tuning."""

    def __init__(self, *args):
        super().__init__(*args)
        ids = [template.id for template in self.templates]
        wanted = self.settings.template
        drawn = next(number for number, template in enumerate(self.templates) if template.weight > 0)
        self.only = drawn if wanted is None else ids.index(wanted)

    def next(self, draw):
        return self.only


class Static(Policy):
    """One template for each row, for ever: what the released code does."""

    def next(self, draw):
        return find(self.limits, self._variates("row", 0)[draw.row])


class Uniform(Policy):
    """A template by weight for each draw, independently: the paper with K = 1."""

    def next(self, draw):
        return find(self.limits, self._variates("draw", draw.epoch)[draw.position])


class Block(Policy):
    """A template by weight for each ``paft.block`` draws in a row: the paper's K, in the released code's unit."""

    def next(self, draw):
        return self._of_block(draw.number // self.settings.block)

    @lru_cache(maxsize=2)  # noqa: B019
    def _of_block(self, block: int) -> int:
        return find(self.limits, self._keyed("block", block).random())


class _Rounds(Policy):
    """Every part once in a round of draws; a row gets each part once in as many epochs as there are parts."""

    parts: int

    def order(self, epoch):
        if not self.shuffle:
            return np.arange(self.rows)
        # shuffled within each part; the nth rows of all parts make round n, in shuffled order
        variates = self._keyed("order", epoch).random((2, self.rows))
        by_part = np.lexsort((variates[0], self._parts()))
        sizes = np.bincount(self._parts(), minlength=self.parts)
        rounds = np.empty(self.rows, dtype=np.int64)
        rounds[by_part] = np.concatenate([np.arange(size) for size in sizes])
        return np.lexsort((variates[1], rounds))

    @lru_cache(maxsize=1)  # noqa: B019
    def _parts(self) -> np.ndarray:
        """Part of each row in epoch 0, int64 of shape (rows,)."""
        seats = self._keyed("seats").permutation(self.rows) if self.shuffle else np.arange(self.rows)
        return seats % self.parts

    def _part(self, draw: Draw) -> int:
        return int(self._parts()[draw.row] + draw.epoch) % self.parts


class Cycle(_Rounds):
    """Shuffled rounds: every template once per round. Templates with weight 0 are left out, the others count alike."""

    def __init__(self, *args):
        super().__init__(*args)
        shown = np.flatnonzero([template.weight for template in self.templates])
        self.deck = self._keyed("deck").permutation(shown)
        self.parts = len(self.deck)

    def next(self, draw):
        return int(self.deck[self._part(draw)])


class Stratified(_Rounds):
    """Every tier once per round, and within the tier a template by weight."""

    def __init__(self, *args):
        super().__init__(*args)
        tiers = sorted({template.tier or "" for template in self.templates if template.weight > 0})
        weights = np.array([template.weight for template in self.templates])
        tier = np.array([template.tier or "" for template in self.templates])
        self.tier_limits = [limits_of(np.where(tier == name, weights, 0.0)) for name in tiers]
        self.parts = len(tiers)

    def next(self, draw):
        return find(self.tier_limits[self._part(draw)], self._variates("draw", draw.epoch)[draw.position])
