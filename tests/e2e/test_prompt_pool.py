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

"""GRPO on a prompt pool by the recipe's script: a run resumed in mid-epoch, the validation grid, the report."""

import json
import re
import shutil
from collections import Counter, defaultdict

import pytest
from typer.testing import CliRunner

from tests.e2e.conftest import GRID, POOL_SETTINGS, SIZES, metrics_of, rows_of
from verl_redit.cli import app
from verl_redit.demo.task import DATA_SOURCE
from verl_redit.paft.grid import grid_templates
from verl_redit.paft.pool import Template, render
from verl_redit.paft.pool_file import load

pytestmark = pytest.mark.e2e
POOL = load("gsm8k")
VALIDATION_SAMPLES = 2


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """Two steps of an epoch of 32, a checkpoint after each, validation before and after."""
    folder = tmp_path_factory.mktemp("prompt-pool") / "run"
    settings = [*POOL_SETTINGS, "trainer.save_freq=1", "trainer.test_freq=2"]
    return train(folder, *settings, script="paft_gsm8k/run_qwen2_5_fsdp.sh")


def shown(template: Template, prompt: str) -> bool:
    """Whether a prompt of a dump, which is decoded text, is this template's."""
    turns = render(template, {"question": "QUESTION"})
    parts = [part.strip() for turn in turns for part in turn["content"].split("QUESTION")]
    return re.fullmatch(".*?" + ".*?".join(map(re.escape, parts)) + ".*?", prompt, re.DOTALL) is not None


def templates_of(dump) -> dict[str, set[str]]:
    """Group -> the templates that its prompts are of, each of which is a train one and the text that was shown."""
    found = defaultdict(set)
    for row in rows_of(dump):
        template = _by_id(row["template_id"])
        assert template.split == "train" and shown(template, row["input"])
        found[row["uid"].split("_")[0]].add(template.id)
    return found


def _by_id(id: str) -> Template:
    return next(template for template in POOL.templates if template.id == id)


def test_a_group_shares_a_template_and_every_draw_of_a_round_has_its_own(trained):
    groups = {**templates_of(trained / "rollouts" / "1.jsonl"), **templates_of(trained / "rollouts" / "2.jsonl")}
    assert len(groups) == 2 * SIZES.prompts
    assert all(len(templates) == 1 for templates in groups.values())
    assert len(set().union(*groups.values())) == len(groups)  # 16 draws of a pool of more than 40


def test_validation_is_the_grid_of_held_out_templates(trained):
    for step in (0, 2):
        rows = rows_of(trained / "validation" / f"{step}.jsonl")
        cells = Counter((row["item_id"], row["template_id"]) for row in rows)
        assert len(cells) == GRID.items * GRID.templates
        assert set(cells.values()) == {VALIDATION_SAMPLES}
        assert {row["template_id"] for row in rows} == {template.id for template in grid_templates(POOL, GRID)}
        assert all(shown(_by_id(row["template_id"]), row["input"]) for row in rows)


def test_verls_validation_has_metrics_of_each_template(trained):
    rows = rows_of(trained / "validation" / "2.jsonl")
    logged = metrics_of(trained)[2]
    for template in grid_templates(POOL, GRID):
        own = [row for row in rows if row["template_id"] == template.id]
        name = f"{DATA_SOURCE}/{template.id}"
        accuracy = sum(row["acc"] for row in own) / len(own)
        parsed = sum(row["parsed"] for row in own) / len(own)
        assert logged[f"val-core/{name}/acc/mean@{VALIDATION_SAMPLES}"] == pytest.approx(accuracy)
        assert logged[f"val-aux/{name}/parsed/mean@{VALIDATION_SAMPLES}"] == pytest.approx(parsed)


def test_a_run_stopped_in_mid_epoch_goes_on_with_the_same_prompts(trained, train, tmp_path):
    stopped = tmp_path / "checkpoints"
    shutil.copytree(trained / "checkpoints" / "global_step_1", stopped / "global_step_1")
    (stopped / "latest_checkpointed_iteration.txt").write_text("1")
    folder = train(
        tmp_path / "run", "+paft=cycle", *POOL_SETTINGS, f"trainer.default_local_dir={stopped}",
        "trainer.val_before_train=false", "trainer.test_freq=-1", redit=False,
    )  # fmt: skip
    resumed, whole = ([row["input"] for row in rows_of(place / "rollouts" / "2.jsonl")] for place in (folder, trained))
    assert Counter(resumed) == Counter(whole)


def test_the_report_is_made_from_the_validation(trained, tmp_path):
    result = CliRunner().invoke(app, ["report", "robustness", str(trained), "--json", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    rows = rows_of(trained / "validation" / "2.jsonl")
    [run] = json.loads(result.stdout)["runs"]
    assert run["overall"]["mean"]["value"] == pytest.approx(sum(row["acc"] for row in rows) / len(rows))
    assert (tmp_path / "report.html").is_file()
