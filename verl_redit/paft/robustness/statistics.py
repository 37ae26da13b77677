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

"""How much accuracy depends on the template: statistics of a complete grid of items and templates.

The paper (PAFT, arXiv 2502.12859, section 4) gives mean, standard deviation and Top of one accuracy for each held-out
prompt, later the minimum too. All prompts there share a finite set of items, so a part of that standard deviation is
noise of the items; here it is measured and can be taken out, and each figure that is compared has an interval.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from verl_redit.paft.robustness.resampling import Estimate, Resamples, noise_variance

WORST_SHARE = 0.1
ROUNDING = 1e-9  # means of thirds and the like are not exact
MOST_NAMES = 5


class GridsDifferError(ValueError):
    """Two grids that cannot be paired; the message says what each has that the other has not."""


@dataclass(frozen=True)
class Outcomes:
    """What came out for every item under every template. Several samples of a cell are averaged.

    Args:
        items: ids, one for each row.
        templates: ids, one for each column.
        tiers: tier of each template, which may be blank.
        accuracy: share of right samples, float64 of shape (items, templates), as are all that follow.
        parsed: share of samples with an answer that could be read; NaN where the scorer does not tell.
        wrong_but_parsed: share of samples with an answer that could be read and is wrong, or NaN.
        length: mean length of a response, in whatever unit it was measured.
    """

    items: tuple[str, ...]
    templates: tuple[str, ...]
    tiers: tuple[str, ...]
    accuracy: np.ndarray
    parsed: np.ndarray
    wrong_but_parsed: np.ndarray
    length: np.ndarray

    def of_tier(self, tier: str) -> "Outcomes":
        """All items under the templates of one tier."""
        chosen = [column for column, its_tier in enumerate(self.tiers) if its_tier == tier]
        return Outcomes(
            self.items,
            tuple(self.templates[column] for column in chosen),
            (tier,) * len(chosen),
            self.accuracy[:, chosen],
            self.parsed[:, chosen],
            self.wrong_but_parsed[:, chosen],
            self.length[:, chosen],
        )


@dataclass(frozen=True)
class Robustness:
    """What a complete grid of items and templates says about one run. Shares and accuracies are from 0 to 1.

    Args:
        mean: mean accuracy.
        std: standard deviation of the templates' accuracies, ddof 1; None for a single template.
        std_without_noise: the same without the noise of a finite set of items (`noise_variance`).
        min: accuracy of the worst template.
        tenth_percentile: of the templates' accuracies, linearly interpolated.
        cvar: mean accuracy of the worst tenth of the templates (`cvar`).
        spread: best template's accuracy minus the worst one's.
        top: share of templates at or above the bar, the paper's Top.
        flips: share of items that are right under some templates and wrong under others.
        right_everywhere: share of items that are right under all templates.
        unparsed: share of samples without an answer that could be read; None if the scorer does not tell for all.
        wrong_but_parsed: share of samples with an answer that could be read and is wrong, or None.
        length: mean length of a response. The paper has hours of inference, which depend on the machine too.
    """

    mean: Estimate
    std: Estimate | None
    std_without_noise: Estimate | None
    min: Estimate
    tenth_percentile: float
    cvar: float
    spread: float
    top: float
    flips: float
    right_everywhere: float
    unparsed: float | None
    wrong_but_parsed: float | None
    length: float


@dataclass(frozen=True)
class TemplateScore:
    """What it says about one template; the interval is over items alone."""

    id: str
    tier: str
    accuracy: Estimate
    unparsed: float | None
    wrong_but_parsed: float | None
    length: float


@dataclass(frozen=True)
class Difference:
    """One run's figures minus another's, on the same items and templates."""

    mean: Estimate
    std: Estimate
    min: Estimate


def measure(outcomes: Outcomes, bar: float, generator: np.random.Generator) -> Robustness:
    """All figures of one run.

    An item counts as right under a template if more than half of its samples are.

    Args:
        outcomes: at least two items and one template.
        bar: accuracy from which a template counts for ``top``. The paper has 0.9, 0.8 or 0.85, by data set, and leaves
            open whether the bar itself counts; here it does.
        generator: draws the resamples.
    """
    accuracy = outcomes.accuracy
    means = accuracy.mean(axis=0)
    right = accuracy > 0.5
    resamples = Resamples.draw(accuracy.shape, generator)
    std = std_without_noise = None
    if len(outcomes.templates) > 1:
        variance, variances = means.var(ddof=1), resamples.variance(accuracy)
        noise = noise_variance(accuracy)
        std = Estimate.of(np.sqrt(variance), np.sqrt(variances))
        std_without_noise = Estimate.of(_root(variance - noise), _root(variances - noise))
    return Robustness(
        mean=Estimate.of(means.mean(), resamples.mean(accuracy)),
        std=std,
        std_without_noise=std_without_noise,
        min=Estimate.of(means.min(), resamples.min(accuracy)),
        tenth_percentile=float(np.quantile(means, 0.1)),
        cvar=cvar(means),
        spread=float(np.ptp(means)),
        top=float((means >= bar - ROUNDING).mean()),
        flips=float((right.any(axis=1) & ~right.all(axis=1)).mean()),
        right_everywhere=float(right.all(axis=1).mean()),
        unparsed=_known(1 - outcomes.parsed.mean()),
        wrong_but_parsed=_known(outcomes.wrong_but_parsed.mean()),
        length=float(outcomes.length.mean()),
    )


def measure_templates(outcomes: Outcomes, generator: np.random.Generator) -> list[TemplateScore]:
    """The figures of each template, in the outcomes' order.

    The interval is a percentile one over resampled items, so a template that is right or wrong on every item has an
    interval without width.
    """
    means = Resamples.draw(outcomes.accuracy.shape, generator).template_means(outcomes.accuracy)
    return [
        TemplateScore(
            id=outcomes.templates[column],
            tier=outcomes.tiers[column],
            accuracy=Estimate.of(outcomes.accuracy[:, column].mean(), means[:, column]),
            unparsed=_known(1 - outcomes.parsed[:, column].mean()),
            wrong_but_parsed=_known(outcomes.wrong_but_parsed[:, column].mean()),
            length=float(outcomes.length[:, column].mean()),
        )
        for column in range(len(outcomes.templates))
    ]


def compare(outcomes: Outcomes, baseline: Outcomes, generator: np.random.Generator) -> Difference:
    """``outcomes`` minus ``baseline``. Each resample takes the same items and templates from both, so what both share
    (hard items, odd templates) cancels and the intervals are narrower than those of two runs side by side.

    Args:
        outcomes: at least two items and two templates.
        baseline: the same items and templates, of the same tiers, in the same order.

    Raises:
        GridsDifferError: they are not the same. Comparing what both have would hide that the figures differ.
    """
    if differing := [
        *_only_in_one("item", outcomes.items, baseline.items),
        *_only_in_one("template", _with_tiers(outcomes), _with_tiers(baseline)),
    ]:
        raise GridsDifferError("; ".join(differing))
    new, old = outcomes.accuracy, baseline.accuracy
    resamples = Resamples.draw(new.shape, generator)
    return Difference(
        mean=Estimate.of(new.mean() - old.mean(), resamples.mean(new) - resamples.mean(old)),
        std=Estimate.of(
            new.mean(axis=0).std(ddof=1) - old.mean(axis=0).std(ddof=1),
            np.sqrt(resamples.variance(new)) - np.sqrt(resamples.variance(old)),
        ),
        min=Estimate.of(new.mean(axis=0).min() - old.mean(axis=0).min(), resamples.min(new) - resamples.min(old)),
    )


def cvar(means: np.ndarray, worst: float = WORST_SHARE) -> float:
    """Mean of the worst templates' accuracies.

    Args:
        means: accuracy of each template, float64 of shape (templates,).
        worst: share of templates that count, above 0; their number is rounded up, so there is at least one.
    """
    count = math.ceil(worst * len(means) - ROUNDING)
    return float(np.sort(means)[:count].mean())


def _known(share: float) -> float | None:
    return None if math.isnan(share) else float(share)


def _root(variance):
    return np.sqrt(np.maximum(variance, 0))


def _with_tiers(outcomes: Outcomes) -> list[str]:
    """A template that changed its tier is not the same any more."""
    return [f"{id} ({tier})" if tier else id for id, tier in zip(outcomes.templates, outcomes.tiers, strict=True)]


def _only_in_one(kind: str, new: Sequence[str], old: Sequence[str]) -> Iterator[str]:
    for whose, ids in [("new", set(new) - set(old)), ("missing", set(old) - set(new))]:
        if ids:
            yield f"{whose} {kind}s ({len(ids)}): {shortened(sorted(ids))}"
    if set(new) == set(old) and list(new) != list(old):
        yield f"the {kind}s are not in the same order"


def shortened(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
