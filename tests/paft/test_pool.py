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

"""The pool's file format and rendering."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.paft.conftest import entry
from verl_redit.paft import pool_file
from verl_redit.paft.pool import PoolError, RenderError, Template, render
from verl_redit.paft.pool_file import LARGEST_FILE, load

TRAPS = r"Is {x} in \boxed{}? {{ question }} {% if a %} {# no #} }} #### <image> ${y} é 中 " + "\n\n end"


def plain(user: str, **values) -> Template:
    return Template("t", user, "train", "own", **values)


def test_a_question_is_text_whatever_it_holds():
    assert render(plain("A {{ question }} B"), {"question": TRAPS}) == [{"role": "user", "content": f"A {TRAPS} B"}]


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="{}#")))
def test_any_question_stands_in_any_text_verbatim(question, text):
    # jinja reads a template's own line ends alike
    around = "\n".join(text.splitlines())
    content = render(plain(around + "{{ question }}" + around), {"question": question})[0]["content"]
    assert content == around + question + around


def test_a_system_text_becomes_a_turn_of_its_own():
    turns = render(plain("{{ question }}", system="Be brief."), {"question": "1 + 1?"})
    assert turns == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]


@pytest.mark.parametrize("options", [["yes", "no"], ["a", "b", "c", "d"]])
def test_options_get_letters(options):
    template = plain("{{ question }}\n{% for letter, text in options %}\n{{ letter }}) {{ text }}\n{% endfor %}Go")
    expected = "Q\n" + "".join(f"{letter}) {text}\n" for letter, text in zip("ABCD", options, strict=False)) + "Go"
    assert render(template, {"question": "Q", "options": options})[0]["content"] == expected


def test_numbers_are_shown():
    assert render(plain("{{ question }}"), {"question": 2.5})[0]["content"] == "2.5"


@pytest.mark.parametrize("value", [None, True, {"a": 1}, [], [1, 2], b"x"])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(RenderError, match="field 'question' is"):
        render(plain("{{ question }}"), {"question": value})


def test_more_options_than_letters_are_refused():
    with pytest.raises(RenderError, match="27 options"):
        render(plain("{{ options }}"), {"options": ["x"] * 27})


def test_a_missing_field_is_named():
    with pytest.raises(RenderError, match="template t: 'question' is undefined; the row has problem"):
        render(plain("{{ question }}"), {"problem": "x"})


@pytest.mark.parametrize(
    "attack",
    [
        "{{ question.__class__.__mro__ }}",
        "{{ question.__init__.__globals__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os }}",
    ],
)
def test_a_template_cannot_reach_out_of_the_sandbox(attack):
    with pytest.raises(RenderError):
        render(plain(attack), {"question": "x"})


def test_yaml_shares_values_and_knows_lines(write_pool):
    file = write_pool(entry("a", "{{ question }} ####"), entry("b", "B {{ question }}", contract="boxed"), origin="me")
    read = load(file)
    assert [template.contract for template in read.templates] == ["hash4", "boxed"]
    assert {template.origin for template in read.templates} == {"me"}
    text = open(file).read().split("\n")
    for template, row in zip(read.templates, read.rows, strict=True):
        line = int(row.removeprefix("line "))
        assert f"id: {template.id}" in text[line - 1]


def test_json_lines_hold_the_same_pool_as_yaml(write_pool, tmp_path):
    templates = [entry("a", "{{ question }} ####"), entry("b", "B {{ question }}", "held_out", tier="frame")]
    lines = tmp_path / "pool.jsonl"
    lines.write_text("\n".join(map(json.dumps, [{"contract": "hash4"}, *templates])) + "\n\n")
    assert load(str(lines)).content_hash == load(write_pool(*templates)).content_hash


def test_a_first_line_that_lost_its_text_is_no_shared_values(tmp_path):
    file = tmp_path / "pool.jsonl"
    file.write_text('{"id": "a", "split": "train"}\n{"id": "b", "user": "x", "split": "train", "contract": "own"}')
    with pytest.raises(PoolError, match="id beside the templates, but each has its own"):
        load(str(file))


def test_the_hash_follows_every_value(write_pool):
    first = load(write_pool(entry("a", "{{ question }} ####"), name="1.yaml"))
    again = load(write_pool(entry("a", "{{ question }} ####"), name="2.yaml"))
    other = load(write_pool(entry("a", "{{ question }}  ####"), name="3.yaml"))
    heavier = load(write_pool(entry("a", "{{ question }} ####", weight=2), name="4.yaml"))
    assert first.content_hash == again.content_hash
    assert len({first.content_hash, other.content_hash, heavier.content_hash}) == 3


@pytest.mark.parametrize(
    "change, message",
    [
        ({"usr": "x"}, "line 3: usr: unknown key; did you mean 'user'?"),
        ({"user": 3}, "user: 3 is not text"),
        ({"tags": "a"}, "give a list of words"),
        ({"weight": -1}, "weight: -1; give a finite number, 0 or larger"),
        ({"weight": float("nan")}, "weight: nan"),
        ({"weight": "heavy"}, "weight: 'heavy'"),
        ({"system": ["x"]}, "system: ['x'] is not text"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(write_pool, change, message):
    file = write_pool(entry("a", "{{ question }} ####") | change)
    with pytest.raises(PoolError) as error:
        load(file)
    assert message in str(error.value) and file in str(error.value)


def test_every_wrong_template_is_told_at_once(write_pool):
    with pytest.raises(PoolError) as error:
        load(write_pool({"id": "a"}, entry("b", "x", colour="red"), entry("c", "y"), entry("c", "z")))
    lines = str(error.value).split("\n")
    assert len(lines) == 3
    assert "no user, split" in lines[0] and "colour" in lines[1] and "id 'c' is used in line" in lines[2]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no list of templates"),
        ("templates: []", "it holds no template"),
        ("templates: [x]", "line 1: 'x' is no template"),
        ("templates: [", "not YAML"),
        ("- a", "no list of templates"),
        ("fields: question\ntemplates: [{id: a, user: x, split: train, contract: own}]", "fields: 'question'"),
        ("templates: [{id: !!python/object/apply:os.system [ls], user: x}]", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("templates: []\ntemplates: [{id: a}]", "line 2: 'templates' stands there twice"),
        ("templates:\n- id: a\n  user: x\n  user: y", "line 4: 'user' stands there twice"),
        ("id: a\ntemplates: [{user: x, split: train, contract: own}]", "id beside the templates"),
        ("a: &a [x]\nb: [*a, *a]\ntemplates: *a", "a YAML alias"),
        (f"templates: [{{id: a, user: x, split: train, contract: own, weight: {'9' * 400}}}]", "weight: 9"),
        ('templates: [{id: a, user: "\\ud800", split: train, contract: own}]', "(not YAML|surrogate)"),
    ],
)
def test_text_of_another_form_is_refused(tmp_path, text, message):
    file = tmp_path / "pool.yaml"
    file.write_text(text)
    with pytest.raises(PoolError, match=f"pool.yaml: .*{message}"):
        load(str(file))


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100000, '{"id": "b", "id": "c"}'])
def test_lines_that_are_no_objects_are_refused(tmp_path, text):
    file = tmp_path / "pool.jsonl"
    file.write_text(json.dumps(entry("a", "x", contract="own")) + "\n" + text)
    with pytest.raises(PoolError, match="line 2"):
        load(str(file))


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    file = tmp_path / "pool.yaml"
    file.write_bytes("templates: [{id: caf\xe9}]".encode("latin-1"))
    with pytest.raises(PoolError, match="byte 20 is not UTF-8; save the file as UTF-8"):
        load(str(file))


def test_a_file_of_100_megabytes_is_refused_unread(tmp_path):
    file = tmp_path / "pool.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(100 * 2**20)
    with pytest.raises(PoolError, match="has 100 MB; a pool holds templates and has at most 16 MB"):
        load(str(file))
    assert LARGEST_FILE == 16 * 2**20


def test_an_unknown_pool_is_told_with_the_nearest_bundled_one():
    with pytest.raises(PoolError, match="did you mean 'gsm8k'"):
        load("gsm8")


def test_another_suffix_is_refused(tmp_path):
    file = tmp_path / "pool.csv"
    file.write_text("text")
    with pytest.raises(PoolError, match="verl-redit pool import"):
        load(str(file))


@given(st.text())
def test_arbitrary_text_is_read_or_refused(text):
    for suffix in (".yaml", ".jsonl"):
        try:
            read = pool_file.parse(text, suffix, "x")
        except PoolError:
            continue
        assert read.templates


@given(st.lists(st.fixed_dictionaries({"id": st.text(), "user": st.text(), "split": st.text(), "contract": st.text()})))
def test_what_is_written_is_what_is_read(entries):
    text = yaml.safe_dump({"templates": entries})
    try:
        read = pool_file.parse(text, ".yaml", "x")
    except PoolError:
        assert not entries or len({entry["id"] for entry in entries}) < len(entries)
    else:
        assert [{key: getattr(template, key) for key in entries[0]} for template in read.templates] == entries
