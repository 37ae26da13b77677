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

"""A grid's outcomes on disk, and what they say."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap, false_discovery_control, ttest_1samp

from verl_redit.comparison import figures
from verl_redit.demo.workspace import write_whole

SMOOTHING = 10  # values of the mean that is compared with a target, and of the final accuracy
UPDATES = (1, 4)

# mean or median, and a 95 % interval
Figures = tuple[float, float, float]


@dataclass(frozen=True)
class Grid:
    """Where runs are kept: in folders named by a digest of their settings, so that others are never mixed in.

    The digest knows nothing of the code: a grid whose code has changed wants a folder of its own.
    """

    root: Path
    steps: int

    @property
    def folder(self) -> Path:
        """What belongs to this number of steps."""
        return self.root / f"{self.steps}-steps"

    def runs(self, regime: str, updates: int, arm: str) -> Path:
        """The folder of an arm, with one for each set of settings."""
        return self.folder / f"{regime}-{updates}" / arm.replace(" ", "-").replace(",", "")

    def place(self, regime: str, updates: int, arm: str, seed: int, settings: dict) -> Path:
        """The file of one run."""
        digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()
        return self.runs(regime, updates, arm) / digest / f"{seed}.json"

    def keep(self, place: Path, outcome: dict) -> None:
        """Write an outcome whole or not at all."""
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, json.dumps(outcome))

    def outcomes(self, regime: str, updates: int, arm: str) -> dict[int, dict]:
        """Seed -> outcome.

        Raises:
            ValueError: the folder has runs of this arm with two sets of settings.
        """
        runs = self.runs(regime, updates, arm)
        if len(places := list(runs.glob("*"))) > 1:
            raise ValueError(f"{runs} has runs with {len(places)} settings; keep one of {sorted(places)}")
        return {int(file.stem): json.loads(file.read_text()) for file in runs.glob("*/*.json")}


def final(outcome: dict) -> float:
    """Mean of the last accuracies."""
    return float(np.mean(outcome["accuracy"][-SMOOTHING:]))


def steps_to(outcome: dict, target: float) -> float:
    """Number of the first accuracy whose mean with those just before it reaches the target; inf if none does."""
    smoothed = np.convolve(outcome["accuracy"], np.ones(SMOOTHING) / SMOOTHING, "valid")
    reached = np.flatnonzero(smoothed >= target - 1e-12)
    return float(reached[0] + SMOOTHING - 1) if len(reached) else np.inf


def mean_interval(values: list[float]) -> Figures:
    """Mean and its 95 % t interval, nan with a single value."""
    found = figures.mean_interval(values)
    return found.mean, np.nan if found.low is None else found.low, np.nan if found.high is None else found.high


def median_interval(values: list[float]) -> Figures:
    """Median and its 95 % bootstrap interval, nan with fewer than six values; values may be inf."""
    if len(values) < 6:
        return float(np.median(values)), np.nan, np.nan
    # order statistics, so that an infinite one is not averaged with its neighbour
    found = bootstrap(
        (values,), lambda draws, axis: np.quantile(draws, 0.5, axis=axis, method="higher"), method="percentile",
        rng=np.random.default_rng(0),
    ).bootstrap_distribution  # fmt: skip
    low, high = np.quantile(found, [0.025, 0.975], method="nearest")
    return float(np.quantile(values, 0.5, method="higher")), float(low), float(high)


def compare(arm: dict[int, dict], stock: dict[int, dict], seeds: list[int]) -> dict:
    """An arm against stock, by seed."""
    targets = {seed: final(stock[seed]) for seed in seeds}
    gains = [final(arm[seed]) - targets[seed] for seed in seeds]
    ratios = [steps_to(arm[seed], targets[seed]) / steps_to(stock[seed], targets[seed]) for seed in seeds]

    def of_each(measure) -> Figures:
        return mean_interval([float(measure(arm[seed])) for seed in seeds])

    return {
        "final accuracy": of_each(final),
        "gain": mean_interval(gains),
        "p of the gain": float(ttest_1samp(gains, 0).pvalue) if np.ptp(gains) > 0 else 1.0,
        "ratio of steps": median_interval(ratios),
        "share that arrives": float(np.mean(np.isfinite(ratios))),
        "spread of gradient norms": of_each(lambda run: np.std(run["grad_norm"]) / np.mean(run["grad_norm"])),
        "entropy at the end": of_each(lambda run: run["entropy"][-1]),
        "tied groups": of_each(lambda run: np.mean(run["tied_share"])),
        "energy of tied groups": of_each(lambda run: np.mean(run["tied_energy_share"])),
        "groups sampled a step": of_each(lambda run: np.mean(run["sampled_groups"])),
    }


def report(
    grid: Grid,
    regimes: list[str],
    arms: list[str],
    stock: str,
    judged: list[str],
    bases: dict[str, str],
    console: Console,
) -> None:
    """Tables on the console; the same as `tables.md`, `results.json`, and a figure for each cell in the grid's folder.

    A cell is shown by the seeds that all of its arms have.

    Args:
        bases: arm -> another that it differs from by one change; its gain over that is shown as well.

    Raises:
        ValueError: no cell has a run of every arm.
    """
    results: dict[str, dict] = {}
    tables: list[Table] = []
    over_base = Table("arm", "over", "cell", "gain, points", title="over the arm that differs by one change")
    for regime, updates in [(regime, updates) for regime in regimes for updates in UPDATES]:
        outcomes = {arm: grid.outcomes(regime, updates, arm) for arm in arms}
        seeds = sorted(set.intersection(*(set(of_arm) for of_arm in outcomes.values())))
        if seeds:
            name = f"{regime}, {updates} update{'s' if updates > 1 else ''} a step, {len(seeds)} seeds"
            results[name] = {arm: compare(of_arm, outcomes[stock], seeds) for arm, of_arm in outcomes.items()}
            tables.append(_table(name, results[name]))
            for arm, base in bases.items():
                gain = compare(outcomes[arm], outcomes[base], seeds)["gain"]
                over_base.add_row(arm, base, name, _in_points(gain))
            _draw(name, {arm: [of_arm[seed] for seed in seeds] for arm, of_arm in outcomes.items()},
                  grid.folder / f"{regime}-{updates}.png")  # fmt: skip
    if not results:
        raise ValueError(f"{grid.folder} has no cell with a run of every arm")
    tables += [over_base, _verdicts(results, judged)]
    for table in tables:
        console.print(table)
    (grid.folder / "tables.md").write_text("\n".join(map(_markdown, tables)))
    (grid.folder / "results.json").write_text(json.dumps(_finite(results), indent=1))


def verdicts(results: dict[str, dict], judged: list[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Arm -> cells in which it gains and cells in which it loses, after Benjamini and Yekutieli's correction."""
    pairs = [(arm, cell) for arm in judged for cell in results]
    p_values = false_discovery_control([results[cell][arm]["p of the gain"] for arm, cell in pairs], method="by")
    found: dict[str, tuple[list[str], list[str]]] = {arm: ([], []) for arm in judged}
    for (arm, cell), p_value in zip(pairs, p_values, strict=True):
        if p_value < 0.05:
            found[arm][results[cell][arm]["gain"][0] < 0].append(cell)
    return found


def _verdicts(results: dict[str, dict], judged: list[str]) -> Table:
    table = Table(
        "arm", "gains in", "loses in", title="final accuracy against GRPO's, corrected for all rows and cells"
    )
    for arm, cells in verdicts(results, judged).items():
        table.add_row(arm, *("; ".join(cell.split(" update")[0] for cell in of) for of in cells))
    return table


def _markdown(table: Table) -> str:
    columns = [[str(column.header), "---", *(str(cell) for cell in column.cells)] for column in table.columns]
    rows = zip(*columns, strict=True)
    return f"**{table.title}**\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _in_points(figures: Figures) -> str:
    gain, least, most = (100 * figure for figure in figures)
    return f"{gain:+.1f} ({least:+.1f} to {most:+.1f})"


def _finite(node):
    """For JSON, which has no inf and no nan."""
    if isinstance(node, dict):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, tuple):
        return [_finite(value) for value in node]
    return node if np.isfinite(node) else None


def _table(name: str, results: dict[str, dict]) -> Table:
    table = Table(
        "arm", "final accuracy, %", "gain, points", "ratio of steps", "arrive", "gradient spread", "entropy", "tied",
        "their energy", "groups", title=name,
    )  # fmt: skip
    for arm, found in results.items():
        accuracy, low, high = found["final accuracy"]
        ratio, fewest, longest = found["ratio of steps"]
        table.add_row(
            arm, f"{100 * accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})",
            _in_points(found["gain"]),
            f"{ratio:.2f} ({fewest:.2f} to {longest:.2f})", f"{found['share that arrives']:.0%}",
            *(f"{found[key][0]:.2f}" for key in ("spread of gradient norms", "entropy at the end", "tied groups",
                                                 "energy of tied groups")),
            f"{found['groups sampled a step'][0]:.0f}",
        )  # fmt: skip
    return table


def _draw(name: str, outcomes: dict[str, list[dict]], file: Path) -> None:
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab20"]
    for number, (arm, runs) in enumerate(outcomes.items()):
        axes.plot(np.mean([run["accuracy"] for run in runs], axis=0), label=arm, color=colours(number))
    axes.set(title=name, xlabel="step", ylabel="exact accuracy, mean over seeds")
    axes.legend(fontsize=7)
    figure.savefig(file, dpi=120)
