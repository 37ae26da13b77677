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

"""Values of several seeds as a picture: each arm's mean with its interval, and every seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from verl_redit.comparison.figures import LEVEL, mean_interval


def draw_intervals(values: Mapping[str, Sequence[float]], label: str, file: Path) -> None:
    """Write a PNG with a line for each arm, from the highest mean to the lowest.

    Args:
        values: arm -> one value for each seed.
        label: what the values are.
    """
    found = {arm: mean_interval(list(of_arm)) for arm, of_arm in values.items()}
    order = sorted(found, key=lambda arm: found[arm].mean)
    figure = Figure(figsize=(7, 0.8 + 0.3 * len(order)), layout="constrained")
    axes = figure.subplots()
    for height, arm in enumerate(order):
        ends = np.array([found[arm].low, found[arm].high], dtype=float)  # nan with one seed
        axes.plot(ends, [height, height], color="tab:blue", linewidth=2)
        axes.plot(values[arm], [height] * len(values[arm]), ".", color="grey", markersize=5)
        axes.plot(found[arm].mean, height, "o", color="tab:blue")
    axes.set(
        yticks=range(len(order)), xlabel=f"{label}; mean, {LEVEL:.0%} t interval and {len(values[order[0]])} seeds"
    )
    axes.set_yticklabels(order)
    axes.grid(alpha=0.3, axis="x")
    figure.savefig(file, dpi=110)
