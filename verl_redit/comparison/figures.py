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

"""What the arms of a comparison did, as figures: pure functions of their logs."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from verl_redit.comparison.logs import LogError, Run, data_source, is_validation, metrics_of
from verl_redit.settings import nearest

LEVEL = 0.95
WINDOW = 5
VALIDATION = "validation accuracy"
FALLBACKS = ["val/loss", "critic/score/mean", "train/loss"]
# what is told and drawn beside the metric that is compared, where the logs have it
BESIDE = [
    "critic/score/mean", "redit/raw_reward/mean", "redit/effective_std", "redit/tied_share", "redit/tied_energy_share",
    "redit/mixed_correlation", "paft/accuracy/mean", "paft/accuracy/min", "paft/parsed/mean", "paft/templates",
    "paft/quarantined", "actor/flexora/step", "actor/flexora/skipped_steps", "actor/entropy", "actor/grad_norm",
    "actor/kl_loss", "response_length/mean", "train/loss", "train/grad_norm", "val/loss", "timing_s/step",
]  # fmt: skip
Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Interval:
    """A mean with both ends of its interval, which are None for a single value."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ArmFigures:
    """One arm. Up to the last step that all runs have, the same steps of each count; beyond it, each run's own.

    Args:
        last_steps: the last step of each run.
        value: the metric at the step of the comparison, the mean of up to `WINDOW` points, over runs.
        difference: of the value from the first arm's; None for the first arm itself.
        steps_to_target: of each run; None for one that does not reach the target.
        seconds_per_step: median over all steps but the first; None if it is not logged.
    """

    last_steps: list[int]
    value: Interval
    difference: Interval | None
    steps_to_target: list[int | None]
    seconds_per_step: float | None


@dataclass(frozen=True)
class Comparison:
    """All arms at one step, the last that all of their runs have unless another was asked for."""

    metric: str
    step: int
    target: float
    arms: dict[str, ArmFigures]
    beside: dict[str, dict[str, Interval]]  # metric -> arm -> mean of its last points up to that step, over runs
    notes: list[str]


def compare(
    arms: dict[str, list[Run]], metric: str | None = None, target: float | None = None, step: int | None = None
) -> Comparison:
    """Compare arms by one metric.

    Args:
        metric: a name in the logs, or "validation accuracy", the mean of verl's ``val-core/…/mean@N``. Without one, the
            first of that, val/loss, critic/score/mean and train/loss that every run has after step 0. Losses are better
            when lower.
        target: without one, the first arm's value.
        step: without one, the last at which every run has the metric.

    Raises:
        LogError: a run does not have the metric, or no step that all have.
    """
    runs = [run for of_arm in arms.values() for run in of_arm]
    metric = metric or _default_metric(runs)
    curves = {name: [points(run, metric) for run in of_arm] for name, of_arm in arms.items()}
    for run, curve in zip(runs, (curve for of_arm in curves.values() for curve in of_arm), strict=True):
        if not curve:
            raise LogError(f"{run.file}: no {metric}; {nearest(metric, sorted({VALIDATION, *metrics_of([run])}))}")
    common = _common_steps(runs, curves)
    if step is not None and step not in common:
        raise LogError(f"--step {step}: not all runs have the metric there; all have it at {max(common)}")
    step = max(common) if step is None else step
    # up to the last step that all have, the same steps of every run: how often one validates makes no difference
    width = window([at for at in common if at <= step])
    curves = {name: [_at(curve, common) for curve in of_arm] for name, of_arm in curves.items()}
    values = {name: [_value(curve, step, width) for curve in of_arm] for name, of_arm in curves.items()}
    base = next(iter(values.values()))
    goal = statistics.fmean(base) if target is None else target
    lower = metric.endswith("loss")
    found = {}
    for name, of_arm in arms.items():
        found[name] = ArmFigures(
            last_steps=[max(run.steps) for run in of_arm],
            value=mean_interval(values[name]),
            difference=None if values[name] is base else _difference(values[name], base),
            steps_to_target=[_steps_to(curve, goal, lower, width) for curve in curves[name]],
            seconds_per_step=_seconds(of_arm),
        )
    notes = [*_notes(arms, step), *_metric_notes(arms, metric)]
    return Comparison(metric, step, goal, found, _beside(arms, step), notes)


def _beside(arms: dict[str, list[Run]], step: int) -> dict[str, dict[str, Interval]]:
    """Of each metric, those arms of which every run has it, at the steps that all of these have."""
    found: dict[str, dict[str, Interval]] = {}
    for metric in BESIDE:
        curves = {name: [dict(points(run, metric)) for run in runs] for name, runs in arms.items()}
        whole = {name: of_arm for name, of_arm in curves.items() if all(of_arm)}
        common = set.intersection(*(set(curve) for of_arm in whole.values() for curve in of_arm)) if whole else set()
        if steps := sorted(at for at in common if at <= step):
            last = steps[-window(steps) :]
            found[metric] = {
                name: mean_interval([statistics.fmean(curve[at] for at in last) for curve in of_arm])
                for name, of_arm in whole.items()
            }
    return found


def points(run: Run, metric: str) -> Points:
    """(step, value) of a metric, in order; "validation accuracy" is the mean of all that verl logs at a step."""
    found = []
    for step, data in sorted(run.steps.items()):
        names = [name for name in data if is_validation(name)] if metric == VALIDATION else [metric]
        if names and names[0] in data:
            found.append((step, statistics.fmean(data[name] for name in names)))
    return found


def mean_interval(values: list[float]) -> Interval:
    """The mean, and its Student t interval over runs."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, None, None)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half)


def _difference(values: list[float], base: list[float]) -> Interval:
    """Welch's interval of the difference of two means; runs of two arms are not taken as pairs."""
    mean = statistics.fmean(values) - statistics.fmean(base)
    if min(len(values), len(base)) < 2:
        return Interval(mean, None, None)
    if np.ptp(values) == np.ptp(base) == 0:
        return Interval(mean, mean, mean)
    low, high = stats.ttest_ind(values, base, equal_var=False).confidence_interval(LEVEL)
    return Interval(mean, float(low), float(high))


def _default_metric(runs: list[Run]) -> str:
    curves = {metric: [points(run, metric) for run in runs] for metric in (VALIDATION, *FALLBACKS)}
    whole = [metric for metric, of_metric in curves.items() if all(of_metric)]
    # by default verl validates before training and never again
    trained = [metric for metric in whole if all(curve[-1][0] > 0 for curve in curves[metric])]
    if whole:
        return (trained or whole)[0]
    raise LogError(f"no metric of {VALIDATION}, {', '.join(FALLBACKS)} is in all runs; name one with --metric")


def _common_steps(runs: list[Run], curves: dict[str, list[Points]]) -> set[int]:
    flat = [curve for of_arm in curves.values() for curve in of_arm]
    common = set.intersection(*({at for at, _ in curve} for curve in flat))
    if not common:
        spans = [f"{run.file} has {curve[0][0]} to {curve[-1][0]}" for run, curve in zip(runs, flat, strict=True)]
        raise LogError(f"no step at which all runs have the metric: {', '.join(spans)}")
    return common


def _at(curve: Points, common: set[int]) -> Points:
    """The points at these steps, and those after them all."""
    return [(at, value) for at, value in curve if at in common or at > max(common)]


def _value(curve: Points, step: int, width: int) -> float:
    """Mean of so many points up to a step."""
    return statistics.fmean([value for at, value in curve if at <= step][-width:])


def window(values: Sequence) -> int:
    """`WINDOW`, or half of the points if there are fewer than twice as many."""
    return min(WINDOW, max(1, len(values) // 2))


def _steps_to(curve: Points, target: float, lower: bool, width: int) -> int | None:
    """The last step of the first window of so many points whose mean reaches the target."""
    for end in range(width, len(curve) + 1):
        mean = statistics.fmean(value for _, value in curve[end - width : end])
        if mean <= target if lower else mean >= target:
            return curve[end - 1][0]
    return None


def _seconds(runs: list[Run]) -> float | None:
    times = [value for run in runs for _, value in points(run, "timing_s/step")[1:]]
    return statistics.median(times) if times else None


def _metric_notes(arms: dict[str, list[Run]], metric: str) -> list[str]:
    """Where the metric is not what a reader would take it for."""
    of_arm = {name: {metric for metric in metrics_of(runs) if is_validation(metric)} for name, runs in arms.items()}
    if metric != VALIDATION:
        without = [str(run.file) for runs in arms.values() for run in runs if not points(run, VALIDATION)]
        told = any(of_arm.values()) and without
        return [f"{VALIDATION} is not compared: {', '.join(without)} has none."] if told else []
    first, *others = of_arm
    notes = []
    for name, runs in arms.items():
        if other := sorted({metric for run in runs for metric in of_arm[name] - metrics_of([run])}):
            notes.append(
                f"Runs of {name} do not validate alike ({', '.join(other[:3])}): their mean is over other things."
            )
    for name in others:
        here, there = (set(map(data_source, of_arm[arm])) for arm in (name, first))
        if here != there:
            apart = ", ".join(sorted(here ^ there)[:3])
            notes.append(
                f"{name} validates on other prompts than {first} ({apart}): their difference is one of prompts as well."
            )
        elif of_arm[name] != of_arm[first]:
            apart = ", ".join(sorted(of_arm[name] ^ of_arm[first])[:3])
            notes.append(
                f"{name} measures the same prompts otherwise than {first} ({apart}): their difference is one of "
                "measures as well."
            )
    return notes


def _notes(arms: dict[str, list[Run]], step: int) -> list[str]:
    longest = max(max(run.steps) for runs in arms.values() for run in runs)
    notes = [f"{run.file}: {note}." for runs in arms.values() for run in runs for note in run.notes]
    if step == 0 and longest > 0:
        notes.append("All are compared before training: not every run has the metric later (trainer.test_freq).")
    return notes + [
        f"{run.file} ends at step {max(run.steps)}, others go on to {longest}; all are compared at step {step}."
        for runs in arms.values()
        for run in runs
        if max(run.steps) < longest
    ]
