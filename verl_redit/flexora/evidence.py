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

"""Is a selection more than chance? What the first half of the steps says, what the second, and what chance would say.

Halves follow one another, because neighbouring steps are alike: they share weights, and with several epochs over a
batch prompts too. Steps on the same prompts share their noise, so the null models treat them alike, and they are
resampled together. A search should not see a row again later, or both halves know its noise.

The null model shuffles the units of each step: it keeps every number and takes away what belongs to a unit. Agreement
is the mean of the choices' overlap, which has few values, and the rank correlation of all scores. Where so few choices
are possible that chance often gives the same one (two of four units, one of twelve), it is the gap in either half
between the units that the other half chooses and the rest, which must also be above 0.

Methods that go by the sign of their statistics must pass a second null model, which flips the signs of whole steps:
each unit stays as loud as it is, and units that move together still do. (Shuffling, or flipping each sign by itself,
lets such noise pass in up to four of ten searches.) There it is steadiness, the inner product of both halves' scores,
less their means: a correlation would not see that signs that change cancel. By itself it would pass a choice of six
layers of which one is steady. For gates a steady sign need not mean that a layer is of use: curvature, or a KL term,
gives their gradients a sign as well.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from verl_redit.flexora.scores import History

DRAWS = 200
LEVEL = 0.95
FEWEST = 4
FEW_CHOICES = round(1 / (1 - LEVEL))  # of no more than these, chance gives the same one too often
BOTH = "mean of overlap and rank correlation"
GAP = "gap between the chosen units and the rest"

Score = Callable[[History], np.ndarray]
Choose = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Evidence:
    """What the history of a search says of its result.

    Args:
        steps: of the history.
        measure: what ``agreement`` is, in words.
        agreement: of the halves, as the verdict is made by.
        chance_agreement: its 95th percentile under the null model.
        steadiness: inner product of the halves' scores, less their means; None for methods that do not go by signs.
        chance_steadiness: its 95th percentile when the signs of whole steps are flipped.
        jaccard: overlap of the units chosen from either half of the steps, from 0 to 1.
        chance_jaccard: as above.
        correlation: Spearman's, of the scores from either half.
        chance_correlation: as above.
        kept_by_chance: share of units that the rule keeps under the null model.
        stability: mean overlap of the final choice with those that the last third of the steps would have given.
        intervals: of each unit's score, over resampled batches, the middle 95 %; shape (units, 2).
    """

    steps: int
    measure: str
    agreement: float
    chance_agreement: float
    steadiness: float | None
    chance_steadiness: float | None
    jaccard: float
    chance_jaccard: float
    correlation: float
    chance_correlation: float
    kept_by_chance: float
    stability: float
    intervals: list[list[float]]

    @property
    def beats_chance(self) -> bool:
        """Whether the halves agree better than in 95 of 100 searches under each null model that there is."""
        judged = [(self.agreement, self.chance_agreement), (self.steadiness, self.chance_steadiness)]
        return all(found > limit for found, limit in judged if found is not None and limit is not None)


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Overlap of two choices, bool of shape (units,); 1 if both are empty."""
    union = (left | right).sum()
    return float((left & right).sum() / union) if union else 1.0


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's rank correlation; 0 if either side has one value only."""
    from scipy import stats  # half a second, which workers that do not search need not spend

    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    return float(stats.spearmanr(left, right).statistic)


def gap(kept: np.ndarray, scores: np.ndarray) -> float:
    """Lowest score of the units that are kept less the highest of the others, in units of the scores' range, from -1 to
    1; -1 if there are no two sides.

    Args:
        kept: bool of shape (units,), by other scores than these.
    """
    if kept.all() or not kept.any():
        return -1.0
    return float((scores[kept].min() - scores[~kept].max()) / (np.ptp(scores) or 1.0))


def product(left: np.ndarray, right: np.ndarray) -> float:
    """Inner product of the scores less their means."""
    return float((left - left.mean()) @ (right - right.mean()))


def gather(
    history: History,
    score: Score,
    choose: Choose,
    seed: int,
    signed: bool = False,
    batches: Sequence[str] | None = None,
) -> Evidence | None:
    """The evidence of a history; None if it has fewer than `FEWEST` batches.

    Args:
        history: statistic -> float64 (steps, units).
        score: history -> score of each unit.
        choose: scores -> what is kept.
        seed: of resamples and of the null model.
        signed: whether the method goes by the sign of its statistics.
        batches: a name of the prompts of each step; None if no two steps share theirs.
    """
    steps, units = next(iter(history.values())).shape
    batch = np.unique(batches or np.arange(steps), return_inverse=True)[1]
    of_batch = [np.flatnonzero(batch == number) for number in range(batch.max() + 1)]
    if len(of_batch) < FEWEST:
        return None
    random = np.random.default_rng([seed, steps, units])

    def at(rows: np.ndarray | slice, of: History = history) -> np.ndarray:
        return score({name: values[rows] for name, values in of.items()})

    def halves(of: History) -> tuple[np.ndarray, np.ndarray]:
        return at(slice(0, steps // 2), of), at(slice(steps // 2, None), of)

    def compared(of: History) -> dict[str, float]:
        first, second = halves(of)
        overlap, ranks = jaccard(choose(first), choose(second)), correlation(first, second)
        between = (gap(choose(first), second) + gap(choose(second), first)) / 2
        return {
            "jaccard": overlap, "correlation": ranks, BOTH: (overlap + ranks) / 2, GAP: between,
            "kept": float(choose(score(of)).mean()),
        }  # fmt: skip

    def shuffled() -> History:
        order = random.permuted(np.tile(np.arange(units), (len(of_batch), 1)), axis=1)[batch]
        return {name: np.take_along_axis(values, order, axis=1) for name, values in history.items()}

    def flipped() -> History:
        signs = random.choice([-1, 1], size=(len(of_batch), 1))[batch]
        return {name: values * signs for name, values in history.items()}

    null = [compared(shuffled()) for _ in range(DRAWS)]
    limits = {name: _limit([draw[name] for draw in null]) for name in null[0]}
    limits[GAP] = max(limits[GAP], 0.0)
    found = compared(history)
    final = choose(score(history))
    measure = BOTH if math.comb(units, int(final.sum())) > FEW_CHOICES else GAP
    drawn = [random.integers(len(of_batch), size=len(of_batch)) for _ in range(DRAWS)]
    resampled = [at(np.sort(np.concatenate([of_batch[number] for number in numbers]))) for numbers in drawn]
    intervals = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).T
    last = range(steps - max(steps // 3, 1), steps)
    return Evidence(
        steps=steps,
        measure=measure,
        agreement=found[measure],
        chance_agreement=limits[measure],
        steadiness=product(*halves(history)) if signed else None,
        chance_steadiness=_limit([product(*halves(flipped())) for _ in range(DRAWS)]) if signed else None,
        jaccard=found["jaccard"],
        chance_jaccard=limits["jaccard"],
        correlation=found["correlation"],
        chance_correlation=limits["correlation"],
        kept_by_chance=float(np.mean([draw["kept"] for draw in null])),
        stability=float(np.mean([jaccard(final, choose(at(slice(0, end)))) for end in last])),
        intervals=intervals.tolist(),
    )


def _limit(of_chance: list[float]) -> float:
    return float(np.quantile(of_chance, LEVEL))
