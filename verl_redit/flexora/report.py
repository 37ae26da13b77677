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

"""What a selection looks like: tables in the terminal, and a page."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from verl_redit.flexora.evidence import Evidence
from verl_redit.flexora.pictures import Grid, draw, grid
from verl_redit.flexora.scores import METHODS
from verl_redit.flexora.selection import Selection, Unit
from verl_redit.paft.robustness.pictures import base64_png

AGREEMENT = {"Jaccard index of the choices": "jaccard", "rank correlation of the scores": "correlation"}
BAR = 24
MARK = "●"


def evidence_rows(selection: Selection) -> list[list[str]]:
    """What was asked of the steps, what was found, and what the null model gives; none for a method without steps."""
    if selection.beats_chance is None:
        return []
    rows = []
    if found := selection.evidence:
        kept = len(selection.chosen) / len(selection.units)
        rows = [
            [
                f"halves of the steps: {name}",
                f"{getattr(found, key):.2g}",
                f"up to {getattr(found, f'chance_{key}'):.2g}",
            ]
            for name, key in {**_deciding(found), **AGREEMENT}.items()
        ]
        rows += [
            ["share of units that the rule keeps", f"{kept:.0%}", f"{found.kept_by_chance:.0%}"],
            ["stability over the last third of the steps", f"{found.stability:.2f}", "–"],
        ]
    steps = selection.scored_steps + selection.skipped_steps
    return [*rows, [f"skipped of {steps} steps", str(selection.skipped_steps), "–"]]


def _deciding(found: Evidence) -> dict[str, str]:
    deciding = {f"{found.measure}, which decides": "agreement"}
    if found.steadiness is not None:
        deciding["steadiness of signs, which decides too"] = "steadiness"
    return deciding


def print_report(selection: Selection, console: Console) -> None:
    """The summary, the units and the evidence in the terminal."""
    console.print(escape(selection.summary))
    console.print(f"{selection.settings['method']}: {METHODS[selection.settings['method']].source}", style="dim")
    console.print(_cells(grid(selection)) if selection.settings["grain"] == "module" else _bars(selection.units))
    if rows := evidence_rows(selection):
        table = Table("evidence", "found", "by chance", box=box.SIMPLE_HEAD)
        for row in rows:
            table.add_row(*row)
        console.print(table)


def _cells(grid: Grid) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, caption=f"{MARK} chosen")
    table.add_column("layer", overflow="fold")
    for module in grid.modules:
        table.add_column(escape(module), justify="right", overflow="fold")
    for layer, units in zip(grid.layers, grid.units, strict=True):
        table.add_row(layer, *("" if unit is None else f"{unit.score:.2g}{_mark(unit) or ' '}" for unit in units))
    return table


def _bars(units: list[Unit]) -> Table:
    ends = [0.0, *(end for unit in units for end in (unit.score, *(unit.interval or [])))]
    low, high = min(ends), max(ends)
    table = Table("unit", "score", "", "", "parameters", box=box.SIMPLE_HEAD, caption=f"{MARK} chosen, ░ interval")
    table.columns[0].overflow = "fold"
    for unit in units:
        table.add_row(
            unit.name, f"{unit.score:.3g}", _bar(unit, low, high), _mark(unit), f"{unit.parameters:,}",
            style="" if unit.chosen else "dim",
        )  # fmt: skip
    return table


def _mark(unit: Unit) -> str:
    return MARK if unit.chosen else ""


def _bar(unit: Unit, low: float, high: float) -> str:
    """A bar from 0 to the score, shaded where the interval lies."""

    def cell(value: float) -> int:
        return round((value - low) / ((high - low) or 1) * BAR)

    begin, end = sorted([cell(0), cell(unit.score)])
    bar = [begin <= at < end for at in range(BAR)]
    shaded = range(*map(cell, unit.interval)) if unit.interval else range(0)
    return "".join(" ░█▓"[2 * full + (at in shaded)] for at, full in enumerate(bar))


def write_page(selection: Selection, file: Path) -> None:
    """Write a page that needs no other file."""
    pages = Environment(
        loader=PackageLoader("verl_redit.flexora", ""),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
    )
    page = pages.get_template("report.html.j2").render(
        selection=selection,
        source=METHODS[selection.settings["method"]].source,
        evidence=evidence_rows(selection),
        picture=base64_png(draw(selection)),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
