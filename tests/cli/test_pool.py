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

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from verl_redit.cli.pool import app

ASKS = "Work it out: {{ question }}\nEnd with ####"
GOOD = [
    {"id": "plain", "user": ASKS, "split": "train"},
    {"id": "framed", "system": "You are a clerk. End with ####", "user": "Case [7]: {{ question }}", "split": "train"},
    {"id": "unseen", "user": "Riddle!\n{{ question }}\n#### and the result", "split": "held_out", "tier": "frame"},
]


@pytest.fixture
def pool_file(tmp_path):
    def write(*templates, **shared) -> str:
        file = tmp_path / "pool.yaml"
        file.write_text(
            yaml.safe_dump({"contract": "hash4", **shared, "templates": templates or GOOD}, sort_keys=False)
        )
        return str(file)

    return write


def run(*arguments) -> tuple[int, str, str]:
    """Exit code, output without its line breaks and frames, errors."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.stdout.replace("│", " ").split()), result.stderr


def test_a_good_pool_passes_and_is_summed_up(pool_file):
    code, output, _ = run("check", pool_file())
    assert code == 0
    assert "2 train, 1 held_out; content " in output and "longest text 54 characters; defects: 0" in output
    code, output, _ = run("check", pool_file(), "--json")
    report = json.loads(output)
    assert (code, report["ok"], report["templates"]) == (0, True, {"train": 2, "held_out": 1})
    assert report["longest"] == 54 and len(report["content_hash"]) == 16 and report["defects"] == []


def test_each_defect_is_listed_with_row_id_and_rule(pool_file):
    file = pool_file(*GOOD, {"id": "left", "user": f"{ASKS} [describe the tone]", "split": "train"})
    code, output, _ = run("check", file)
    assert code == 1
    assert "defects: 1" in output and "[describe" in output and "leftover" in output and "left" in output
    (defect,) = json.loads(run("check", file, "--json")[1])["defects"]
    line = next(n for n, line in enumerate(open(file), start=1) if "id: left" in line)
    assert (defect["row"], defect["id"], defect["rule"]) == (f"line {line}", "left", "leftover")


@pytest.mark.parametrize("command", ["check", "show", "stats"])
def test_a_pool_that_cannot_be_read_is_told_in_one_line(command):
    code, output, errors = run(command, "no-such-pool")
    assert code == 1 and output == ""
    assert errors.startswith("there is no pool 'no-such-pool'")


def test_templates_are_shown_on_a_sample(pool_file):
    code, output, _ = run("show", pool_file())
    assert code == 0
    for text in (
        "plain · train · no tier · hash4",
        "Case [7]: What is 2 + 3?",
        "You are a clerk.",
        "system",
        "Riddle!",
    ):
        assert text in output
    assert "unseen · held_out · frame · hash4" in output


def test_one_template_or_one_split_is_shown(pool_file):
    assert "plain" not in run("show", pool_file(), "--template=framed")[1]
    output = run("show", pool_file(), "--split=held_out")[1]
    assert "unseen" in output and "plain" not in output


def test_values_come_from_a_row_or_are_given(pool_file, tmp_path):
    rows = [{"prompt": [{"role": "user", "content": "x"}], "extra_info": {"question": f"Row {n}?"}} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert "Work it out: Row 2? End" in run("show", pool_file(), f"--row={tmp_path}/rows.parquet:2")[1]
    assert "Work it out: a=b [c] End" in run("show", pool_file(), "--set", "question=a=b [c]")[1]
    code, _, errors = run("show", pool_file(), f"--row={tmp_path}/rows.parquet:3")
    assert code == 1 and "has 3 rows, the last is 2" in errors


def test_fields_with_options_have_letters(pool_file):
    text = "{{ goal }}\n{% for letter, text in options %}{{ letter }}. {{ text }}\n{% endfor %}Answer:"
    file = pool_file({"id": "choice", "user": text, "split": "train"}, fields=["goal", "options"], contract="letter")
    assert "<goal> A. 4 B. 5 C. 6 Answer:" in run("show", file)[1]
    given = ["--set=goal=Open it", "--set=options=push", "--set=options=pull"]
    assert "Open it A. push B. pull Answer:" in run("show", file, *given)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--template=plian"], "--template plian: did you mean 'plain'?"),
        (["--split=test"], "--split test: valid: held_out, train"),
        (["--set=question"], "write it as field=value"),
        (["--set=answer=5"], "--set answer: valid: question"),
        (["--row=missing.parquet:0"], "write it as FILE:N"),
    ],
)
def test_a_wrong_option_is_told_with_the_mend(pool_file, options, message):
    code, _, errors = run("show", pool_file(), *options)
    assert code == 1 and message in errors


def test_statistics_tell_sizes_and_distance(pool_file):
    report = json.loads(run("stats", pool_file(), "--json")[1])
    assert report["splits"]["train"] == {
        "templates": 2,
        "tiers": {"none": 2},
        "shortest": 41,
        "median": 47.5,
        "longest": 54,
    }
    assert report["splits"]["held_out"]["tiers"] == {"frame": 1}
    (near,) = report["nearest_train"]
    assert (near["held_out"], near["train"]) == ("unseen", "plain")
    assert near["shared"] == pytest.approx(1 / 10)  # #### of ten different words
    assert report["shared_words"] == {"median": near["shared"], "largest": near["shared"]}
    output = run("stats", pool_file())[1]
    assert "words in common: median 10%, largest 10%" in output and "2 none" in output


def test_statistics_need_no_held_out_template(pool_file):
    code, output, _ = run("stats", pool_file(GOOD[0]))
    assert code == 0 and "words in common" not in output


@pytest.fixture
def sheets(tmp_path):
    train = [
        '"Work it out: {question}\\n#### last"',
        '"Count: {question} #### last."',
        "No field ####",
        "",
        "{question}",
    ]
    (tmp_path / "train.csv").write_text("\n".join(["text", *train]) + "\n")
    (tmp_path / "test.csv").write_text('prompt\n"Count: {question} #### last!"\n"Riddle, quickly: {question} ####"\n')
    return tmp_path


def test_two_sheets_become_one_pool(sheets):
    arguments = ["--out", sheets / "pool.yaml", "--contract=hash4", "--json"]
    code, output, _ = run("import", sheets / "train.csv", *arguments)
    report = json.loads(output)
    assert code == 0 and report["ok"]
    assert (report["candidates"], report["kept"], report["dropped"]) == (5, 2, 3)
    assert [(mend["row"], mend["rule"]) for mend in report["mends"]] == [("row 2", "literal newline")]
    assert {drop["row"]: drop["rule"] for drop in report["drops"]} == {
        "row 4": "field",
        "row 5": "blank",
        "row 6": "contract",
    }
    held_out = ["--split=held_out", "--tier=paraphrase", "--column=prompt"]
    code, output, _ = run("import", sheets / "test.csv", *arguments, *held_out)
    assert code == 0 and json.loads(output)["drops"][0]["rule"] == "duplicate"
    assert json.loads(run("check", sheets / "pool.yaml", "--json")[1])["templates"] == {"train": 2, "held_out": 1}
    assert "test-row-0003 · held_out · paraphrase" in run("show", sheets / "pool.yaml")[1]


def test_an_import_adds_up_and_says_that_the_pool_passes(sheets):
    out = sheets / "pool.yaml"
    code, output, _ = run("import", sheets / "train.csv", "--out", out, "--contract=hash4", "--append-contract")
    assert code == 0
    assert "rows in 5 = templates out 3 + rows dropped 2; templates mended 2" in output
    assert f"{out} with 3 templates passes `verl-redit pool check`" in output
    assert "mended" in output and "dropped" in output


def test_a_pool_of_held_out_templates_alone_does_not_pass(sheets):
    arguments = ["--contract=hash4", "--column=prompt", "--split=held_out", "--tier=frame"]
    code, output, _ = run("import", sheets / "test.csv", "--out", sheets / "pool.yaml", *arguments)
    assert code == 1 and "does not pass `verl-redit pool check`" in output and "no train template" in output


def test_an_empty_pool_is_not_written(sheets):
    (sheets / "bad.csv").write_text("text\nNothing\n")
    code, output, _ = run("import", sheets / "bad.csv", "--out", sheets / "pool.yaml", "--contract=hash4")
    assert code == 1 and "rows in 1 = templates out 0 + rows dropped 1" in output and "is not written" in output
    assert not (sheets / "pool.yaml").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--contract=hash"], "--contract hash: did you mean 'hash4'?"),
        (["--contract=own", "--split=heldout"], "--split heldout: did you mean 'held_out'?"),
        (["--contract=own", "--split=held_out"], "--tier is missing: valid: adversarial"),
        (["--contract=own", "--column=prompts"], "0 columns are called 'prompts'"),
    ],
)
def test_an_import_that_cannot_start_is_told_with_the_mend(sheets, options, message):
    code, _, errors = run("import", sheets / "train.csv", "--out", sheets / "pool.yaml", *options)
    assert code == 1 and message in errors
    assert not (sheets / "pool.yaml").exists()
