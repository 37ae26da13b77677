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

"""What each plugin did in the demo's run with the suite, beside the run without: words, a table, a picture."""

import base64
import io
import json
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from verl_redit.flexora.pictures import draw
from verl_redit.flexora.selection import load as load_selection
from verl_redit.paft.pool import Pool


@dataclass(frozen=True)
class Part:
    """One plugin's part of the page.

    Args:
        title: the plugin and what it is for.
        text: what it did, in sentences.
        table: rows of cells, the first of them the heads.
        picture: a PNG in base64.
    """

    title: str
    text: str
    table: list[list[str]] = field(default_factory=list)
    picture: str = ""


def parts(stock: Path, suite: Path, steps: list[dict[str, float]], pool: Pool) -> list[Part]:
    """What ReDit, PAFT and Flexora did.

    Args:
        stock, suite: folders of the two runs.
        steps: of the run with the suite, as verl logged them.
        pool: whose prompts were shown.
    """
    return [_redit(steps), _paft(stock, suite, pool), _flexora(suite)]


def _redit(steps: list[dict[str, float]]) -> Part:
    metrics = ("effective_std", "tied_share", "tied_energy_share")
    std, tied, energy = (statistics.fmean(step[f"redit/{name}"] for step in steps) for name in metrics)
    return Part(
        "ReDit: noise on rewards",
        f"Noise with a standard deviation of {std:.3f} was added to the rewards that the gradient saw. In {tied:.0%} "
        "of the groups all rewards were equal; without noise these give no gradient. With it, "
        f"{energy:.0%} of the advantages' energy came from them, with random signs. Stored rewards, and all rewards on "
        "this page, have no noise in them.",
    )


def _paft(stock: Path, suite: Path, pool: Pool) -> Part:
    found = [_by_template(folder) for folder in (stock, suite)]
    shown = [template for template in pool.templates if template.id in found[0]]
    texts = [" / ".join(filter(None, (template.system, template.user))) for template in shown]
    rows = [
        [template.id, text, *(f"{accuracy[template.id]:.0%}" for accuracy in found)]
        for template, text in zip(shown, texts, strict=True)
    ]
    trained = len(pool.of_split("train"))
    ends = [f"{min(accuracy.values()):.0%} to {max(accuracy.values()):.0%}" for accuracy in found]
    return Part(
        "PAFT: prompts of a pool",
        f"Stock GRPO showed all problems with one prompt; the suite drew one of {trained} for each. Under the "
        f"{len(rows)} prompts that neither was trained on, {ends[0]} of stock GRPO's answers were right, and {ends[1]} "
        "of the suite's.",
        [["unseen prompt", "text", "stock GRPO", "with the suite"], *rows],
    )


def _by_template(folder: Path) -> dict[str, float]:
    """Template -> accuracy in the last validation."""
    last = max((folder / "validation").glob("*.jsonl"), key=lambda path: int(path.stem))
    marks: dict[str, list[float]] = defaultdict(list)
    for row in map(json.loads, last.read_text().splitlines()):
        marks[row["template_id"]].append(row["acc"])
    return {template: statistics.fmean(of_template) for template, of_template in marks.items()}


def _flexora(suite: Path) -> Part:
    selection = load_selection(suite / "checkpoints" / "flexora" / "selection.json")
    buffer = io.BytesIO()
    draw(selection).savefig(buffer, format="png")
    kept = sum(unit.parameters for unit in selection.chosen) / sum(unit.parameters for unit in selection.units)
    return Part(
        "Flexora: layers with LoRA",
        f"{selection.summary}. After step {selection.scored_steps} these layers trained alone, {kept:.0%} of the LoRA "
        "parameters, and the gradient norm is theirs. The demo goes on with them whatever the evidence says; a run of "
        "yours would stop if they were no better than chance.",
        picture=base64.b64encode(buffer.getvalue()).decode(),
    )
