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

"""A comparison as a table in the terminal, as JSON, and as a page with pictures."""

import base64
import io
import json
from dataclasses import asdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import pyplot
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from verl_redit.comparison.figures import BESIDE, LEVEL, WINDOW, ArmFigures, Comparison, Interval, mean_interval, points
from verl_redit.comparison.logs import Run

COLUMNS = 3
HEADINGS = ["arm", "runs", "last step", "value", "difference", "steps to target", "seconds a step"]


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The table and the notes in the terminal."""
    table = Table(*HEADINGS, title=escape(_title(comparison)))
    for row in rows(comparison):
        table.add_row(*map(escape, row))
    console.print(table)
    for note in [explanation(comparison), *comparison.notes]:
        console.print(escape(note), soft_wrap=True)


def write_page(comparison: Comparison, arms: dict[str, list[Run]], folder: Path) -> Path:
    """Write report.html, which needs no other file, curves.png and summary.json; the page's path comes back."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(as_json(comparison), encoding="utf-8")
    picture = _draw(comparison.metric, arms)
    (folder / "curves.png").write_bytes(picture)
    pages = Environment(
        loader=PackageLoader("verl_redit.comparison", ""), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    page = pages.get_template("report.html.j2").render(
        title=_title(comparison),
        headings=HEADINGS,
        rows=rows(comparison),
        notes=[explanation(comparison), *comparison.notes],
        beside=[
            [name, *("" if figure is None else _shown(figure) for figure in map(of_arm.get, comparison.arms))]
            for name, of_arm in comparison.beside.items()
        ],
        picture=base64.b64encode(picture).decode(),
        files={name: [run.file for run in runs] for name, runs in arms.items()},
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def as_json(comparison: Comparison) -> str:
    """All figures."""
    return json.dumps(asdict(comparison), indent=2)


def rows(comparison: Comparison) -> list[list[str]]:
    """A row for each arm, under `HEADINGS`."""
    return [
        [
            name,
            str(len(arm.last_steps)),
            _span(arm.last_steps),
            _shown(arm.value),
            "" if arm.difference is None else _shown(arm.difference, sign="+"),
            _arrival(arm),
            "–" if arm.seconds_per_step is None else f"{arm.seconds_per_step:.1f}",
        ]
        for name, arm in comparison.arms.items()
    ]


def explanation(comparison: Comparison) -> str:
    """What the columns are."""
    first = next(iter(comparison.arms))
    return (
        f"Value: mean of up to {WINDOW} points up to step {comparison.step}, over runs; difference: from {first}; both "
        f"with their {LEVEL:.0%} t interval over runs, where there are two. Steps to target: until that mean reaches "
        f"{comparison.target:.3g}, the median over runs, those that have not reached it counted last; beyond "
        "the last step that all have, each run's own points count."
    )


def _title(comparison: Comparison) -> str:
    return f"{comparison.metric} up to step {comparison.step}"


def _span(steps: list[int]) -> str:
    return str(steps[0]) if min(steps) == max(steps) else f"{min(steps)} to {max(steps)}"


def _shown(figure: Interval, sign: str = "") -> str:
    if figure.low is None:
        return f"{figure.mean:{sign}.3g}"
    return f"{figure.mean:{sign}.3g} ({figure.low:{sign}.3g} to {figure.high:{sign}.3g})"


def _arrival(arm: ArmFigures) -> str:
    median = np.median([np.inf if step is None else step for step in arm.steps_to_target])
    reached = sum(step is not None for step in arm.steps_to_target)
    return f"{f'{median:g}' if np.isfinite(median) else 'not reached'} ({reached} of {len(arm.last_steps)} runs did)"


def _draw(metric: str, arms: dict[str, list[Run]]) -> bytes:
    """The metric and everything of `BESIDE` that is logged, over the steps, as a PNG."""
    names = [
        name
        for name in dict.fromkeys([metric, *BESIDE])
        if any(points(run, name) for runs in arms.values() for run in runs)
    ]
    lines = -(-len(names) // COLUMNS)
    figure, axes = pyplot.subplots(lines, COLUMNS, figsize=(13, 3.2 * lines), dpi=100, squeeze=False)
    for name, panel in zip(names, axes.flat, strict=False):
        for arm, runs in arms.items():
            _draw_arm(panel, arm, [dict(points(run, name)) for run in runs])
        panel.set_title(name, fontsize="medium")
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    for panel in axes.flat[len(names) :]:
        panel.axis("off")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="lower center", ncols=len(arms))
    figure.tight_layout(rect=(0, 0.25 / lines, 1, 1))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    return buffer.getvalue()


def _draw_arm(panel, name: str, curves: list[dict[int, float]]) -> None:
    """The mean over those runs that have a step, and its interval where two do."""
    steps = sorted(set().union(*curves))
    bands = [mean_interval([curve[step] for curve in curves if step in curve]) for step in steps]
    [line] = panel.plot(steps, [band.mean for band in bands], label=name, marker="." if len(steps) < 30 else "")
    low, high = (np.array([getattr(band, end) for band in bands], float) for end in ("low", "high"))
    panel.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
