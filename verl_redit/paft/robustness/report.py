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

"""The report: tables in the terminal, JSON, and a page with pictures."""

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from verl_redit.paft.robustness.dumps import Run
from verl_redit.paft.robustness.pictures import base64_png, draw_heat_map, draw_scatter, draw_templates
from verl_redit.paft.robustness.resampling import Estimate
from verl_redit.paft.robustness.scores import Report
from verl_redit.paft.robustness.statistics import Robustness


@dataclass(frozen=True)
class Sheet:
    """A table. The page shows all of it, the terminal its first ``narrow`` columns."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    narrow: int


def sheets(report: Report) -> list[Sheet]:
    """The tables: runs, tiers if templates have them, and differences if two runs share a grid."""
    headings = [
        "mean", "std", "std\nwithout\nnoise", "min", f"≥{100 * report.bar:g}%", "flips", "unparsed", "length",
        "p10", "worst tenth", "spread", "right under all", "wrong but parsed",
    ]  # fmt: skip
    runs = [
        [f"{run.name}\nstep {run.step}\n{run.items} × {len(run.templates)}", *_cells(run.overall)]
        for run in report.runs
    ]
    tiers = [
        [f"{tier}\n{run.name}", *_cells(run.tiers[tier])]
        for tier in dict.fromkeys(tier for run in report.runs for tier in run.tiers)
        for run in report.runs
        if tier in run.tiers
    ]
    differences = [
        [name, *(_shown(figure, sign="+") for figure in (difference.mean, difference.std, difference.min))]
        for name, difference in report.differences.items()
    ]
    tables = [
        Sheet("Runs", ["run", *headings], runs, narrow=9),
        Sheet("Tiers", ["tier", *headings], tiers, narrow=9),
        Sheet(f"Differences from {report.runs[0].name}", ["run", "mean", "std", "min"], differences, narrow=4),
    ]
    return [sheet for sheet in tables if sheet.rows]


def notes(report: Report) -> list[str]:
    """What a reader of the tables must know."""
    return [
        f"Shares in %, std and spread in points. Below a value stands its {report.level:.0%} interval if items and "
        "templates were drawn anew; with fewer than ten templates that of std is too narrow. "
        f"Lengths are in {report.length_unit}.",
        *(f"{name} is not compared with {report.runs[0].name}: {why}." for name, why in report.not_compared.items()),
    ]


def _cells(scores: Robustness) -> list[str]:
    length = f"{scores.length:.0f}"
    estimates = [_shown(figure) for figure in (scores.mean, scores.std, scores.std_without_noise, scores.min)]
    narrow = [_shown(share) for share in (scores.top, scores.flips, scores.unparsed)]
    wide = [scores.tenth_percentile, scores.cvar, scores.spread, scores.right_everywhere, scores.wrong_but_parsed]
    return [*estimates, *narrow, length, *map(_shown, wide)]


def _shown(figure: Estimate | float | None, sign: str = "") -> str:
    """In percent; an interval stands below its value."""
    if figure is None:
        return "–"
    if isinstance(figure, Estimate):
        value, low, high = (f"{100 * share:{sign}.1f}" for share in (figure.value, figure.low, figure.high))
        return f"{value}\n{low}{' to ' if sign else '–'}{high}"
    return f"{100 * figure:.1f}"


def print_report(report: Report, console: Console) -> None:
    """The tables and notes in the terminal."""
    for sheet in sheets(report):
        table = Table(title=escape(sheet.title), box=box.SIMPLE_HEAD, padding=0)
        name, *figures = sheet.headings[: sheet.narrow]
        table.add_column(name, overflow="fold")
        for heading in figures:
            table.add_column(heading, no_wrap=True)
        for row in sheet.rows:
            table.add_row(*map(escape, row[: sheet.narrow]))
        console.print(table)
    for note in notes(report):
        console.print(escape(note))


def write_report(report: Report, runs: list[Run], folder: Path) -> Path:
    """Write report.html, which needs no other file, and summary.json into ``folder``; the page's path comes back."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(report.json(), encoding="utf-8")
    pages = Environment(
        loader=PackageLoader("verl_redit.paft.robustness", ""),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
    )
    page = pages.get_template("report.html.j2").render(
        report=report,
        sheets=sheets(report),
        notes=notes(report),
        shown=_shown,
        bars={run.name: base64_png(draw_templates(run)) for run in report.runs},
        maps={run.name: base64_png(draw_heat_map(run)) for run in runs},
        scatters={
            run.name: base64_png(draw_scatter(report.runs[0], run))
            for run in report.runs
            if run.name in report.differences
        },
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
