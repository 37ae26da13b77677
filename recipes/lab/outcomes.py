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
from scipy.stats import bootstrap, t

SMOOTHING = 10  # steps of the mean that is compared with a target, and of the final accuracy


@dataclass(frozen=True)
class Grid:
    """Where runs are kept: a file's name holds a digest of all settings, so that others are never mixed in."""

    folder: Path
    steps: int

    def place(self, regime: str, mini_batches: int, arm: str, seed: int, settings: dict) -> Path:
        digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()
        name = arm.replace(" ", "-").replace(",", "")
        return self.folder / f"{self.steps}-steps" / f"{regime}-{mini_batches}" / f"{name}-{digest}" / f"{seed}.json"

    def keep(self, place: Path, outcome: dict) -> None:
        """Write an outcome whole or not at all."""
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = place.with_suffix(f".{id(outcome)}.part")
        unfinished.write_text(json.dumps(outcome))
        unfinished.rename(place)

    def outcomes(self, regime: str, mini_batches: int, arm: str) -> dict[int, dict]:
        """Seed -> outcome.

        Raises:
            ValueError: the folder has runs of this arm with two sets of settings.
        """
        name = arm.replace(" ", "-").replace(",", "")
        cell = self.folder / f"{self.steps}-steps" / f"{regime}-{mini_batches}"
        places = [place for place in cell.glob(f"{name}-*") if place.name.rsplit("-", 1)[0] == name]
        if len(places) > 1:
            raise ValueError(f"{cell} has runs of {arm!r} with {len(places)} settings: keep one of {places}")
        return {int(file.stem): json.loads(file.read_text()) for place in places for file in place.glob("*.json")}


def final(outcome: dict) -> float:
    """Mean accuracy over the last steps."""
    return float(np.mean(outcome["accuracy"][-SMOOTHING:]))


def steps_to(outcome: dict, target: float) -> float:
    """Steps until the mean accuracy over as many steps reaches the target; inf if it does not."""
    smoothed = np.convolve(outcome["accuracy"], np.ones(SMOOTHING) / SMOOTHING, "valid")
    reached = np.flatnonzero(smoothed >= target - 1e-12)
    return float(reached[0] + SMOOTHING - 1) if len(reached) else np.inf


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and its 95 % t interval."""
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return float(np.mean(values)), float(np.mean(values) - half), float(np.mean(values) + half)


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Median and its 95 % bootstrap interval; inf stands for a target that was not reached."""
    capped = np.minimum(values, 1e9)
    if len(values) < 3 or np.ptp(capped) == 0:
        return (float(np.median(values)),) * 3
    found = bootstrap((capped,), np.median, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return float(np.median(values)), *(np.inf if bound > 1e8 else float(bound) for bound in found)


def compare(arm: dict[int, dict], stock: dict[int, dict]) -> dict:
    """An arm against stock, by the seeds that both have."""
    seeds = sorted(arm.keys() & stock.keys())
    targets = {seed: final(stock[seed]) for seed in seeds}
    ratios = [steps_to(arm[seed], targets[seed]) / steps_to(stock[seed], targets[seed]) for seed in seeds]
    return {
        "seeds": len(seeds),
        "final accuracy": interval([final(arm[seed]) for seed in seeds]),
        "final accuracy over GRPO's": interval([final(arm[seed]) - targets[seed] for seed in seeds]),
        "steps to GRPO's final accuracy, ratio": median_interval(ratios),
        "share of seeds that reach it": float(np.mean(np.isfinite(ratios))),
        "spread of gradient norms": interval(
            [float(np.std(arm[seed]["grad_norm"]) / np.mean(arm[seed]["grad_norm"])) for seed in seeds]
        ),
        "entropy at the end": interval([arm[seed]["entropy"][-1] for seed in seeds]),
        "tied groups": interval([float(np.mean(arm[seed]["tied_share"])) for seed in seeds]),
        "energy of tied groups": interval([float(np.mean(arm[seed]["tied_energy_share"])) for seed in seeds]),
        "groups sampled a step": interval([float(np.mean(arm[seed]["sampled_groups"])) for seed in seeds]),
    }


def write_report(grid: Grid, regimes: list[str], arms: list[str], stock: str, console: Console) -> None:
    """Tables on the console, `results.json` and a figure for each cell in the grid's folder."""
    results: dict[str, dict] = {}
    for regime in regimes:
        for mini_batches in (1, 4):
            outcomes = {arm: grid.outcomes(regime, mini_batches, arm) for arm in arms}
            if not outcomes[stock]:
                continue
            name = f"{regime}, {mini_batches} update{'s' if mini_batches > 1 else ''} a step"
            results[name] = {arm: compare(of_arm, outcomes[stock]) for arm, of_arm in outcomes.items() if of_arm}
            console.print(_table(name, results[name]))
            _draw(name, outcomes, grid.folder / f"{regime}-{mini_batches}.png")
    (grid.folder / "results.json").write_text(json.dumps(results, indent=1))


def _table(name: str, results: dict[str, dict]) -> Table:
    table = Table(
        "arm", "final accuracy, %", "over GRPO's, points", "steps to GRPO's end, ratio", "reach it", "gradient spread",
        "entropy", "tied", "their energy", "groups", title=name,
    )  # fmt: skip
    for arm, found in results.items():
        (accuracy, low, high), (gain, least, most) = found["final accuracy"], found["final accuracy over GRPO's"]
        ratio, fewest, longest = found["steps to GRPO's final accuracy, ratio"]
        table.add_row(
            arm, f"{100 * accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})",
            f"{100 * gain:+.1f} ({100 * least:+.1f} to {100 * most:+.1f})",
            f"{ratio:.2f} ({fewest:.2f} to {longest:.2f})", f"{found['share of seeds that reach it']:.0%}",
            *(f"{found[key][0]:.2f}" for key in ("spread of gradient norms", "entropy at the end", "tied groups",
                                                 "energy of tied groups")),
            f"{found['groups sampled a step'][0]:.0f}",
        )  # fmt: skip
    return table


def _draw(name: str, outcomes: dict[str, dict[int, dict]], file: Path) -> None:
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab20"]
    for number, (arm, of_arm) in enumerate(outcomes.items()):
        if of_arm:
            curves = np.array([outcome["accuracy"] for outcome in of_arm.values()])
            axes.plot(curves.mean(0), label=f"{arm} ({len(curves)})", color=colours(number))
    axes.set(title=name, xlabel="step", ylabel="exact accuracy, mean over seeds")
    axes.legend(fontsize=7)
    figure.savefig(file, dpi=120)
