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

"""The report's pictures."""

import base64
import io

import numpy as np
from matplotlib.figure import Figure

from verl_redit.paft.robustness.dumps import Run
from verl_redit.paft.robustness.scores import NO_TIER, RunScores


def draw_templates(run: RunScores) -> Figure:
    """Each template's accuracy with its interval, grouped by tier."""
    figure = Figure(figsize=(9, 1.2 + 0.22 * len(run.templates)), layout="constrained")
    panel = figure.subplots()
    for tier in dict.fromkeys(template.tier for template in run.templates):
        rows = [row for row, template in enumerate(run.templates) if template.tier == tier]
        scores = [run.templates[row].accuracy for row in rows]
        panel.barh(rows, [score.value for score in scores], alpha=0.5, label=tier or NO_TIER)
        panel.hlines(rows, [score.low for score in scores], [score.high for score in scores], colors="black")
    panel.set_yticks(range(len(run.templates)), [template.id for template in run.templates], parse_math=False)
    panel.invert_yaxis()
    panel.margins(y=0.01)
    panel.set_xlim(0, 1)
    panel.set_xlabel("accuracy")
    figure.legend(loc="outside right upper")
    return figure


def draw_heat_map(run: Run) -> Figure:
    """Accuracy of every item, hardest on top, under every template, by tier."""
    outcomes = run.outcomes
    hardest_first = np.argsort(outcomes.accuracy.mean(axis=1), kind="stable")
    figure = Figure(figsize=(2 + 0.22 * len(outcomes.templates), 8), layout="constrained")
    panel = figure.subplots()
    picture = panel.imshow(outcomes.accuracy[hardest_first], aspect="auto", vmin=0, vmax=1)
    panel.set_xticks(range(len(outcomes.templates)), outcomes.templates, rotation=90, parse_math=False)
    panel.set_yticks([])
    panel.set_ylabel("items, hardest on top")
    figure.colorbar(picture, label="share of right samples")
    return figure


def draw_scatter(first: RunScores, run: RunScores) -> Figure:
    """Each template's accuracy in two runs; above the line the later run is better."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    panel = figure.subplots()
    before = {template.id: template.accuracy.value for template in first.templates}
    for tier in dict.fromkeys(template.tier for template in run.templates):
        templates = [template for template in run.templates if template.tier == tier]
        panel.scatter(
            [before[template.id] for template in templates],
            [template.accuracy.value for template in templates],
            label=tier or NO_TIER,
        )
    panel.axline((first.overall.mean.value,) * 2, slope=1, color="grey", linewidth=1)
    panel.set_xlabel(first.name, parse_math=False)
    panel.set_ylabel(run.name, parse_math=False)
    figure.legend(loc="outside right upper")
    return figure


def base64_png(figure: Figure) -> str:
    """A picture as the text that a page holds."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return base64.b64encode(buffer.getvalue()).decode()
