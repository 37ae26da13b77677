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

"""From dumps, written as verl writes them, to figures, tables, page and pictures."""

import json
import re

import pytest
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from verl_redit.paft.robustness import dumps, pictures, report, scores

TIERS = {"plain": "paraphrase", "terse": "paraphrase", "misspelt": "adversarial"}
# right answers of each template to item 1, item 2
RIGHT = {"plain": (1, 1), "terse": (1, 0), "misspelt": (0, 0)}


def lines(right=RIGHT, tiers=TIERS, samples=1, step=10):
    """The lines of a dump; every response is three words."""
    return [
        {
            "input": "a question", "output": "so it is", "gts": "5", "score": float(acc), "step": step,
            "acc": float(acc), "parsed": 1.0, "template_id": template, "tier": tiers[template],
            "item_id": f"item {item}", "uid": f"{template}-{item}-0c4e_{sample}_0",
        }
        for template, answers in right.items()
        for item, acc in enumerate(answers, start=1)
        for sample in range(samples)
    ]  # fmt: skip


def write(folder, rows, step=10):
    """A run's dump; a row that is text already is written as it is."""
    (folder / "validation").mkdir(parents=True, exist_ok=True)
    file = folder / "validation" / f"{step}.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def read(*folders, step=None):
    return dumps.read_runs(list(folders), step, dumps.count_characters)


def made(*folders, bar=0.85):
    return scores.make_report(read(*folders), bar, "characters")


def test_a_dump_becomes_a_grid_of_sorted_items_and_templates_by_tier(tmp_path):
    write(tmp_path, reversed(lines()))
    (run,) = read(tmp_path)
    assert (run.name, run.step, run.samples) == (tmp_path.name, 10, 1)
    assert run.outcomes.items == ("item 1", "item 2")
    assert run.outcomes.templates == ("plain", "terse", "misspelt")
    assert run.outcomes.tiers == ("paraphrase", "paraphrase", "adversarial")
    assert run.outcomes.accuracy.tolist() == [[1, 1, 0], [1, 0, 0]]
    assert run.outcomes.length.tolist() == [[8, 8, 8]] * 2


def test_samples_of_a_cell_are_averaged(tmp_path):
    rows = lines(samples=2)
    rows[0] |= {"acc": 0.0, "output": "", "parsed": 0.0}
    rows[1] |= {"output": "four"}
    rows[2] |= {"acc": 0.0}
    write(tmp_path, rows)
    (run,) = read(tmp_path)
    assert run.samples == 2
    assert run.outcomes.accuracy[:, 0].tolist() == [0.5, 0.5]
    assert run.outcomes.parsed[:, 0].tolist() == [0.5, 1]
    assert run.outcomes.wrong_but_parsed[:, 0].tolist() == [0, 0.5]
    assert run.outcomes.length[0, 0] == 2


def test_a_session_with_two_outputs_is_one_sample_and_their_lengths_add_up(tmp_path):
    rows = lines()
    write(tmp_path, [*rows, {**rows[0], "uid": rows[0]["uid"][:-1] + "1", "output": "and so"}])
    (run,) = read(tmp_path)
    assert run.samples == 1
    assert run.outcomes.length[0].tolist() == [14, 8, 8]


def test_the_last_step_is_read_or_the_one_asked_for(tmp_path):
    for step in (0, 9, 10):
        write(tmp_path, lines(step=step), step)
    (tmp_path / "validation" / "notes.jsonl").write_text("no dump")
    assert read(tmp_path)[0].step == 10
    assert read(tmp_path, step=9)[0].file.name == "9.jsonl"
    with pytest.raises(dumps.DumpError, match=rf"run {tmp_path.name}: no dump of step 7; it has 0, 9, 10$"):
        read(tmp_path, step=7)


def test_a_run_folder_and_its_validation_folder_are_the_same_dumps(tmp_path):
    write(tmp_path, lines())
    (tmp_path / "1.jsonl").write_text("not verl's")
    assert read(tmp_path)[0].file == read(tmp_path / "validation")[0].file


def test_names_take_as_much_of_the_path_as_tells_runs_apart(tmp_path):
    folders = [tmp_path / "first" / "run", tmp_path / "second" / "run", tmp_path / "third"]
    for folder in folders:
        write(folder, lines())
    assert [run.name for run in read(folders[0], folders[2])] == ["run", "third"]
    assert [run.name for run in read(*folders[:2])] == ["first/run", "second/run"]
    with pytest.raises(dumps.DumpError, match="named twice"):
        read(folders[0], folders[0] / ".." / "run")


def changed(number, **values):
    rows = lines()
    rows[number] |= values
    return rows


def without(key):
    return [{name: value for name, value in row.items() if name != key} for row in lines()]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lines()[:-1], r"^run {run}, step 10: 1 of 6 cells lack samples: template misspelt, item item 2 \(0 of 1\)"),
        (lines(samples=2)[1:], r"template plain, item item 1 \(1 of 2\).* sessions that failed"),
        (without("template_id"), r"10\.jsonl, line 1: no template_id; validate with \+paft=\.\.\."),
        (without("uid"), "line 1: no uid; "),
        (changed(2, template_id=""), "line 3: template_id is blank, as on prompts without a template; .*grid"),
        (changed(2, item_id=7), "line 3: item_id is 7, not text"),
        (changed(1, acc=None, template_id=None), "line 2: acc is null, so plain-2-0c4e_0_0 was not scored"),
        (changed(1, acc=1.9), r"line 2: acc is 1\.9; let the scorer return a number from 0 to 1"),
        (changed(1, acc=float("nan")), "line 2: acc is nan; "),
        (changed(1, parsed="yes"), "line 2: parsed is 'yes'; "),
        (changed(5, uid="0c4e"), r"line 6: uid '0c4e' is no .*trainer\.use_v1=true"),
        (changed(1, tier="frame"), "template plain has the tiers 'paraphrase', 'frame'"),
        ([*lines(), ""], "line 7: not a whole JSON object"),
        ([*lines()[:-1], '{"input": "a que'], "line 6: not a whole JSON object .*still writing"),
        (["[1]"], r"line 1: not a whole JSON object \(it is list\)"),
        (lines({"plain": (1, 1)}), "2 × 1; robustness needs two or more of each"),
        (lines({"plain": (1,), "terse": (0,)}), "1 × 2; robustness needs two or more of each"),
        ([], r"10\.jsonl is empty"),
    ],
)
def test_a_bad_dump_is_refused_with_place_and_mend(tmp_path, rows, message):
    write(tmp_path, rows)
    with pytest.raises(dumps.DumpError, match=message.replace("{run}", tmp_path.name)):
        read(tmp_path)


def test_a_byte_that_is_not_utf8_is_named_with_its_line(tmp_path):
    file = write(tmp_path, lines())
    file.write_bytes(file.read_bytes() + b'{"input": "\xff"}\n')
    with pytest.raises(dumps.DumpError, match="line 7: .*0xff"):
        read(tmp_path)


def test_a_folder_without_dumps_is_refused(tmp_path):
    with pytest.raises(dumps.DumpError, match=r"nowhere: no dump .*trainer\.validation_data_dir"):
        read(tmp_path / "nowhere")


def test_tokens_are_counted_with_the_models_tokenizer(tmp_path):
    words = Tokenizer(WordLevel({"so": 0, "it": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "model")
    assert dumps.token_counter(tmp_path / "model")(["so it is", "", "so"]) == [3, 0, 1]
    with pytest.raises(dumps.DumpError, match=r"empty: no tokenizer \("):
        dumps.token_counter(tmp_path / "empty")


def test_figures_are_those_of_the_grid_and_of_each_tier(tmp_path):
    write(tmp_path, lines())
    (run,) = made(tmp_path, bar=0.5).runs
    assert run.overall.mean.value == pytest.approx(0.5)
    assert run.overall.top == pytest.approx(2 / 3)
    assert list(run.tiers) == ["paraphrase", "adversarial"]
    assert run.tiers["paraphrase"].mean.value == 0.75
    assert run.tiers["adversarial"].std is None
    assert [template.id for template in run.templates] == ["plain", "terse", "misspelt"]


def test_templates_without_tiers_make_no_tier_and_some_without_make_their_own(tmp_path):
    write(tmp_path / "none", lines(tiers=dict.fromkeys(TIERS, "")))
    write(tmp_path / "some", lines(tiers={**TIERS, "terse": ""}))
    none, some = made(tmp_path / "none", tmp_path / "some").runs
    assert none.tiers == {}
    assert list(some.tiers) == ["paraphrase", "adversarial", "no tier"]
    assert [sheet.title for sheet in report.sheets(made(tmp_path / "none"))] == ["Runs"]


def test_a_runs_figures_do_not_depend_on_the_runs_beside_it(tmp_path):
    write(tmp_path / "first", lines())
    write(tmp_path / "second", lines({**RIGHT, "misspelt": (1, 0)}))
    beside = made(tmp_path / "first", tmp_path / "second")
    assert made(tmp_path / "second").runs[0] == beside.runs[1]
    assert beside.differences["second"].mean.value == pytest.approx(1 / 6)
    assert beside.not_compared == {}


def test_runs_on_other_grids_are_not_compared_and_the_reason_is_told(tmp_path):
    write(tmp_path / "first", lines())
    write(tmp_path / "second", lines({name: RIGHT[name] for name in ("plain", "terse")}))
    found = made(tmp_path / "first", tmp_path / "second")
    assert found.differences == {}
    assert found.not_compared == {"second": "missing templates (1): misspelt (adversarial)"}
    console = Console(record=True, width=120)
    report.print_report(found, console)
    assert "second is not compared with first: missing templates (1): misspelt" in console.export_text()
    page = report.write_report(found, read(tmp_path / "first", tmp_path / "second"), tmp_path / "out").read_text()
    assert "second is not compared with first: missing templates (1): misspelt" in page


def test_the_terminal_has_a_row_for_each_run_and_tier_and_the_differences(tmp_path):
    write(tmp_path / "first", lines())
    write(tmp_path / "[red]second", lines({**RIGHT, "misspelt": (1, 1)}))
    console = Console(record=True, width=80)
    report.print_report(made(tmp_path / "first", tmp_path / "[red]second", bar=0.5), console)
    text = console.export_text()
    assert "≥50%" in text and "Differences from first" in text
    assert re.search(r"first +50\.0 +50\.0 .* 66\.7 +100\.0 +0\.0 +8 ", text)
    assert re.search(r"adversar +0\.0 +– +– +0\.0", text)
    assert re.search(r"\[red\]second +\+33\.3 .*\n +\+0\.0 to \+100\.0", text)
    assert "…" not in text


def test_json_says_null_for_what_is_not_defined(tmp_path):
    write(tmp_path, [row | {"parsed": None} for row in lines()])
    (run,) = json.loads(made(tmp_path).json(), parse_constant=pytest.fail)["runs"]
    assert run["tiers"]["adversarial"]["std"] is None
    assert run["overall"]["unparsed"] is None
    assert run["overall"]["mean"].keys() == {"value", "low", "high"}


def test_the_page_stands_alone_and_names_every_run_and_template(tmp_path):
    odd = {"<b>plain</b>": (1, 1), "terse": (1, 0), "costs $x^$ {{ 7 * 7 }}": (0, 0)}
    rows = lines(odd, dict.fromkeys(odd, "frame"))
    folders = [tmp_path / "a & b", tmp_path / "$second_"]
    for folder in folders:
        write(folder, rows)
    found = made(*folders)
    page = report.write_report(found, read(*folders), tmp_path / "out").read_text(encoding="utf-8")
    for text in ("&lt;b&gt;plain&lt;/b&gt;", "costs $x^$ {{ 7 * 7 }}", "a &amp; b", "$second_", "Differences from"):
        assert text in page
    assert "<b>" not in page
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 5
    assert not re.search("https?://", page)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == json.loads(found.json())


def test_bars_are_grouped_by_tier_with_an_interval_each(tmp_path):
    write(tmp_path, lines())
    (run,) = made(tmp_path).runs
    figure = pictures.draw_templates(run)
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["plain", "terse", "misspelt"]
    assert [bar.get_width() for bar in panel.patches] == [1, 0.5, 0]
    assert panel.patches[0].get_facecolor() == panel.patches[1].get_facecolor() != panel.patches[2].get_facecolor()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["paraphrase", "adversarial"]
    ends = [segment[:, 0].tolist() for lines in panel.collections for segment in lines.get_segments()]
    assert ends == [[template.accuracy.low, template.accuracy.high] for template in run.templates]


def test_the_heat_map_has_the_hardest_item_on_top(tmp_path):
    write(tmp_path, lines({"plain": (1, 0), "terse": (1, 1), "misspelt": (0, 0)}))
    panel = pictures.draw_heat_map(read(tmp_path)[0]).axes[0]
    assert panel.images[0].get_array().tolist() == [[0, 1, 0], [1, 1, 0]]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["plain", "terse", "misspelt"]


def test_the_scatter_has_the_first_run_across_and_the_other_up(tmp_path):
    write(tmp_path / "first", lines())
    write(tmp_path / "second", lines({**RIGHT, "misspelt": (1, 0)}))
    panel = pictures.draw_scatter(*made(tmp_path / "first", tmp_path / "second").runs).axes[0]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("first", "second")
    assert [dots.get_offsets().tolist() for dots in panel.collections] == [[[1, 1], [0.5, 0.5]], [[0, 0.5]]]
