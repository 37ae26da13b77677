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

import base64
import json

import pytest
from rich.console import Console

from verl_redit.demo import report
from verl_redit.demo.plugins import Part


def rollout(group, session, output, gold="5", score=0.0):
    return {"uid": f"{group}_{session}_0", "output": output, "gts": gold, "score": score}


@pytest.fixture
def folder(tmp_path):
    """Two runs of two steps: one group tied at 0 and one mixed, then both tied at 1."""
    for arm in ("stock", "redit"):
        (tmp_path / arm / "rollouts").mkdir(parents=True)
        (tmp_path / arm / "command.txt").write_text("python -m verl.trainer.main_ppo")
        metrics = [{"step": 0, "data": {report.FROM_METRICS[report.ACCURACY]: 0.25}}]
        for step, accuracy in ((1, 0.3), (2, 0.9)):
            data = {report.FROM_METRICS[report.ACCURACY]: accuracy, "actor/entropy": 0.2, "actor/grad_norm": 0.1}
            metrics.append({"step": step, "data": data})
        (tmp_path / arm / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in metrics))
        steps = {
            1: [
                rollout("a", 0, "4"),
                rollout("a", 1, "#### 4", score=0.07),
                rollout("b", 0, "#### 5"),
                rollout("b", 1, ""),
            ],
            2: [rollout(group, session, "#### 5", score=1.1) for group in "ab" for session in (0, 1)],
        }
        for step, rows in steps.items():
            (tmp_path / arm / "rollouts" / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_rewards_are_the_scorers_whatever_noise_the_score_has(folder):
    curves = report.read_curves("stock", folder / "stock")
    assert curves.points[report.RAW_REWARD] == [(1, 0.25), (2, 1.0)]
    assert curves.points[report.TIED_GROUPS] == [(1, 0.5), (2, 1.0)]
    assert curves.points[report.ACCURACY] == [(0, 0.25), (1, 0.3), (2, 0.9)]


def test_an_unfinished_line_is_left_for_later(folder):
    metrics = folder / "stock" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 3, "da')
    assert len(report.training_steps(metrics)) == 2


def test_the_page_has_pictures_commands_logs_versions_and_sizes(folder):
    console = Console(record=True, width=120)
    runs = {"stock GRPO": folder / "stock", "with the suite": folder / "redit"}
    parts = [Part("A plugin", "what <it> did", [["prompt", "accuracy"], ["p1", "40 %"]], "cGljdHVyZQ=="), Part("B", "")]
    path = report.write(folder, runs, {"seed": 7}, 0.25, parts, console)
    page = path.read_text()
    assert base64.b64encode((folder / "curves.png").read_bytes()).decode() in page
    for text in ("<h2>A plugin</h2>", "what &lt;it&gt; did", "<th>accuracy</th>", "<td>40 %</td>", "cGljdHVyZQ=="):
        assert text in page
    for text in ("python -m verl.trainer.main_ppo", str(folder / "stock"), "<td>seed</td><td>7</td>", "<td>verl</td>"):
        assert text in page
    assert page.count("<img") == 2
    told = console.export_text()
    assert "raw reward" in told and "A plugin. what <it> did" in told
    assert json.loads((folder / "summary.json").read_text())["runs"]["stock GRPO"][report.TIED_GROUPS] == [
        [1, 0.5],
        [2, 1.0],
    ]
