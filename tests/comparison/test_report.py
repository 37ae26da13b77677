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

"""`verl-redit report DIR…`: logs of verl's own file logger to curves, a table, JSON and a page."""

import json

import pytest
from scipy import stats
from typer.testing import CliRunner
from verl.utils.tracking import FileLogger

from verl_redit.cli import app
from verl_redit.comparison.figures import compare
from verl_redit.comparison.intervals import draw_intervals
from verl_redit.comparison.logs import LogError, read_arms
from verl_redit.comparison.page import HEADINGS, rows

ACCURACY = "val-core/openai/gsm8k/acc/mean@2"


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Write a run's log with verl's logger."""

    def write(place, accuracies, name=ACCURACY, **more):
        file = tmp_path / place / "metrics.jsonl"
        file.parent.mkdir(parents=True)
        monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(file))
        logger = FileLogger("project", "experiment")
        for step, accuracy in enumerate(accuracies):
            logger.log({name: accuracy, "timing_s/step": 2.0, **more}, step)
        logger.finish()
        return file

    return write


def test_arms_are_compared_over_their_seeds(log, tmp_path):
    ends = {"grpo": [0.30, 0.40, 0.35], "redit": [0.50, 0.60, 0.70]}
    for arm, of_arm in ends.items():
        for seed, end in enumerate(of_arm):
            log(f"{arm}/{seed}", [end * step / 19 for step in range(20)])
    found = compare(read_arms([tmp_path / "grpo", tmp_path / "redit"]))
    assert (found.metric, found.step, found.notes) == ("validation accuracy", 19, [])
    of_five = [sum(range(15, 20)) / 5 / 19 * end for end in ends["redit"]]
    mean = sum(of_five) / 3
    assert found.arms["redit"].value.mean == pytest.approx(mean)
    low, high = stats.t.interval(0.95, 2, mean, stats.sem(of_five))
    assert (found.arms["redit"].value.low, found.arms["redit"].value.high) == pytest.approx((low, high))
    assert found.arms["grpo"].difference is None
    assert found.arms["redit"].difference.mean == pytest.approx(mean - found.arms["grpo"].value.mean)
    assert 0 < found.arms["redit"].difference.low < found.arms["redit"].difference.high
    assert found.target == found.arms["grpo"].value.mean
    assert len(found.arms["redit"].steps_to_target) == 3 and max(found.arms["redit"].steps_to_target) < 19
    assert [step is None for step in found.arms["grpo"].steps_to_target] == [True, False, False]  # the mean of all
    assert found.arms["grpo"].seconds_per_step == 2.0


def test_runs_that_are_still_going_or_crashed_are_compared_where_all_have_been(log, tmp_path):
    log("a/0", [0.1] * 30)
    going = log("b/0", [0.2] * 10)
    going.write_bytes(going.read_bytes() + b'{"step": 10, "da')
    found = compare(read_arms([tmp_path / "a", tmp_path / "b"]))
    assert found.step == 9 and found.arms["b"].difference.mean == pytest.approx(0.1)
    assert found.arms["b"].value.low is None  # one run has no interval
    assert any("last line was cut off" in note for note in found.notes)
    assert any(f"{going} ends at step 9, others go on to 29" in note for note in found.notes)


def test_losses_are_better_when_lower(log, tmp_path):
    log("a", [4.0, 3.0, 2.0, 1.0], name="val/loss")
    found = compare(read_arms([tmp_path / "a"]), target=3.0)
    # windows of two points
    assert found.metric == "val/loss" and found.arms["a"].steps_to_target == [2]


def test_a_run_that_never_reaches_the_target_counts_in_the_median(log, tmp_path):
    for seed in range(3):
        log(f"a/{seed}", [0.1, 0.2, 0.4, 0.4 + seed / 10])
        log(f"b/{seed}", [0.1, 0.9, 0.9, 0.9] if seed == 0 else [0.1 * seed] * 4)
    found = compare(read_arms([tmp_path / "a", tmp_path / "b"]), target=0.3)
    assert found.arms["a"].steps_to_target == [2, 2, 2]
    assert found.arms["b"].steps_to_target == [1, None, None]
    assert [row[HEADINGS.index("steps to target")] for row in rows(found)] == [
        "2 (3 of 3 runs did)",
        "not reached (1 of 3 runs did)",
    ]


def test_one_lucky_step_is_not_the_target(log, tmp_path):
    log("a", [0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert compare(read_arms([tmp_path / "a"]), target=0.5).arms["a"].steps_to_target == [None]


def test_a_run_that_validates_less_often_or_is_still_going_is_judged_by_the_same_steps(log, tmp_path):
    often = log("often", [step / 100 for step in range(101)])
    lines = often.read_text().splitlines(keepends=True)
    for arm, kept in (("seldom", lines[::20]), ("going", lines[:80:20])):
        file = log(arm, [])
        file.write_text("".join(kept))
    found = compare(read_arms([tmp_path / "often", tmp_path / "seldom"]), target=0.5)
    assert found.arms["seldom"].value == found.arms["often"].value and found.arms["seldom"].difference.mean == 0
    assert [arm.steps_to_target for arm in found.arms.values()] == [[80], [80]]
    found = compare(read_arms([tmp_path / "seldom", tmp_path / "going"]), target=0.3)
    assert [arm.steps_to_target for arm in found.arms.values()] == [[40], [40]]


def test_a_validation_before_training_alone_is_not_what_is_compared(log, tmp_path):
    """verl's default: val_before_train, and test_freq of -1."""
    for arm, reward in (("a", 0.2), ("b", 0.6)):
        file = log(arm, [0.1])
        lines = [{"step": step, "data": {"critic/score/mean": reward}} for step in range(1, 5)]
        file.write_text(file.read_text() + "".join(f"{json.dumps(line)}\n" for line in lines))
    arms = read_arms([tmp_path / "a", tmp_path / "b"])
    found = compare(arms)
    assert (found.metric, found.step, found.notes) == ("critic/score/mean", 4, [])
    asked = compare(arms, metric="validation accuracy")
    assert asked.step == 0 and any("compared before training" in note for note in asked.notes)


def test_what_earlier_starts_of_a_run_have_logged_is_part_of_it(log, tmp_path):
    last = log("a", [0.1, 0.2, 0.3, 0.4])
    lines = last.read_text().splitlines(keepends=True)
    (tmp_path / "a" / "metrics.jsonl.9").write_text("".join(lines[:2]))
    # it had gone further than its checkpoint
    (tmp_path / "a" / "metrics.jsonl.10").write_text(
        lines[1].replace("0.2", "0.9") + lines[2] + lines[3].replace(":3", ":7")
    )
    last.write_text("".join(lines[2:]))
    for arm in (tmp_path / "a", last):
        [run] = read_arms([arm])[arm.stem]
        assert run.file == last
        assert {step: data[ACCURACY] for step, data in run.steps.items()} == {0: 0.1, 1: 0.9, 2: 0.3, 3: 0.4}
    # verl validates what it has loaded before it trains on
    last.write_text('{"step":1,"data":{"val-core/other/acc/mean@1":0.5}}\n' + lines[2])
    [run] = read_arms([tmp_path / "a"])["a"]
    assert run.steps.keys() == {0, 1, 2}
    assert run.steps[1].keys() == {"val-core/other/acc/mean@1", ACCURACY, "timing_s/step"}
    last.unlink()  # moved aside, and the run waits to go on
    [run] = read_arms([tmp_path / "a"])["a"]
    assert run.steps.keys() == {0, 1, 2, 7}
    last.write_text("")  # a start that was refused
    [run] = read_arms([tmp_path / "a"])["a"]
    assert run.steps.keys() == {0, 1, 2, 7}


def test_values_of_seeds_are_drawn(tmp_path):
    pictures = []
    for seeds in ([0.3, 0.1], [0.3, 0.1], [0.3, 0.12]):
        draw_intervals({"grpo": [0.1, 0.35], "redit": seeds}, "accuracy", tmp_path / "found.png")
        pictures.append((tmp_path / "found.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_a_log_without_a_whole_line_is_told(log, tmp_path):
    log("a/0", [0.1, 0.2])
    for seed, written in ((1, ""), (2, '{"step":1, "da')):
        log(f"a/{seed}", []).write_text(written)
    found = compare(read_arms([tmp_path / "a"]))
    assert found.arms["a"].last_steps == [1]
    for seed, note in zip((1, 2), found.notes, strict=True):
        assert f"{tmp_path}/a/{seed}/metrics.jsonl beside it has no whole line and is left out" in note


def test_a_value_that_is_not_finite_is_told(log, tmp_path):
    log("a", [0.1, 0.2], **{"actor/grad_norm": float("nan")})
    [note] = compare(read_arms([tmp_path / "a"])).notes
    assert "actor/grad_norm is not finite at 2 steps" in note


def test_numbers_that_no_float_holds_are_told(log, tmp_path):
    file = log("a", [0.1, 0.2], **{"actor/grad_norm": 7})
    file.write_text(file.read_text().replace(":7", f":{'9' * 400}"))
    [note] = compare(read_arms([tmp_path / "a"])).notes
    assert "actor/grad_norm is not finite at 2 steps" in note
    file.write_text('{"step":Infinity,"data":{}}\n')
    with pytest.raises(LogError, match="line 1: not a line of verl's file logger .OverflowError"):
        read_arms([tmp_path / "a"])


def test_what_only_has_a_log_s_name_is_passed_over(log, tmp_path):
    log("a", [0.1])
    (tmp_path / "a" / "latest.jsonl").symlink_to(tmp_path / "gone.jsonl")
    (tmp_path / "a" / "folder.jsonl").mkdir()
    assert [len(runs) for runs in read_arms([tmp_path / "a"]).values()] == [1]


def test_seeds_that_validate_on_other_prompts_are_told(log, tmp_path):
    log("a/0", [0.1])
    log("a/1", [0.2], **{"val-core/aime/acc/mean@2": 0.9})
    [note] = compare(read_arms([tmp_path / "a"])).notes
    assert note.startswith("Runs of a do not validate alike (val-core/aime/acc/mean@2)")


def test_dumps_beside_a_log_are_not_runs(log, tmp_path):
    log("a", [0.1])
    (tmp_path / "a" / "0.jsonl").write_text('{"input": "x", "score": 1.0, "step": 1}\n')
    assert [len(runs) for runs in read_arms([tmp_path / "a"]).values()] == [1]


def test_a_pool_s_validation_is_the_same_task_as_the_rows_own(log, tmp_path):
    log("a", [0.1])
    log("b", [0.1], name="val-core/openai/gsm8k/plain/acc/mean@2")
    [note] = compare(read_arms([tmp_path / "a", tmp_path / "b"])).notes
    assert "b validates on other prompts than a (openai/gsm8k, openai/gsm8k/plain)" in note


def test_other_numbers_of_samples_are_not_other_prompts(log, tmp_path):
    log("a", [0.1])
    log("b", [0.1], name=ACCURACY.replace("mean@", "mean@1"))
    [note] = compare(read_arms([tmp_path / "a", tmp_path / "b"])).notes
    assert "b measures the same prompts otherwise than a" in note and "mean@1" in note


def test_a_run_without_validation_is_named(log, tmp_path):
    log("a", [0.1], **{"critic/score/mean": 0.3})
    crashed = log("b", [0.2], name="critic/score/mean")
    found = compare(read_arms([tmp_path / "a", tmp_path / "b"]))
    assert found.metric == "critic/score/mean"
    assert found.notes == [f"validation accuracy is not compared: {crashed} has none."]


def test_what_cannot_be_compared_is_refused(log, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(LogError, match="empty: no log of verl's file logger.*trainer.logger"):
        read_arms([tmp_path / "empty"])
    log("a", [0.1])
    log("b", [0.1], name="val-core/math/acc/mean@2")
    with pytest.raises(LogError, match="different tasks: .*a.*validates on openai/gsm8k, .*b.* on math"):
        read_arms([tmp_path / "a", tmp_path / "b"])
    log("other/a", [0.1])
    with pytest.raises(LogError, match="an arm named a already"):
        read_arms([tmp_path / "a", tmp_path / "other/a"])
    broken = log("broken", [0.1, 0.2])
    broken.write_text(broken.read_text().replace('{"step":1', '{"step:1'))
    with pytest.raises(LogError, match="metrics.jsonl line 2: not a line"):
        read_arms([tmp_path / "broken"])
    with pytest.raises(LogError, match="no actor/grad_nrom"):
        compare(read_arms([tmp_path / "a"]), metric="actor/grad_nrom")
    with pytest.raises(LogError, match="--step 7: not all runs.*all have it at 0"):
        compare(read_arms([tmp_path / "a"]), step=7)


def test_the_command_writes_a_page_and_json(log, tmp_path):
    log("a/0", [0.1, 0.2], **{"redit/tied_share": 0.5})
    log("b/0", [0.3, 0.4])
    command = ["report", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0 and "validation accuracy up to step 1" in shown.output
    printed = CliRunner().invoke(app, [*command, "--json"])
    found = json.loads(printed.stdout)
    assert found == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert found["arms"]["b"]["difference"]["mean"] == pytest.approx(0.2)
    assert found["beside"]["redit/tied_share"] == {"a": {"mean": 0.5, "low": None, "high": None}}
    assert found["beside"]["timing_s/step"].keys() == {"a", "b"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<td>redit/tied_share</td><td>0.5</td><td></td>" in page
    assert "data:image/png;base64" in page and str(tmp_path / "b/0/metrics.jsonl") in page
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    refused = CliRunner().invoke(app, ["report", str(tmp_path / "out"), "--out", str(tmp_path / "out")])
    assert refused.exit_code == 1 and "no log of verl's file logger" in refused.stderr


def test_a_folder_with_a_command_s_name_is_not_left_out_silently(log, tmp_path, monkeypatch):
    log("runs", [0.1])
    log("b", [0.2])
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["report", "runs", "b"])
    assert shown.exit_code == 0 and "the folder of that name is ./runs" in shown.stderr
