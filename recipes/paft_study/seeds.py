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

"""Runs of several seeds as one table: means over seeds with intervals, by tier, and each arm against others."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from verl_redit.comparison.figures import LEVEL, mean_interval
from verl_redit.comparison.intervals import draw_intervals

Figures = dict[str, list[float]]  # name -> [mean over seeds, lower end, upper end of its interval]


def summary(dumps: dict[str, list[Path]], bases: Sequence[str] = ()) -> dict[str, dict[str, Figures]]:
    """Tier -> arm -> mean, std and min of the accuracy over templates, and the mean's paired difference from each base.

    Args:
        dumps: arm -> a dump of validation for each seed; arms have the same seeds.
        bases: arms.
    """
    seeds = {arm: [accuracies(file) for file in files] for arm, files in dumps.items()}
    tiers = ["all", *dict.fromkeys(tier for tier, _ in next(iter(seeds.values()))[0])]
    return {
        tier: _of_tier({arm: [_chosen(seed, tier) for seed in runs] for arm, runs in seeds.items()}, bases)
        for tier in tiers
    }


def draw(dumps: dict[str, list[Path]], file: Path) -> None:
    """Draw the mean accuracy over templates of each arm; ``dumps`` as in `summary`."""
    means = {
        arm: [100 * float(np.mean([*accuracies(dump).values()])) for dump in of_arm] for arm, of_arm in dumps.items()
    }
    draw_intervals(means, "accuracy under unseen templates, %", file)


def accuracies(dump: Path) -> dict[tuple[str, str], float]:
    """(tier, template) -> accuracy."""
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for entry in map(json.loads, dump.read_text().splitlines()):
        cells[entry["tier"], entry["template_id"]].append(entry["acc"])
    return {key: float(np.mean(values)) for key, values in cells.items()}


def _chosen(seed: dict[tuple[str, str], float], tier: str) -> np.ndarray:
    return np.array([accuracy for (own, _), accuracy in seed.items() if tier in ("all", own)])


def _of_tier(arms: dict[str, list[np.ndarray]], bases: Sequence[str]) -> dict[str, Figures]:
    means = {arm: np.array([values.mean() for values in seeds]) for arm, seeds in arms.items()}
    figures = {}
    for arm, seeds in arms.items():
        figures[arm] = {"mean": over_seeds(means[arm])}
        figures[arm] |= {f"over {base}": over_seeds(means[arm] - means[base]) for base in bases if base != arm}
        if len(seeds[0]) > 1:
            figures[arm]["std"] = over_seeds(np.array([values.std(ddof=1) for values in seeds]))
            figures[arm]["min"] = over_seeds(np.array([values.min() for values in seeds]))
    return figures


def over_seeds(values: np.ndarray) -> list[float]:
    """Mean over seeds with both ends of its t interval, which has no width for one seed."""
    found = mean_interval(list(values))
    return [round(found.mean if number is None else number, 4) for number in astuple(found)]


def show(of_tier: dict[str, dict[str, Figures]], console: Console) -> None:
    """Print the table, in percent."""
    names = list(dict.fromkeys(name for arms in of_tier.values() for figures in arms.values() for name in figures))
    table = Table("tier", "arm", *names, caption=f"percent; below each value its {LEVEL:.0%} interval over seeds")
    for tier, arms in of_tier.items():
        for arm, figures in arms.items():
            table.add_row(tier, arm, *(cell(figures.get(name)) for name in names))
    console.print(table)


def cell(figure: list[float] | None) -> str:
    """A mean with its interval below it, in percent."""
    if figure is None:
        return ""
    mean, low, high = (100 * number for number in figure)
    return f"{mean:.1f}\n{low:.1f} to {high:.1f}"
