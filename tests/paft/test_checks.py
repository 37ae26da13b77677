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

"""What is wrong with a pool."""

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.paft.conftest import entry
from verl_redit.paft import checks, pool, pool_file
from verl_redit.paft.checks import defects, lengths, load_checked, nearest_train
from verl_redit.paft.pool import PoolError

GOOD = entry("good", "{{ question }}\nEnd with #### and the number.")


def rules(*entries: dict, **shared) -> list[tuple[str, str]]:
    text = yaml.safe_dump({"contract": "hash4", **shared, "templates": list(entries)})
    return [(defect.id, defect.rule) for defect in defects(pool_file.parse(text, ".yaml", "x"))]


def test_a_good_pool_has_none(pool_file):
    assert not list(defects(load_checked(pool_file)))


@pytest.mark.parametrize(
    "user, rule",
    [
        (" \n", "blank"),
        ("#### no question", "field"),
        ("{{ question }} {{ question }} ####", "field"),
        ("{{ question }} {{ answer }} ####", "field"),
        (r"{{ question }} \n ####", "literal newline"),
        (r"{{ question }}\nAnswer after ####", "literal newline"),
        (r"{{ question }}\ni want ####", "literal newline"),
        ("{{ question }} {question} ####", "leftover"),
        ("{{ question }} {} ####", "leftover"),
        ("{{ question }} { ####", "leftover"),
        ("{{ question }} [describe the scene] ####", "leftover"),
        ("{{ question }} {# note #} ####", "leftover"),
        ("{{ question }} <image> ####", "media"),
        ("{{ question }} end with the number", "contract"),
        ("{{ question }} {{ ####", "syntax"),
        ("{{ question }} {% if question %} {% endif %} ####", "syntax"),
        ("{{ question.upper() }} ####", "syntax"),
        ("{{ question | upper }} ####", "syntax"),
        ("{{ question }} {{ 'a' * 9999999999 }} ####", "syntax"),
        ("{{ question }} {% include '/etc/passwd' %} ####", "syntax"),
        ("{{ question }} {% for a in range(99999999) %} {% endfor %} ####", "syntax"),
    ],
)
def test_each_defect_of_a_text_is_found(user, rule):
    found = rules(GOOD, entry("bad", user))
    assert ("bad", rule) in found
    assert {id for id, _ in found} == {"bad"}


@pytest.mark.parametrize(
    "user",
    [r"{{ question }} not \neq, \nleq, \nabla; ####", r"\text{so} \boxed{\frac{3}{4}} x^{2} {{ question }} ####"],
)
def test_latex_is_no_defect(user):
    assert not rules(entry("latex", user))


@pytest.mark.parametrize(
    "change, rule",
    [
        ({"split": "test"}, "split"),
        ({"contract": "hash"}, "contract"),
        ({"tier": "far"}, "tier"),
        ({"id": " "}, "id"),
        ({"system": ""}, "blank"),
    ],
)
def test_each_defect_of_a_value_is_found(change, rule):
    assert rule in [found for _, found in rules(GOOD, entry("bad", "Hm: {{ question }} ####") | change)]


def test_a_held_out_template_has_a_tier():
    assert rules(GOOD, entry("bad", "Hm: {{ question }} ####", "held_out")) == [("bad", "tier")]


def test_nothing_to_draw_is_a_defect():
    assert rules(GOOD | {"weight": 0.0}) == [("", "train")]
    assert rules(GOOD | {"split": "held_out", "tier": "frame"}) == [("", "train")]


@pytest.mark.parametrize("user", [GOOD["user"], "{{ question }}\nend with  ####, and the NUMBER"])
def test_a_template_that_is_there_already_is_found(user):
    assert rules(GOOD, entry("twin", user)) == [("twin", "duplicate")]


def test_a_held_out_template_near_a_train_one_is_found():
    near = entry("near", "{{ question }}\nEnd with #### and the bare number.", "held_out", tier="paraphrase")
    assert rules(GOOD, near) == [("near", "near duplicate")]
    assert not rules(GOOD, near | {"split": "train"})


def test_another_contract_makes_a_near_text_another_template():
    near = entry("near", r"{{ question }} End with #### and the number in \boxed{}.", "held_out", tier="contract")
    assert not rules(GOOD, near | {"contract": "boxed"})


@pytest.mark.parametrize(
    "loop",
    [
        "{% for letter, text in options %}{{ letter }}{% endfor %}",
        "{% for letter, text in options %}{{ letter }} {{ text }} {{ text }}{% endfor %}",
        "{% for letter, text in options %}{{ letter }} {{ text }}{% endfor %} {{ text }}",
        "{% for option in options %}{{ option }}{% endfor %}",
    ],
)
def test_a_loop_shows_letter_and_text_once(loop):
    found = rules(entry("bad", "{{ question }} ####" + loop), fields=["question", "options"])
    assert {rule for _, rule in found} & {"syntax", "field"}


def test_another_frame_is_no_duplicate():
    turned = entry("turned", "End with #### and the number. {{ question }}")
    system = entry("system", "{{ question }}", system="End with #### and the number.")
    assert not rules(GOOD, turned, system)


def test_options_are_looped_over_everywhere():
    loop = "{{ question }} {% for letter, text in options %}{{ letter }} {{ text }}{% endfor %} ####"
    shown = entry("shown", "So {{ question }} {{ options }} ####")
    assert rules(entry("loop", loop), shown, fields=["question", "options"]) == [("shown", "field")]


def test_a_pool_with_defects_is_refused_with_each_row(write_pool):
    file = write_pool(GOOD, entry("one", "{{ question }}"), entry("two", " "))
    with pytest.raises(PoolError) as error:
        load_checked(file)
    assert "(one): it does not tell the model to end with the answer after ####" in str(error.value)
    assert "(two): a blank text" in str(error.value) and "verl-redit pool check" in str(error.value)


def test_too_many_templates_are_refused(monkeypatch):
    monkeypatch.setattr(checks, "MOST_TEMPLATES", 1)
    assert rules(GOOD, entry("b", "So {{ question }} ####")) == [("", "size")]


def test_distance_counts_words_without_fields():
    text = yaml.safe_dump(
        {"contract": "own", "templates": [
            entry("a", "one two {{ question }} three"), entry("b", "four {{ question }}"),
            entry("h", "two three five {{ question }}", "held_out", tier="frame"),
        ]}
    )  # fmt: skip
    [(held_out, near, shared)] = nearest_train(pool_file.parse(text, ".yaml", "x"))
    assert (held_out.id, near.id, shared) == ("h", "a", 2 / 4)


def test_lengths_are_of_each_split(pool):
    train = sorted(len(template.user) for template in pool.of_split("train"))
    assert lengths(pool)["train"] == (train[0], train[2], train[-1])


SIGNS = [
    "{",
    "}",
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "{{ question",
    "question }}",
    "\\",
    "$",
    "\n",
    "\t",
    " ",
    "<image>",
    "####",
]
HOSTILE = st.lists(st.one_of(st.text(max_size=4), st.sampled_from(SIGNS)), max_size=6).map("".join)


@given(HOSTILE, HOSTILE, HOSTILE)
def test_a_template_with_arbitrary_text_shows_an_arbitrary_question_as_it_is_or_is_a_defect(before, after, question):
    text = yaml.safe_dump({"templates": [entry("t", f"{before}{{{{ question }}}}{after}", contract="own")]})
    read = pool_file.parse(text, ".yaml", "x")
    assume(not list(defects(read)))
    assert question in pool.render(read.templates[0], {"question": question})[0]["content"]
