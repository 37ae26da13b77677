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

"""All figures of runs, and of each later run against the first."""

import json
from dataclasses import asdict, dataclass

import numpy as np

from verl_redit.paft.robustness.dumps import Run
from verl_redit.paft.robustness.resampling import DRAWS, LEVEL
from verl_redit.paft.robustness.statistics import (
    Difference,
    GridsDifferError,
    Robustness,
    TemplateScore,
    compare,
    measure,
    measure_templates,
)

SEED = 0
NO_TIER = "no tier"


@dataclass(frozen=True)
class RunScores:
    """All figures of one run.

    Args:
        overall: over all templates.
        tiers: over the templates of each tier; empty if none has a tier.
        templates: each template's, in the order of tiers, then ids.
    """

    name: str
    file: str
    step: int
    items: int
    samples: int
    overall: Robustness
    tiers: dict[str, Robustness]
    templates: list[TemplateScore]


@dataclass(frozen=True)
class Report:
    """What summary.json holds.

    Args:
        bar: accuracy from which a template counts for ``top``.
        length_unit: of responses.
        level: of the intervals.
        draws: resamples behind each interval.
        differences: run -> its figures minus the first run's.
        not_compared: run -> how its grid differs from the first run's.
    """

    bar: float
    length_unit: str
    level: float
    draws: int
    runs: list[RunScores]
    differences: dict[str, Difference]
    not_compared: dict[str, str]

    def json(self) -> str:
        """As JSON; a figure that is not defined is null."""
        return json.dumps(asdict(self), allow_nan=False, indent=1)


def make_report(runs: list[Run], bar: float, length_unit: str) -> Report:
    """All figures of all runs, and each later run against the first. The same dumps give the same intervals."""
    differences, not_compared = {}, {}
    for run in runs[1:]:
        try:
            differences[run.name] = compare(run.outcomes, runs[0].outcomes, _generator())
        except GridsDifferError as error:
            not_compared[run.name] = str(error)
    scores = [_scores(run, bar) for run in runs]
    return Report(bar, length_unit, LEVEL, DRAWS, scores, differences, not_compared)


def _scores(run: Run, bar: float) -> RunScores:
    outcomes = run.outcomes
    tiers = dict.fromkeys(outcomes.tiers) if any(outcomes.tiers) else {}
    return RunScores(
        name=run.name,
        file=str(run.file),
        step=run.step,
        items=len(outcomes.items),
        samples=run.samples,
        overall=measure(outcomes, bar, _generator()),
        tiers={tier or NO_TIER: measure(outcomes.of_tier(tier), bar, _generator()) for tier in tiers},
        templates=measure_templates(outcomes, _generator()),
    )


def _generator() -> np.random.Generator:
    """A fresh one each time, so that no figure depends on which others were asked for."""
    return np.random.default_rng(SEED)
