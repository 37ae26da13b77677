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

"""How far a grid's figures would move with other items and templates: noise, resamples and their intervals."""

from dataclasses import dataclass

import numpy as np

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: np.ndarray) -> "Estimate":
        """With the percentile interval of what the value is in each draw, float64 of shape (draws,)."""
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(float(value), float(low), float(high))


def noise_variance(accuracy: np.ndarray) -> float:
    """How much variance of the templates' accuracies is expected from drawing a finite number of items.

    Let item i be a row x_i of T cells, drawn at random, with means mu (the templates' true accuracies) and covariances
    S. The observed accuracies are the mean of n rows, so they have means mu and covariances S / n, and their variance
    over templates is, on average over draws of items,

        E[var(observed)] = var(mu) + (d - c) / n,

    where d is the mean of S's diagonal and c the mean of what is off it: all templates see the same items, so what
    moves every template alike (a hard item) does not count. In the two-way layout without repetition the residuals
    r_it = x_it - row mean - column mean + overall mean give an unbiased estimate of d - c,

        sum r_it ** 2 / ((n - 1) (T - 1)),

    for d - c is T / (T - 1) times the templates' mean residual variance. Nothing is assumed about S, so templates may
    differ in noise; randomness of sampled answers is in S too. Items must have been drawn independently.

    Args:
        accuracy: float64 of shape (items, templates), at least two of each.
    """
    items, templates = accuracy.shape
    residuals = accuracy - accuracy.mean(axis=1, keepdims=True) - accuracy.mean(axis=0, keepdims=True) + accuracy.mean()
    return float((residuals**2).sum() / ((items - 1) * (templates - 1)) / items)


@dataclass(frozen=True)
class Resamples:
    """Items and templates drawn anew, both with replacement, as if the run were measured again with others of the same
    kind: the pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1(2)), a little too wide for the mean.

    Args:
        items: how often each draw has each item, float64 of shape (draws, items).
        templates: how often each draw has each template, float64 of shape (draws, templates).
    """

    items: np.ndarray
    templates: np.ndarray

    @classmethod
    def draw(cls, shape: tuple[int, ...], generator: np.random.Generator) -> "Resamples":
        """`DRAWS` of them, for outcomes of shape (items, templates)."""
        items, templates = (
            generator.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64) for count in shape
        )
        return cls(items, templates)

    def template_means(self, accuracy: np.ndarray) -> np.ndarray:
        """Accuracy of each template on the drawn items, float64 of shape (draws, templates)."""
        return self.items @ accuracy / len(accuracy)

    def mean(self, accuracy: np.ndarray) -> np.ndarray:
        """Mean accuracy of each draw, float64 of shape (draws,)."""
        return (self.templates * self.template_means(accuracy)).mean(axis=1)

    def min(self, accuracy: np.ndarray) -> np.ndarray:
        """Accuracy of each draw's worst template, float64 of shape (draws,).

        The interval from it is about the worst of as many templates and items, drawn anew. The worst one measured here
        owes something to bad luck, and its accuracy on endless items would be higher.
        """
        return np.where(self.templates > 0, self.template_means(accuracy), np.inf).min(axis=1)

    def variance(self, accuracy: np.ndarray) -> np.ndarray:
        """Variance over each draw's templates, ddof 1, float64 of shape (draws,), scaled to the observed one.

        Unscaled, it would be off on average: repeated templates shrink it by (T - 1) / T, and repeated items add their
        noise a second time, (n - 1) / n of it. Both are known exactly and taken out. In simulations the 95 % interval
        held the true value about 95 times in 100 from ten templates on, 82 to 90 times with three to eight.
        """
        items, templates = accuracy.shape
        deviations = self.template_means(accuracy) - self.mean(accuracy)[:, None]
        variances = (self.templates * deviations**2).sum(axis=1) / (templates - 1)
        observed = accuracy.mean(axis=0).var(ddof=1)
        expected = (templates - 1) / templates * (observed + noise_variance(accuracy) * (items - 1) / items)
        return variances * (observed / expected) if expected else variances
