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

"""The pools that come with the package."""

import re
from collections import Counter
from itertools import combinations
from string import ascii_uppercase

import pytest

from verl_redit.paft.checks import defects
from verl_redit.paft.messages import rendered
from verl_redit.paft.pool import SPLITS, TIERS, Template
from verl_redit.paft.pool_file import bundled, load

# least number of train and held-out templates, contract of the train ones, and the other contract
POOLS = {
    "gsm8k": (44, 24, "hash4", "boxed"),
    "math": (40, 20, "boxed", "answer_line"),
    "geometry3k": (40, 20, "think_boxed", "boxed"),
    "choice": (40, 20, "letter", "boxed"),
}
# what verl's preprocessing of each data set puts behind the question
VERLS = {
    "gsm8k": 'Let\'s think step by step and output the final answer after "####".',
    "math": r"Let's think step by step and output the final answer within \boxed{}.",
    "geometry3k": (
        "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. "
        "The reasoning process MUST BE enclosed within <think> </think> tags. "
        r"The final answer MUST BE put in \boxed{}."
    ),
}
CASES = [
    pytest.param(name, template, id=f"{name}-{template.id}") for name in POOLS for template in load(name).templates
]
of_each_pool = pytest.mark.parametrize("name", POOLS)
of_each_template = pytest.mark.parametrize("name, template", CASES)

TRAPS = (
    r"Is {x} }} in \boxed{}? {{ question }} {{ options }} {% if a %} {% endfor %} {# no #} {{ '{{' }} #### 7 <think> "
    "Answer: B é 中 \\n\n\n  A. end\n"
)
OPTIONS = ["{{ letter }} first", r"second \boxed{}", "third }} {% else %}", "fourth #### é"]


def shown(template: Template, question: str, options: list[str]) -> list[str]:
    """The texts of its turns for a row whose own prompt is the question."""
    row = [{"role": "user", "content": question}]
    return [turn["content"] for turn in rendered(row, template, {"question": question, "options": options})]


def test_there_are_four_pools():
    assert bundled() == sorted(POOLS)


@of_each_pool
def test_each_split_has_enough_templates(name):
    pool, (train, held_out, *_) = load(name), POOLS[name]
    assert len(pool.of_split("train")) >= train
    assert len(pool.of_split("held_out")) >= held_out


@of_each_pool
def test_every_held_out_tier_has_two_templates_and_every_train_tier_ten(name):
    tiers = {split: Counter(template.tier for template in load(name).of_split(split)) for split in SPLITS}
    assert tiers["held_out"].keys() == set(TIERS) and min(tiers["held_out"].values()) >= 2
    assert tiers["train"].keys() == {"paraphrase", "frame", "system"} and min(tiers["train"].values()) >= 10


@of_each_pool
def test_no_pool_has_defects(name):
    assert not list(map(str, defects(load(name))))


@of_each_pool
def test_no_two_templates_share_six_words_in_ten(name):
    texts = {template.id: "\n".join(shown(template, "", ["", ""])) for template in load(name).templates}
    words = {id: set(re.findall(r"\w+", text.casefold())) for id, text in texts.items()}
    shares = {
        (one, two): len(words[one] & words[two]) / len(words[one] | words[two]) for one, two in combinations(words, 2)
    }
    assert not {pair: share for pair, share in shares.items() if share >= 0.6}


@of_each_pool
def test_the_contract_differs_in_the_contract_tier_alone(name):
    *_, usual, other = POOLS[name]
    pool = load(name)
    assert {template.contract for template in pool.of_split("train")} == {usual}
    expected = {template.id: other if template.tier == "contract" else usual for template in pool.of_split("held_out")}
    assert {template.id: template.contract for template in pool.of_split("held_out")} == expected


@of_each_template
def test_an_id_tells_split_and_tier(name, template):
    if template.id == "stock":
        expected = ("train", "paraphrase")
    else:
        split, kind, number = template.id.split("-")
        assert re.fullmatch(r"\d\d", number)
        expected = ({"train": "train", "held": "held_out"}[split], {"plain": "paraphrase"}.get(kind, kind))
    assert (template.split, template.tier) == expected


@of_each_template
def test_a_system_turn_is_what_makes_the_system_tier(name, template):
    if template.tier != "contract":
        assert (template.system is not None) == (template.tier == "system")


@of_each_template
def test_origin_and_licence_are_told(name, template):
    assert (template.origin, template.license) == ("written for verl-redit", "Apache-2.0")


@pytest.mark.parametrize("name", VERLS)
def test_the_stock_prompt_is_verls(name):
    stock = load(name).templates[0]
    assert (stock.id, shown(stock, "1 + 1?", OPTIONS)) == ("stock", [f"1 + 1? {VERLS[name]}"])


@of_each_template
def test_a_question_full_of_traps_stands_in_the_user_turn_verbatim_and_once(name, template):
    question = TRAPS + "<image>" * (name == "geometry3k")
    *system, user = shown(template, question, OPTIONS)
    assert user.count(question) == 1
    assert not any("é" in text for text in system)


@of_each_template
def test_a_text_has_no_blank_ends_or_lines_that_end_in_blanks(name, template):
    for text in shown(template, "question", ["no", "yes"]):
        assert text == text.strip()
        assert not re.search(r"[ \t]$", text, re.MULTILINE)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("template", load("choice").templates, ids=lambda template: template.id)
def test_each_option_is_shown_once_and_in_order_with_its_letter(template, count):
    options = OPTIONS[:count]
    user = shown(template, "question", options)[-1]
    assert [user.count(option) for option in options] == [1] * count
    assert sorted(options, key=user.index) == options
    for letter, option in zip(ascii_uppercase, options, strict=False):
        [line] = [line.replace(option, "") for line in user.splitlines() if option in line]
        assert re.search(rf"\b{letter}\b", line)
    assert not re.search(rf"\b{ascii_uppercase[count]}\b", user)


@pytest.mark.parametrize("template", load("choice").templates, ids=lambda template: template.id)
def test_no_text_ends_in_the_word_that_the_reply_must_hold(template):
    assert not shown(template, "question", ["no", "yes"])[-1].casefold().endswith("answer:")


@pytest.mark.parametrize("template", load("geometry3k").templates, ids=lambda template: template.id)
def test_the_contract_with_thoughts_names_both_tags_and_the_other_none(template):
    text = "\n".join(template.texts)
    tags = template.contract == "think_boxed"
    assert (("<think>" in text), ("</think>" in text)) == (tags, tags)


def test_content_hashes_differ():
    assert len({load(name).content_hash for name in POOLS}) == len(POOLS)
