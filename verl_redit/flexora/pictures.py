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

"""Pictures of a selection: a heat map of modules by layer, or a bar for each layer."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from verl_redit.flexora.layers import layer_of
from verl_redit.flexora.selection import Selection, Unit


@dataclass(frozen=True)
class Grid:
    """The units of a search with ``grain=module``.

    Args:
        layers: names, from the lowest to the highest.
        modules: names within a layer, without their parents if that leaves them apart.
        units: a row for each layer, a column for each module; None where a layer lacks one.
    """

    layers: list[str]
    modules: list[str]
    units: list[list[Unit | None]]


def grid(selection: Selection) -> Grid:
    """The units by layer and module."""
    rows: dict[str, dict[str, Unit]] = {}
    for unit in selection.units:
        layer = layer_of(unit.name)
        rows.setdefault(layer, {})[unit.name.removeprefix(f"{layer}.")] = unit
    paths = list(dict.fromkeys(path for row in rows.values() for path in row))
    ends = [path.rpartition(".")[2] for path in paths]
    modules = ends if len(set(ends)) == len(ends) else paths
    return Grid(list(rows), modules, [[row.get(path) for path in paths] for row in rows.values()])


def draw(selection: Selection) -> Figure:
    """A heat map with ``grain=module``, bars with intervals with ``grain=layer``."""
    return _heat_map(grid(selection)) if selection.settings["grain"] == "module" else _bars(selection.units)


def _heat_map(grid: Grid) -> Figure:
    figure = Figure(figsize=(3 + 0.45 * len(grid.modules), 2 + 0.25 * len(grid.layers)), layout="constrained")
    panel = figure.subplots()
    scores = [[np.nan if unit is None else unit.score for unit in row] for row in grid.units]
    picture = panel.imshow(scores, aspect="auto")
    chosen = [
        (column, row)
        for row, units in enumerate(grid.units)
        for column, unit in enumerate(units)
        if unit is not None and unit.chosen
    ]
    panel.scatter(*zip(*chosen, strict=True), color="white", edgecolors="black", label="chosen")
    panel.set_xticks(range(len(grid.modules)), grid.modules, rotation=90, parse_math=False)
    panel.set_yticks(range(len(grid.layers)), grid.layers, parse_math=False)
    figure.colorbar(picture, label="score")
    figure.legend(loc="outside upper right")
    return figure


def _bars(units: list[Unit]) -> Figure:
    figure = Figure(figsize=(9, 1.2 + 0.22 * len(units)), layout="constrained")
    panel = figure.subplots()
    for chosen, label in ((True, "chosen"), (False, "not chosen")):
        rows = [row for row, unit in enumerate(units) if unit.chosen == chosen]
        panel.barh(rows, [units[row].score for row in rows], alpha=0.5, label=label)
    for row, unit in enumerate(units):
        if unit.interval:
            panel.plot(unit.interval, [row, row], color="black")
    panel.set_yticks(range(len(units)), [unit.name for unit in units], parse_math=False)
    panel.invert_yaxis()
    panel.margins(y=0.01)
    panel.set_xlabel("score" + (", with the middle 95 % over resampled steps" if units[0].interval else ""))
    figure.legend(loc="outside right upper")
    return figure
