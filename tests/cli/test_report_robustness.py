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

import json

import pytest
from typer.testing import CliRunner

from verl_redit.cli.report import app


def write_run(folder, right):
    """A run with the dump of step 5: templates x and y<z, items 0 to 3; ``right`` says which answers are."""
    (folder / "validation").mkdir(parents=True)
    rows = [
        {
            "input": "?", "output": "four", "gts": "4", "score": acc, "step": 5, "acc": acc, "parsed": 1.0,
            "template_id": template, "tier": "frame", "item_id": str(item), "uid": f"{template}{item}_0_0",
        }
        for template in right
        for item, acc in enumerate(right[template])
    ]  # fmt: skip
    (folder / "validation" / "5.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs; the current folder is empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return [
        write_run(tmp_path / "stock", {"x": [1, 1, 0, 0], "y<z": [1, 0, 0, 0]}),
        write_run(tmp_path / "paft", {"x": [1, 1, 1, 0], "y<z": [1, 1, 1, 0]}),
    ]


def invoke(*arguments):
    return CliRunner().invoke(app, ["robustness", *map(str, arguments)])


def test_tables_are_printed_and_the_page_is_written_here(runs, tmp_path):
    result = invoke(*runs)
    assert result.exit_code == 0, result.output
    for text in ("stock", "paft", "37.5", "75.0", "Tiers", "Differences from stock", "+37.5"):
        assert text in result.stdout
    page = (tmp_path / "here" / "robustness-report" / "report.html").read_text()
    for text in ("stock", "paft", "<td>x</td>", "<td>y&lt;z</td>"):
        assert text in page


def test_json_is_all_that_is_printed_and_equals_the_summary(runs, tmp_path):
    result = invoke(*runs, "--json", "--out", tmp_path / "out", "--bar", 0.7)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [run["overall"]["top"] for run in found["runs"]] == [0, 1]
    assert found["differences"]["paft"]["mean"]["value"] == 0.375
    assert found["length_unit"] == "characters"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", 4], "no dump of step 4; it has 5"),
        (["--tokenizer", "."], "no tokenizer"),
        (["missing"], "missing: no dump"),
    ],
)
def test_what_cannot_be_read_ends_with_1_and_a_message_apart_from_stdout(runs, tmp_path, arguments, message):
    result = invoke(runs[0], *arguments, "--json")
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [[], ["run", "--bar", "1.5"], ["run", "--step", "-1"], ["run", "--tokenizer", "?"]]
)
def test_wrong_options_end_with_2(runs, arguments):
    assert invoke(*arguments).exit_code == 2
