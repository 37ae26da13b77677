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

"""Spreadsheets as people keep them, with defects put in on purpose."""

import csv
import random
from collections import Counter
from itertools import product
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_redit.paft import checks, importing
from verl_redit.paft.contracts import CONTRACTS
from verl_redit.paft.importing import sift
from verl_redit.paft.pool import Pool, PoolError, Template, render
from verl_redit.paft.pool_file import load

EMPTY = Pool("new.yaml", ("question",), (), ())
RULE = "End with the answer after ####."
QUESTION = r"How many {braces} has \boxed{}, {{ x }} and {% raw %}?"


def write_csv(file: Path, texts: list[str], column: str = "text") -> Path:
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([[column], *([text] for text in texts)])
    return file


def write_xlsx(file: Path, texts: list[str]) -> Path:
    book = openpyxl.Workbook()
    for number, text in enumerate(["text", *texts], start=1):
        book.active.cell(number, 1, text or None)
    book.save(file)
    return file


def taken(texts: list[str], pool: Pool = EMPTY, append_contract: bool = False, **values):
    """The texts sifted into a pool, as rows 2, 3, and so on of a sheet."""
    values = {"split": "train", "contract": "hash4", **values}
    candidates = [
        (f"row {row}", Template(f"{values['split']}-{row}", text, **values)) for row, text in enumerate(texts, start=2)
    ]
    return sift(candidates, pool, append_contract)


def rules(found) -> list[tuple[str, str]]:
    return [(defect.row, defect.rule) for defect in found]


def clean_texts(count: int) -> list[str]:
    """Different good texts of three lines."""
    verbs = ["Solve", "Work out", "Reckon", "Settle", "Unravel", "Answer", "Figure out", "Crack"]
    nouns = ["riddle", "exercise", "puzzle", "sum", "case", "problem", "matter"]
    ways = ["slowly", "step by step", "on paper", "like a clerk", "with care", "in your head"]
    texts = [
        f"{verb} this {noun} {way}.\n{{question}}\nPut #### before the result."
        for verb, noun, way in product(verbs, nouns, ways)
    ]
    return random.Random(0).sample(texts, count)


# kind -> (rule it is found by, whether it is mended, how the text is spoilt)
SPOILT = {
    "literal line breaks": ("literal newline", True, lambda text: text.replace("\n", "\\n")),
    "blanks around it": ("blanks", True, lambda text: f"  {text}\n "),
    "unescaped LaTeX": ("braces", True, lambda text: text + r" No \boxed{} here."),
    "blank": ("blank", False, lambda text: ""),
    "only blanks": ("blank", False, lambda text: " \n\t"),
    "field twice": ("field", False, lambda text: text + " Again: {question}"),
    "field never": ("field", False, lambda text: text.replace("{question}", "the question")),
    "unknown field": ("field", False, lambda text: text.replace("{question}", "{qusetion}")),
    "note left over": ("leftover", False, lambda text: text + " [describe the tone]"),
    "brace alone": ("braces", False, lambda text: text + " }"),
    "jinja statement": ("jinja", False, lambda text: text + " {{% if x %}}"),
    "jinja comment": ("jinja", False, lambda text: text + " {{# later #}}"),
    "braces beside a field": ("jinja", False, lambda text: text.replace("{question}", "{{{question}}}")),
    "no contract": ("contract", False, lambda text: text.replace("####", "a line")),
    "control character": ("characters", False, lambda text: text + "\x7f"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_every_planted_defect_is_found_and_nothing_else(tmp_path, suffix):
    texts = clean_texts(300)
    places = random.Random(1).sample(range(150, 300), 5 * (len(SPOILT) + 2))
    mended, dropped = set(), set()
    for place, (rule, is_mended, spoil) in zip(places, list(SPOILT.values()) * 5, strict=False):
        texts[place] = spoil(texts[place])
        (mended if is_mended else dropped).add((f"row {place + 2}", rule))
    for original, place in enumerate(places[-10:]):
        texts[place] = texts[original] if place % 2 else texts[original].replace(" ", "  ").replace(".", "!")
        dropped.add((f"row {place + 2}", "duplicate"))
    file = {".csv": write_csv, ".xlsx": write_xlsx}[suffix](tmp_path / f"sheet{suffix}", texts)

    sifted = sift(importing.read_templates(file, "text", EMPTY, "train", "hash4", None), EMPTY)

    assert set(rules(sifted.mended)) == mended and len(sifted.mended) == 15
    assert set(rules(sifted.dropped)) == dropped and sifted.lost == 70
    assert len(sifted.pool.templates) == 230
    assert list(checks.defects(sifted.pool)) == []


FRAGMENTS = [
    "{question}",
    "{",
    "}",
    "{{",
    "}}",
    "{%",
    "{#",
    "\\n",
    "\r\n",
    "\n",
    " ",
    "####",
    "x",
    "\\boxed",
    "[describe it]",
    "\ud800",
]
CELLS = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join))
NEARLY_GOOD = st.tuples(CELLS, CELLS).map(lambda around: f"{around[0]}{{question}}{around[1]}####")


@settings(deadline=None)
@given(st.lists(st.one_of(CELLS, NEARLY_GOOD), max_size=6), st.booleans())
def test_any_cell_is_kept_mended_or_dropped_with_a_reason(tmp_path_factory, texts, append_contract):
    sifted = taken(texts, append_contract=append_contract)
    rows = Counter(sifted.pool.rows) + Counter({defect.row for defect in sifted.dropped})
    assert rows == Counter(f"row {row}" for row in range(2, len(texts) + 2))
    assert {defect.row for defect in sifted.mended} <= set(sifted.pool.rows)
    for template in sifted.pool.templates:
        assert QUESTION in render(template, {"question": QUESTION})[0]["content"]
    if sifted.pool.templates:
        file = tmp_path_factory.getbasetemp() / "any.yaml"
        importing.write(sifted.pool, file)
        assert load(str(file)).templates == sifted.pool.templates
        assert list(checks.defects(load(str(file)))) == []


@settings(deadline=None)
@given(NEARLY_GOOD)
def test_what_is_kept_without_a_mend_renders_as_str_format_does(text):
    sifted = taken([text])
    for template in sifted.pool.templates if not sifted.mended else ():
        assert render(template, {"question": QUESTION})[0]["content"] == text.format(question=QUESTION)


def test_escaped_braces_and_latex_are_text():
    texts = [r"{question} Put it in \boxed{{}}.", r"{question} \boxed{} has it.", r"{question} \boxed{{x}}, {{1, 2}}."]
    sifted = taken(texts, contract="boxed")
    shown = [render(template, {"question": "Q"})[0]["content"] for template in sifted.pool.templates]
    assert shown == [r"Q Put it in \boxed{}.", r"Q \boxed{} has it.", r"Q \boxed{x}, {1, 2}."]
    assert rules(sifted.mended) == [("row 3", "braces")]


def test_a_placeholder_in_latex_is_a_placeholder_as_str_format_has_it():
    sifted = taken([r"{question} \boxed{question}", r"\boxed{question}"], contract="boxed")
    assert rules(sifted.dropped) == [("row 2", "field")]
    assert render(sifted.pool.templates[0], {"question": "Q"})[0]["content"] == r"\boxedQ"


@pytest.mark.parametrize("name", [name for name in CONTRACTS if name != "own"])
def test_a_contract_that_is_not_told_is_appended_only_on_request(name):
    text = "Think.\n{question}"
    assert rules(taken([text], contract=name).dropped) == [("row 2", "contract")]
    sifted = taken([text], contract=name, append_contract=True)
    assert rules(sifted.mended) == [("row 2", "contract")]
    last_line = render(sifted.pool.templates[0], {"question": "Q"})[0]["content"].splitlines()[-1]
    assert last_line.casefold() == f"{CONTRACTS[name].rule}.".casefold()


def test_a_told_contract_is_not_told_again():
    assert taken([f"{{question}} {RULE}"], append_contract=True).pool.templates[0].user == f"{{{{ question }}}} {RULE}"


def test_all_that_is_wrong_with_a_row_is_told():
    sifted = taken(["{question}\\n{placeholder} [describe it]", "{question} { <image> ####"])
    assert set(rules(sifted.dropped)) == {
        ("row 2", "literal newline"), ("row 2", "field"), ("row 2", "leftover"), ("row 2", "contract"),
        ("row 3", "braces"), ("row 3", "media"),
    }  # fmt: skip


def test_a_duplicate_of_a_dropped_row_stays():
    sifted = taken(["{question} {question} ####", "{question} ####", "{question} #### "])
    assert sifted.pool.rows == ("row 3",)
    assert rules(sifted.dropped) == [("row 2", "field"), ("row 4", "duplicate")]


WORDS = "one two three four five six seven eight nine ten {question} ####"


@pytest.mark.parametrize(("first", "second"), [("train", "held_out"), ("held_out", "train")])
def test_what_nearly_repeats_the_other_split_of_the_pool_is_dropped(first, second):
    tiers = {"train": None, "held_out": "frame"}
    pool = taken([WORDS, f"quite different {WORDS[:8]} {{question}} ####"], split=first, tier=tiers[first]).pool
    nearly = [f"{WORDS} eleven", f"{WORDS} twelve", "another {question} ####"]
    sifted = taken(nearly, pool, split=second, tier=tiers[second])
    assert sorted(rules(sifted.dropped)) == [("row 2", "near duplicate"), ("row 3", "near duplicate")]
    assert list(checks.defects(sifted.pool)) == []
    assert sifted.pool.templates[:2] == pool.templates


def test_a_candidate_cannot_take_an_id_of_the_pool():
    pool = taken([WORDS]).pool
    assert rules(taken(["other words {question} ####"], pool).dropped) == [("row 2", "id")]


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
def test_cells_of_a_csv_file_are_read_as_they_are(tmp_path_factory, texts):
    file = write_csv(tmp_path_factory.getbasetemp() / "any.csv", texts)
    candidates = importing.read_templates(file, "text", EMPTY, "train", "hash4", None)
    assert [template.user for _, template in candidates] == texts


def test_ids_are_rows_and_begin_with_the_files_name_in_a_pool_that_is_there(tmp_path):
    file = write_csv(tmp_path / "sheet.csv", [WORDS, "", "line\nbreak {question} ####"])
    pool = sift(importing.read_templates(file, "text", EMPTY, "train", "hash4", None), EMPTY).pool
    assert [template.id for template in pool.templates] == ["row-0002", "row-0004"]
    assert {template.origin for template in pool.templates} == {"sheet.csv"}
    again = importing.read_templates(file, "text", pool, "held_out", "hash4", "frame")
    assert [template.id for _, template in again] == ["sheet-row-0002", "sheet-row-0003", "sheet-row-0004"]


def test_other_columns_a_byte_order_mark_and_blank_lines_are_no_obstacle(tmp_path):
    file = tmp_path / "sheet.csv"
    file.write_bytes("\ufeffnote,text\r\n1,Réponds: {question} ####\r\n\r\n2\r\n".encode())
    candidates = importing.read_templates(file, "text", EMPTY, "train", "hash4", None)
    assert [(row, template.user) for row, template in candidates] == [
        ("row 2", "Réponds: {question} ####"),
        ("row 3", ""),
        ("row 4", ""),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\ncafé {question}\n".encode("cp1252"), "byte 8 (0xE9) is not UTF-8; save it as CSV UTF-8"),
        (b"text\nfirst, {question}\n", "row 2 has 2 cells, the header 1"),
        (b'text\n"never closed {question}\n', "unexpected end of data"),
        (b"texts\nx\n", "0 columns are called 'text'; did you mean 'texts'?"),
        (b"text,text\nx,y\n", "2 columns are called 'text'"),
        (b"", "0 columns are called 'text'"),
    ],
)
def test_a_csv_file_that_cannot_be_read_is_told_with_the_mend(tmp_path, content, message):
    file = tmp_path / "sheet.csv"
    file.write_bytes(content)
    with pytest.raises(PoolError) as error:
        importing.read_templates(file, "text", EMPTY, "train", "hash4", None)
    assert str(file) in str(error.value) and message in str(error.value)


def test_a_workbook_has_one_sheet_with_rows(tmp_path):
    file = write_xlsx(tmp_path / "book.xlsx", [WORDS])
    book = openpyxl.load_workbook(file)
    book.create_sheet("empty")
    book.save(file)
    assert len(importing.read_templates(file, "text", EMPTY, "train", "hash4", None)) == 1
    book.create_sheet("more").append(["text"])
    book.save(file)
    with pytest.raises(PoolError, match=r"2 sheets with rows \(Sheet, more\)"):
        importing.read_templates(file, "text", EMPTY, "train", "hash4", None)


@pytest.mark.parametrize(("name", "message"), [("x.xlsx", "no workbook"), ("x.ods", "give a .csv or .xlsx file")])
def test_a_file_of_another_kind_is_refused(tmp_path, name, message):
    (tmp_path / name).write_text("text")
    with pytest.raises(PoolError, match=message):
        importing.read_templates(tmp_path / name, "text", EMPTY, "train", "hash4", None)


def test_a_pool_is_opened_for_the_same_fields_only(tmp_path):
    file = tmp_path / "pool.yaml"
    assert importing.open_pool(file, ["question"]).templates == ()
    importing.write(taken([WORDS]).pool, file)
    assert importing.open_pool(file, ["question"]).templates == taken([WORDS]).pool.templates
    for out, message in [
        (file, "has templates with the fields question, not goal"),
        (tmp_path / "pool.jsonl", "give a .yaml file"),
        (tmp_path / "none" / "pool.yaml", "there is no folder"),
    ]:
        with pytest.raises(PoolError, match=message):
            importing.open_pool(out, ["goal"])


def test_texts_of_several_lines_are_written_as_such(tmp_path):
    importing.write(taken(["One\ntwo: {question}\n####"]).pool, tmp_path / "pool.yaml")
    assert "  user: |-\n    One\n    two: {{ question }}\n    ####\n" in (tmp_path / "pool.yaml").read_text()
