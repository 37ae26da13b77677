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

"""Scoring by contract: every template of every bundled pool, right and wrong answers, and none."""

import pytest

from verl_redit.paft.contracts import CONTRACTS
from verl_redit.paft.pool_file import bundled, load
from verl_redit.paft.scoring import compute_score

# a gold answer and a wrong one, in the form that the data set of each pool has
ANSWERS = {
    "gsm8k": ("72", "71"),
    "math": (r"\frac{3}{4}", r"\frac{4}{3}"),
    "geometry3k": ("2.5", "3"),
    "choice": ("B", "C"),
}
CASES = [(name, template) for name in bundled() for template in load(name).templates]


def scored(contract: str, reply: str, answer: str) -> dict:
    labels = {"template_id": "t", "tier": "frame", "item_id": "x/1"}
    return compute_score("openai/gsm8k", reply, answer, {"contract": contract, **labels})


@pytest.mark.parametrize("name, template", CASES, ids=[f"{name}-{template.id}" for name, template in CASES])
def test_the_gold_answer_written_as_a_template_asks_scores_1_and_a_wrong_one_0(name, template):
    right, wrong = ANSWERS[name]
    contract = CONTRACTS[template.contract]
    gold = scored(
        contract.name, "Some thoughts first.\n" * (contract.name != "think_boxed") + contract.state(right), right
    )
    assert (gold["score"], gold["acc"], gold["parsed"]) == (1.0, 1.0, 1.0)
    other = scored(contract.name, contract.state(wrong), right)
    assert (other["acc"], other["parsed"]) == (0.0, 1.0)
    # verl's Geometry3K scorer pays a tenth for the form
    assert other["score"] == pytest.approx(0.1 if contract.name == "think_boxed" else 0.0)


@pytest.mark.parametrize("contract", sorted(CONTRACTS.keys() - {"own"}))
def test_a_reply_that_cannot_be_read_is_told_from_a_wrong_one(contract):
    got = scored(contract, "I think it is seventy-two", "B" if contract == "letter" else "72")
    assert (got["score"], got["acc"], got["parsed"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "reply, right",
    [
        ("Answer: B", True), ("answer : (b)", True), ("**Answer:** [B]", True), ("Answer: $B$", True),
        ("Answer: B. Paris", True),
        ("Answer: A\nNo. Answer: B", True), ("Answer: B\nAnswer: A", False), ("Answer: Both", False), ("B", False),
        (r"Answer: \boxed{B}", True), ("Answer: B", True), ("Answer: a dog, so B", False), ("Answer: I think B", False),
    ],
)  # fmt: skip
def test_the_last_letter_counts(reply, right):
    assert scored("letter", reply, "B")["acc"] == float(right)


def test_an_answer_without_the_form_around_it_is_read():
    got = scored("think_boxed", r"\boxed{2.5}", "2.5")
    assert (got["score"], got["acc"], got["parsed"]) == (0.9, 1.0, 1.0)


@pytest.mark.parametrize(
    "contract, answer", [("hash4", None), ("hash4", ["72"]), ("letter", 2), ("letter", "(B)"), ("letter", "the sky")]
)
def test_an_answer_that_nothing_can_be_compared_with_is_named(contract, answer):
    with pytest.raises(ValueError, match=r"ground_truth of row x/7 is .*; give"):
        compute_score("openai/gsm8k", "#### 72", answer, {"contract": contract, "item_id": "x/7"})


def test_labels_travel_with_the_score():
    assert {k: v for k, v in scored("hash4", "#### 1", "1").items() if isinstance(v, str)} == {
        "template_id": "t", "tier": "frame", "item_id": "x/1",
    }  # fmt: skip


@pytest.mark.parametrize("extra_info", [{}, {"contract": ""}, {"contract": "own"}])
def test_rows_with_their_own_prompt_are_scored_by_data_source(extra_info):
    got = compute_score("openai/gsm8k", "#### 72", "72", extra_info)
    assert (got["score"], got["acc"], got["parsed"], got["template_id"]) == (1.0, 1.0, None, "")
    with pytest.raises(NotImplementedError):
        compute_score("nobody/knows", "#### 72", "72", extra_info)


def test_an_unknown_contract_is_no_reward_of_0():
    with pytest.raises(ValueError, match="contract 'hash' of template t: did you mean 'hash4'"):
        scored("hash", "#### 1", "1")
