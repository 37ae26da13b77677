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
import shlex
from dataclasses import asdict, replace

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from typer.testing import CliRunner

from verl_redit.cli.app import app
from verl_redit.flexora.config import FlexoraConfig
from verl_redit.flexora.record import Record, read
from verl_redit.flexora.selection import conclude, load
from verl_redit.settings import parse

PATHS = ["self_attn.q_proj", "mlp.up_proj"]
PNG = b"\x89PNG\r\n\x1a\n"


def record_of(grain="layer", layers=range(6), steps=12, exclude=None, noise=0.05, **settings) -> Record:
    """A search in which higher layers agree more, and in each layer mlp.up_proj more than self_attn.q_proj."""
    modules = [f"model.layers.{layer}.{path}" for layer in layers for path in PATHS]
    halves = [modules[at : at + 2] for at in range(0, len(modules), 2)]
    units = {m: [m] for m in modules} if grain == "module" else {pair[0].rsplit(".", 2)[0]: pair for pair in halves}
    model = {"path": "tiny", "type": "qwen2", "lora_rank": 4, "exclude_modules": exclude}
    sizes = [100 * len(names) for names in units.values()]
    record = Record(asdict(FlexoraConfig(grain=grain, **settings)), units, sizes, model)
    random = np.random.default_rng(0)
    for step in range(steps):
        agreement = np.linspace(-0.3, 0.7, len(units)) + random.normal(0, noise, len(units))
        record.add([str(step)], {"agreement": agreement})
    return record


@pytest.fixture
def searched(tmp_path):
    """Write the record and the selection of a search, and return the paths."""

    def write(name="a", **options):
        record = record_of(**options)
        record.write(tmp_path / f"{name}.jsonl")
        conclude(record, parse(FlexoraConfig, record.settings, "flexora")).write(tmp_path / f"{name}.json")
        return tmp_path / f"{name}.jsonl", tmp_path / f"{name}.json"

    return write


def run(*arguments) -> tuple[int, str, str]:
    """Exit code, output, and errors without their line breaks."""
    result = CliRunner().invoke(app, ["flexora", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def test_layers_are_shown_as_bars_with_the_evidence(searched):
    _, file = searched(noise=0.2)
    code, output, _ = run("show", file)
    assert code == 0
    assert "3 of 6 units chosen by align from 12 steps" in " ".join(output.split())
    assert "align: ours: mean ⟨g1, g2⟩ of two halves" in " ".join(output.split())
    rows = {line.split()[0]: line for line in output.splitlines() if line.strip().startswith("model.layers.")}
    assert list(rows) == [f"model.layers.{layer}" for layer in range(6)]
    assert ["●" in row for row in rows.values()] == [False] * 3 + [True] * 3
    assert all("200" in row for row in rows.values())
    highest, lowest = rows["model.layers.5"], rows["model.layers.0"]
    assert highest.count("█") > rows["model.layers.3"].count("█") > 0
    assert "▓" in highest and "░" in highest
    assert max(map(lowest.rfind, "█▓░")) < highest.index("█")  # below 0 the bar lies on the other side
    for text in ("Jaccard index", "rank correlation", "share of units", "last third", "skipped of 12 steps"):
        assert text in output


def test_modules_are_shown_by_layer(searched):
    _, file = searched(grain="module", k=1)
    code, output, _ = run("show", file)
    assert code == 0 and "q_proj" in output and "up_proj" in output
    rows = {line.split()[0]: line.split() for line in output.splitlines() if line.strip().startswith("model.layers.")}
    assert all(len(row) == 3 for row in rows.values()) and len(rows) == 6
    units = {unit.name: unit for unit in load(file).units}
    assert rows["model.layers.2"][1] == f"{units['model.layers.2.self_attn.q_proj'].score:.2g}"
    assert [row[-1].endswith("●") for row in rows.values()] == [False] * 5 + [True]


def test_modules_of_one_name_keep_their_parents_and_gaps_stay_empty(tmp_path):
    record = record_of(grain="module")
    names = [name.replace("q_proj", "up_proj") for name in record.units]
    names[0] = "model.layers.0.other.up_proj"
    record.units = {name: [name] for name in names}
    conclude(record, FlexoraConfig(grain="module")).write(tmp_path / "b.json")
    code, output, _ = run("show", tmp_path / "b.json", "--png", tmp_path / "b.png")
    assert code == 0
    for text in ("other.up_proj", "self_attn.up_proj", "mlp.up_proj"):
        assert text in output
    first = next(line for line in output.splitlines() if "model.layers.0" in line)
    assert len(first.split()) == 3


def test_shown_json_is_the_selection_and_nothing_else(searched, tmp_path):
    _, file = searched()
    code, output, _ = run("show", file, "--json", "--png", tmp_path / "a.png")
    found, written = json.loads(output), json.loads(file.read_text())
    assert code == 0 and found.pop("summary") == load(file).summary
    assert found == {key: value for key, value in written.items() if key not in ("format", "digest")}
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize("grain", ["layer", "module"])
def test_pictures_and_pages_are_written(searched, tmp_path, grain):
    _, file = searched(grain=grain)
    code, output, _ = run("show", file, "--png", tmp_path / "new" / "a.png", "--html", tmp_path / "new" / "a.html")
    assert code == 0 and output.count("written: ") == 2
    picture, page = (tmp_path / "new" / "a.png").read_bytes(), (tmp_path / "new" / "a.html").read_text()
    assert picture.startswith(PNG) and len(picture) > 5000
    assert "data:image/png;base64,iVBOR" in page and 'src="http' not in page and "href" not in page
    for text in (load(file).summary, "<td>model.layers.5", "<td>yes</td>", "Jaccard index", "<td>qwen2</td>"):
        assert text in page


def test_a_search_without_steps_has_no_evidence(tmp_path):
    record = record_of(steps=0, method="last")
    record.add([], {"prior": np.arange(6.0)})
    conclude(record, FlexoraConfig(method="last")).write(tmp_path / "a.json")
    code, output, _ = run("show", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert code == 0 and "3 of 6 units chosen by last" in output and "evidence" not in output and "▓" not in output
    assert "Evidence" not in (tmp_path / "a.html").read_text()


def test_equal_scores_can_be_shown(tmp_path):
    record = record_of(steps=0)
    for step in range(2):
        record.add([str(step)], {"agreement": np.zeros(6)})
    record.add(["2"], {"agreement": np.full(6, np.nan)})
    conclude(record, FlexoraConfig()).write(tmp_path / "a.json")
    code, output, _ = run("show", tmp_path / "a.json", "--png", tmp_path / "a.png")
    assert code == 0 and "too few batches to judge" in output and "skipped of 3 steps" in output


def damaged(text: str) -> str:
    return text[: len(text) // 2]


def hand_edited(text: str) -> str:
    return text.replace('"chosen": false', '"chosen": true', 1)


@pytest.mark.parametrize("command", ["show", "compare", "regex"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged, "not JSON"),
        (hand_edited, "was changed after it was written"),
        (lambda text: "{}", "no layer selection"),
        (None, "there is no file"),
    ],
)
def test_a_selection_that_cannot_be_used_is_told_with_its_name(searched, tmp_path, command, change, message):
    _, file = searched()
    bad = tmp_path / "bad.json"
    if change:
        bad.write_text(change(file.read_text()))
    code, output, errors = run(command, *([file] if command == "compare" else []), bad)
    assert (code, output) == (1, "") and str(bad) in errors.replace(" ", "") and message in errors


def test_selections_are_compared_by_pairs(searched, tmp_path):
    record, first = searched()
    second, third = tmp_path / "b.json", tmp_path / "c.json"
    assert run("select", record, "--out", second, "--k", 2)[0] == 0
    scores = load(first)
    reverse = [replace(unit, chosen=not unit.chosen, score=-unit.score) for unit in scores.units]
    replace(scores, units=reverse).write(third)
    code, output, _ = run("compare", first, second, third, "--json")
    report = json.loads(output)
    assert code == 0 and report["units"] == 6
    assert report["selections"] == {str(file): load(file).summary for file in (first, second, third)}
    pairs = {(pair["left"], pair["right"]): pair for pair in report["pairs"]}
    assert list(pairs) == [(str(a), str(b)) for a, b in ((first, second), (first, third), (second, third))]
    near, far = pairs[str(first), str(second)], pairs[str(first), str(third)]
    assert (near["jaccard"], near["correlation"]) == (pytest.approx(2 / 3), pytest.approx(1))
    assert (far["jaccard"], far["correlation"]) == (0, pytest.approx(-1))
    # of C(6, 3) = 20 choices of three, 1, 9, 9 and 1 share 0, 1, 2 and 3 units with a given one
    assert far["chance_jaccard"] == pytest.approx((9 * 1 / 5 + 9 * 2 / 4 + 1) / 20)
    code, output, _ = run("compare", first, second)
    assert code == 0 and "0.67" in output and "1.00" in output


def test_other_units_are_refused_with_files_and_the_first_difference(searched):
    _, first = searched()
    _, fewer = searched("fewer", layers=range(5))
    _, others = searched("others", layers=[0, 1, 3, 4, 5, 6])
    code, output, errors = run("compare", first, fewer)
    assert (code, output) == (1, "")
    assert "number 6 is model.layers.5 in the first and missing in the second" in errors
    code, _, errors = run("compare", first, first, others)
    assert code == 1 and f"{first} and {others} have different units: number 3 is model.layers.2" in errors


def test_one_selection_is_not_compared(searched):
    code, _, errors = run("compare", searched()[1])
    assert code == 2 and "two or more" in errors


@pytest.mark.parametrize("grain", ["layer", "module"])
@pytest.mark.parametrize("exclude", [None, r".*\.lm_head", r"""it's "quoted\"|a\\"""])
@pytest.mark.parametrize(
    ("options", "key"),
    [([], "actor_rollout_ref.model.exclude_modules"), (["--sft"], "model.exclude_modules")],
)
def test_the_setting_survives_the_shell_and_hydra(searched, grain, exclude, options, key):
    _, file = searched(grain=grain, exclude=exclude)
    code, output, _ = run("regex", file, *options)
    assert code == 0 and output.count("\n") == 1
    (word,) = shlex.split(output)
    override = OverridesParser.create().parse_override(word)
    assert override.key_or_group == key
    assert override.value() == load(file).exclude_modules


def test_verl_takes_the_setting(searched, verl_config):
    _, file = searched()
    (word,) = shlex.split(run("regex", file)[1])
    assert verl_config(word).actor_rollout_ref.model.exclude_modules == load(file).exclude_modules


@pytest.mark.parametrize(
    ("search", "warning"),
    [
        ({}, None),
        ({"noise": 20}, "12 steps, no more than chance"),
        ({"steps": 1}, "1 steps, too few batches to judge. Layers chosen at random may do as well"),
    ],
)
def test_a_setting_from_a_choice_like_chance_is_warned_of_beside_the_output(searched, search, warning):
    _, file = searched(**search)
    code, output, errors = run("regex", file)
    assert code == 0
    (word,) = shlex.split(output)
    assert word.startswith("actor_rollout_ref.model.exclude_modules=")
    assert not errors if warning is None else f"warning: {file}: " in errors and warning in errors


def test_all_units_leave_the_setting_as_it_is_without_one(tmp_path):
    record = record_of(steps=0, method="all")
    record.add([], {"prior": np.ones(6)})
    conclude(record, FlexoraConfig(method="all")).write(tmp_path / "a.json")
    assert run("regex", tmp_path / "a.json", "--sft")[1] == "model.exclude_modules=null\n"


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ([], 3),
        (["--k", 2], 2),
        (["--rule", "budget", "--budget", 0.2], 1),
        (["--rule", "z_score", "--z", 1], 1),
        (["--rule", "z_score", "--z", -1], 5),
    ],
)
def test_another_rule_chooses_anew(searched, tmp_path, options, chosen):
    record, before = searched()
    code, output, _ = run("select", record, "--out", tmp_path / "new" / "b.json", *options)
    found = load(tmp_path / "new" / "b.json")
    assert code == 0 and found.summary in output
    assert [unit.chosen for unit in found.units] == [False] * (6 - chosen) + [True] * chosen
    assert [unit.score for unit in found.units] == [unit.score for unit in load(before).units]
    given = {name.lstrip("-"): value for name, value in zip(options[::2], options[1::2], strict=True)}
    assert found.settings == {**read(record).settings, **given}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", 6], "keeps all of 6 units"),
        (["--rule", "budget", "--budget", 0.1], "keeps none of 6 units"),
        (["--rule", "top"], "flexora.rule: 'top'"),
        (["--rule", "positive"], "method=align has no α"),
        (["--k", 0], "flexora.k: 0"),
        (["--rule", "budget", "--budget", 1], "flexora.budget: 1"),
        (["--budget", 0.2], "--budget 0.2: rule=top_k does not read it"),
    ],
)
def test_a_choice_that_cannot_be_made_is_told_and_nothing_is_written(searched, tmp_path, options, message):
    code, output, errors = run("select", searched()[0], "--out", tmp_path / "b.json", *options)
    assert (code, output) == (1, "") and message in errors
    assert not (tmp_path / "b.json").exists()


def test_a_file_that_is_there_is_not_overwritten(searched):
    record, file = searched()
    before = file.read_text()
    code, _, errors = run("select", record, "--out", file, "--k", 2)
    assert code == 1 and "there already" in errors and file.read_text() == before


def test_a_record_that_cannot_be_used_is_told(searched, tmp_path):
    record, file = searched()
    bad, out = tmp_path / "bad.jsonl", tmp_path / "b.json"
    lines = record.read_text().split("\n")
    bad.write_text("\n".join([*lines[:2], lines[2][:9], *lines[3:]]))
    assert "bad.jsonl: line 3 is damaged" in run("select", bad, "--out", out)[2]
    bad.write_text(lines[0] + "\n")
    code, _, errors = run("select", bad, "--out", out)
    assert code == 1 and "no score yet" in errors
    assert "there is no file" in run("select", tmp_path / "missing", "--out", out)[2]
    assert not out.exists()
