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
batch prompts too. A search should not see a row again later, or both halves know its noise.

The null model shuffles the units of each step: it keeps every number and takes away what belongs to a unit. Where a
method's statistics are as often below zero as above without a signal (inner products of gradients, gradients of gates),
it flips their signs at random instead, which keeps how loud each unit is: among four units of very different loudness,
shuffling lets noise pass in up to four of ten searches.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from verl_redit.flexora.scores import History

DRAWS = 200
LEVEL = 0.95
FEWEST_STEPS = 4

Score = Callable[[History], np.ndarray]
Choose = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Evidence:
    """What the history of a search says of its result.

    Args:
        steps: of the history.
        jaccard: overlap of the units chosen from either half of the steps, from 0 to 1.
        correlation: Spearman's, of the scores from either half.
        linear: Pearson's, of the same.
        chance_jaccard: 95th percentile of the overlap under the null model.
        chance_correlation: the same of Spearman's.
        chance_linear: the same of Pearson's.
        chance_agreement: the same of the mean of overlap and Spearman's.
        kept_by_chance: share of units that the rule keeps under the null model.
        stability: mean overlap of the final choice with those that the last third of the steps would have given.
        intervals: of each unit's score, over resampled steps, the middle 95 %; shape (units, 2).
    """

    steps: int
    jaccard: float
    correlation: float
    linear: float
    chance_jaccard: float
    chance_correlation: float
    chance_linear: float
    chance_agreement: float
    kept_by_chance: float
    stability: float
    intervals: list[list[float]]

    @property
    def beats_chance(self) -> bool:
        """Whether the halves agree on what to choose and on the order of all units, taken together, better than under
        the null model in 95 of 100 searches. Where units are so few that they agree fully there in five of 100,
        Pearson's correlation of the scores decides."""
        if self.chance_agreement < 1:
            return agreement(self.jaccard, self.correlation) > self.chance_agreement
        return self.linear > self.chance_linear


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


def agreement(overlap: float, rank_correlation: float) -> float:
    """One number of both: the overlap has few values, the correlation counts units that no choice depends on."""
    return (overlap + rank_correlation) / 2


def linear(left: np.ndarray, right: np.ndarray) -> float:
    """Pearson's correlation; 0 if either side has one value only."""
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])


def gather(history: History, score: Score, choose: Choose, seed: int, centred: bool = False) -> Evidence | None:
    """The evidence of a history; None if it has fewer than `FEWEST_STEPS` steps.

    Args:
        history: statistic -> float64 (steps, units).
        score: history -> score of each unit.
        choose: scores -> what is kept.
        seed: of resamples and of the null model.
        centred: whether the null model flips signs instead of shuffling units.
    """
    steps, units = next(iter(history.values())).shape
    if steps < FEWEST_STEPS:
        return None
    random = np.random.default_rng([seed, steps, units])

    def at(rows: np.ndarray | slice, of: History = history) -> np.ndarray:
        return score({name: values[rows] for name, values in of.items()})

    def halves(of: History) -> tuple[float, float, float]:
        first, second = at(slice(0, steps // 2), of), at(slice(steps // 2, None), of)
        return jaccard(choose(first), choose(second)), correlation(first, second), linear(first, second)

    null = []
    for _ in range(DRAWS):
        if centred:
            signs = random.choice([-1, 1], size=(steps, units))
            noise = {name: values * signs for name, values in history.items()}
        else:
            order = random.permuted(np.tile(np.arange(units), (steps, 1)), axis=1)
            noise = {name: np.take_along_axis(values, order, axis=1) for name, values in history.items()}
        overlap, ranks, straight = halves(noise)
        null.append([overlap, ranks, straight, agreement(overlap, ranks), choose(score(noise)).mean()])
    *agreements, kept = np.array(null).T
    limits = [float(np.quantile(values, LEVEL)) for values in agreements]
    resampled = [at(np.sort(random.integers(steps, size=steps))) for _ in range(DRAWS)]
    intervals = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).T
    final = choose(score(history))
    last = range(steps - max(steps // 3, 1), steps)
    found = halves(history)
    return Evidence(
        steps=steps,
        jaccard=found[0],
        correlation=found[1],
        linear=found[2],
        chance_jaccard=limits[0],
        chance_correlation=limits[1],
        chance_linear=limits[2],
        chance_agreement=limits[3],
        kept_by_chance=float(kept.mean()),
        stability=float(np.mean([jaccard(final, choose(at(slice(0, end)))) for end in last])),
        intervals=intervals.tolist(),
    )
