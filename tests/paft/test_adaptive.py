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

"""Weights that follow losses."""

import json
import logging
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.paft.test_selection import drawn, policy, templates
from verl_redit.paft.adaptive import weights_of
from verl_redit.paft.config import Adaptive
from verl_redit.paft.selection import Group

ALL = np.array([True, True, True])


def adaptive(count: int = 3, rows: int = 50, **settings):
    return policy("adaptive", templates(count), rows, adaptive=Adaptive(**settings))


def test_weights_are_exponentiated_losses():
    settings = Adaptive(rate=2.0, floor=0.0, cap=100)
    expected = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    assert weights_of(np.array([0.0, 0.5, 1.0]), ALL, settings) == pytest.approx(expected)


def test_the_floor_is_uniform():
    share = weights_of(np.array([0.0, 0.0, 1.0]), ALL, Adaptive(rate=100, floor=0.3, cap=100))
    assert share == pytest.approx([0.1, 0.1, 0.8])


def test_the_cap_gives_to_those_below_it_in_proportion():
    share = weights_of(np.array([0.0, math.log(2), 9.0]), ALL, Adaptive(rate=1, floor=0, cap=1.5))
    assert share == pytest.approx([0.5 / 3, 1 / 3, 0.5])


def test_losses_that_leave_nothing_to_the_others_are_capped_too():
    share = weights_of(np.array([0.0, -1.0, -1.0]), ALL, Adaptive(rate=800, floor=0, cap=1.5))
    assert share == pytest.approx([0.5, 0.25, 0.25])


@given(
    arrays(float, 6, elements=st.floats(-1, 1)), arrays(bool, 6).filter(np.any), st.floats(0.1, 50), st.floats(0, 1),
    st.floats(1, 10),
)  # fmt: skip
def test_weights_stay_in_their_bounds(losses, shown, rate, floor, cap):
    share = weights_of(losses, shown, Adaptive(rate=rate, floor=floor, cap=cap))
    count = shown.sum()
    assert share.sum() == pytest.approx(1)
    assert (share[~shown] == 0).all()
    assert (share[shown] >= floor / count - 1e-9).all()
    assert (share <= max(cap, 1) / count + 1e-6).all()
    order = np.argsort(losses[shown])
    assert (np.diff(share[shown][order]) >= -1e-9).all()


def test_a_template_that_fails_more_than_its_items_usually_do_is_drawn_more_often():
    chosen = adaptive(floor=0.0)
    for _ in range(30):
        # t0 is shown hard items, t1 easy ones, and t2 loses on both what neither of them loses
        chosen.observe(
            [Group("t0", "hard", 0.2, 1.0), Group("t1", "easy", 0.9, 1.0)]
            + [Group("t2", "hard", 0.0, 1.0), Group("t2", "easy", 0.7, 1.0)]
        )
    assert chosen.share[2] > max(chosen.share[:2])
    assert chosen.share[0] == pytest.approx(chosen.share[1], abs=0.02)


def test_weights_follow_within_the_first_epoch_when_no_item_has_come_twice():
    chosen = adaptive(count=5)
    for step in range(20):
        chosen.observe([Group(f"t{n}", f"i{step}-{n}", float(n > 0), 1.0) for n in range(5)])
    assert chosen.share[0] > 1.5 / 5 > 1 / 5 > chosen.share[1]


def test_draws_follow_the_weights():
    chosen = adaptive(count=3, rows=4000)
    chosen.share = np.array([0.5, 0.25, 0.25])
    shares = np.bincount([template for _, template in drawn(chosen, 0)]) / 4000
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.03)


def test_cvar_looks_at_the_worst_groups_alone():
    chosen = adaptive(loss="cvar", worst=0.5, floor=0.0)
    chosen.observe([Group("t2", item, 0.5, 1.0) for item in "abcd"])
    chosen.observe([Group("t0", item, accuracy, 1.0) for item, accuracy in zip("abcd", [0, 1, 0, 1], strict=True)])
    chosen.observe([Group("t1", item, 0.5, 1.0) for item in "abcd"])
    assert abs(chosen.losses[0] - chosen.losses[1]) < 0.05 and chosen.share[0] > 1.2 * chosen.share[1]


def test_signal_is_largest_where_rewards_differ_most():
    chosen = adaptive(loss="signal", floor=0.0)
    for accuracy, template in [(0.5, "t0"), (0.0, "t1"), (1.0, "t2")] * 2:
        chosen.observe([Group(template, "item", accuracy, 1.0)])
    assert chosen.share[0] > chosen.share[1] and chosen.share[0] > chosen.share[2]


def test_explore_favours_what_was_seen_seldom():
    chosen = adaptive(loss="signal", explore=1.0)
    chosen.observe([Group("t0", "item", 0.5, 1.0)] * 9 + [Group("t1", "item", 0.5, 1.0)])
    assert chosen.share[0] < chosen.share[1] < chosen.share[2]


def test_a_template_whose_replies_cannot_be_read_is_set_aside_and_told(caplog):
    chosen = adaptive(quarantine_after=2)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            chosen.observe([Group("t0", "a", 0.0, 0.0), Group("t1", "a", 0.5, 1.0), Group("t2", "a", 0.5, 1.0)])
    assert chosen.share[0] == 0
    assert "template t0 is not drawn any more: 0% of its replies can be read, 67% on average" in caplog.text
    assert chosen.metrics()["paft/quarantined"] == 1
    assert 0 not in {template for _, template in drawn(chosen, 0)}


def test_a_model_that_cannot_be_read_at_all_sets_nothing_aside():
    chosen = adaptive(quarantine_after=1)
    chosen.observe([Group(f"t{n}", "a", 0.0, 0.0) for n in range(3)])
    assert (chosen.share > 0).all()


@pytest.mark.parametrize("loss", ["failure", "cvar", "signal"])
def test_a_restored_policy_goes_on_alike(loss):
    whole, resumed = adaptive(loss=loss), adaptive(loss=loss)
    groups = [Group(f"t{n % 3}", f"i{n % 5}", (n % 7) / 7, (n % 4) / 4) for n in range(40)]
    whole.observe(groups[:20])
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for chosen in (whole, resumed):
        chosen.observe(groups[20:])
    assert (whole.share == resumed.share).all()
    assert drawn(whole, 1) == drawn(resumed, 1)
