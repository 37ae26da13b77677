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

"""Which template each draw gets."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_redit.paft import config
from verl_redit.paft.config import Adaptive, PaftConfig
from verl_redit.paft.pool import Template
from verl_redit.paft.sampler import POLICIES
from verl_redit.paft.selection import Draw, Group, find, keyed, limits_of


def templates(count: int, weights: list[float] | None = None, tiers: str = "a") -> list[Template]:
    return [
        Template(f"t{n}", "x", "train", "own", tier=tiers[n % len(tiers)], weight=weights[n] if weights else 1.0)
        for n in range(count)
    ]


def policy(name: str, pool: list[Template], rows: int, shuffle: bool = True, **settings):
    return POLICIES[name](pool, PaftConfig(policy=name, **settings), rows, shuffle)


def drawn(chosen, epoch: int) -> list[tuple[int, int]]:
    """(row, template) of each draw of an epoch."""
    return [
        (int(row), chosen.next(Draw(int(row), epoch, position, epoch * chosen.rows + position)))
        for position, row in enumerate(chosen.order(epoch))
    ]


def test_the_settings_know_the_policies_that_there_are():
    """The names stand twice, as the policies import the settings."""
    assert config.POLICIES == list(POLICIES)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_is_drawn_once_an_epoch(name, shuffle):
    chosen = policy(name, templates(5, tiers="ab"), 23, shuffle)
    for epoch in range(3):
        rows = [row for row, _ in drawn(chosen, epoch)]
        assert sorted(rows) == list(range(23))
        assert (rows == list(range(23))) is not shuffle
    assert shuffle is ([row for row, _ in drawn(chosen, 0)] != [row for row, _ in drawn(chosen, 1)])


@pytest.mark.parametrize("name", POLICIES)
def test_draws_follow_the_key_and_nothing_else(name):
    pool = templates(7, tiers="abc")
    first, again, other = (policy(name, pool, 50, seed=seed) for seed in (0, 0, 1))
    state = np.random.get_state()[1].copy()
    expected = [drawn(first, epoch) for epoch in (0, 1)]
    assert [drawn(again, epoch) for epoch in (1, 0)][::-1] == expected
    assert [drawn(other, epoch) for epoch in (0, 1)] != expected
    assert (np.random.get_state()[1] == state).all()


def test_fixed_shows_one_template():
    assert {t for _, t in drawn(policy("fixed", templates(4), 20), 0)} == {0}
    assert {t for _, t in drawn(policy("fixed", templates(4), 20, template="t2"), 0)} == {2}
    assert {t for _, t in drawn(policy("fixed", templates(3, [0, 1, 1]), 20), 0)} == {1}


def test_static_binds_rows_for_ever():
    chosen = policy("static", templates(5), 200)
    first, later = dict(drawn(chosen, 0)), dict(drawn(chosen, 7))
    assert first == later
    assert set(first.values()) == set(range(5))


def test_uniform_draws_anew_each_time():
    chosen = policy("uniform", templates(5), 2000)
    first, later = dict(drawn(chosen, 0)), dict(drawn(chosen, 1))
    same = np.mean([first[row] == later[row] for row in first])
    assert abs(same - 1 / 5) < 0.04
    assert all(abs(count / 2000 - 1 / 5) < 0.04 for count in Counter(first.values()).values())


@pytest.mark.parametrize("block", [1, 4, 7])
def test_a_block_of_draws_shares_its_template_across_epochs(block):
    chosen = policy("block", templates(5), 10, block=block)
    run = [template for epoch in range(30) for _, template in drawn(chosen, epoch)]
    blocks = [set(run[start : start + block]) for start in range(0, len(run), block)]
    assert all(len(shown) == 1 for shown in blocks)
    changes = np.mean([a != b for a, b in zip(blocks, blocks[1:], strict=False)])
    assert 0.6 < changes < 0.95  # 4 of 5 on average


@given(st.integers(1, 12), st.integers(1, 60), st.booleans(), st.integers(0, 5))
def test_a_cycle_shows_every_template_once_a_round(count, rows, shuffle, seed):
    chosen = policy("cycle", templates(count), rows, shuffle, seed=seed)
    for epoch in range(3):
        shown = [template for _, template in drawn(chosen, epoch)]
        for start in range(0, rows, count):
            part = shown[start : start + count]
            assert len(set(part)) == len(part)


@given(st.integers(2, 12), st.integers(1, 40), st.booleans())
def test_a_cycle_never_repeats_a_template_for_a_row_before_all_were_shown(count, rows, shuffle):
    chosen = policy("cycle", templates(count), rows, shuffle)
    epochs = [dict(drawn(chosen, epoch)) for epoch in range(count)]
    for row in range(rows):
        assert sorted(epoch[row] for epoch in epochs) == list(range(count))


def test_rows_of_a_cycle_are_shuffled_into_other_rounds_each_epoch():
    chosen = policy("cycle", templates(10), 100)
    rounds = [
        [{row for row, _ in drawn(chosen, epoch)[start : start + 10]} for start in range(0, 100, 10)]
        for epoch in range(2)
    ]
    shared = [len(one & other) for one in rounds[0] for other in rounds[1]]
    assert max(shared) < 6  # 10 of 100 rows fall together once on average


def test_a_stratified_round_shows_every_tier():
    pool = templates(6, tiers="aab")
    chosen = policy("stratified", pool, 400)
    tiers = [pool[template].tier for _, template in drawn(chosen, 0)]
    assert all(set(pair) == {"a", "b"} for pair in zip(tiers[::2], tiers[1::2], strict=True))
    assert {template for _, template in drawn(chosen, 0)} == set(range(6))


@pytest.mark.parametrize("name", ["static", "uniform", "block", "cycle", "stratified", "adaptive"])
def test_a_template_of_weight_0_is_never_shown(name):
    chosen = policy(name, templates(4, [1, 0, 1, 0], tiers="aabb"), 100)
    assert {template for epoch in range(3) for _, template in drawn(chosen, epoch)} == {0, 2}


@pytest.mark.parametrize("name", ["static", "uniform"])
def test_random_draws_follow_the_weights(name):
    shares = Counter(template for _, template in drawn(policy(name, templates(3, [1, 2, 1]), 4000), 0))
    assert abs(shares[1] / 4000 - 0.5) < 0.03


@given(st.lists(st.floats(0, 10), min_size=1).filter(any), st.floats(0, 1, exclude_max=True))
def test_a_share_holds_each_variate(weights, variate):
    number = find(limits_of(np.array(weights)), variate)
    assert weights[number] > 0
    assert variate < limits_of(np.array(weights))[number]


def test_keys_are_not_joined():
    assert keyed(1, "a", 11).random() != keyed(1, "a1", 1).random()


def test_metrics_are_of_the_groups_since_the_last_call():
    chosen = policy("cycle", templates(3), 10)
    assert chosen.metrics() == {}
    chosen.observe([Group("t0", "i", 1.0, 1.0), Group("t0", "j", 0.5, 0.5), Group("t1", "i", 0.25, 1.0)])
    assert chosen.metrics() == pytest.approx(
        {
            "paft/templates": 2, "paft/largest_share": 2 / 3, "paft/accuracy/mean": 0.5, "paft/accuracy/std": 0.25,
            "paft/accuracy/min": 0.25, "paft/parsed/mean": 0.875, "paft/parsed/min": 0.75,
        }
    )  # fmt: skip
    assert chosen.metrics() == {}


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(policy="cycles"), "policy: 'cycles'; did you mean 'cycle'"),
        (dict(validation="none"), "validation: 'none'"),
        (dict(block=0), "block: 0"),
        (dict(template="t"), "template: policy=cycle does not read it"),
        (dict(block=16), "block: policy=cycle does not read it"),
        (dict(adaptive=Adaptive(rate=9.0)), "adaptive: policy=cycle does not read it"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        PaftConfig(**settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(loss="fail"), "loss: 'fail'"),
        (dict(rate=0), "rate: 0"),
        (dict(worst=0.5), "worst: loss=failure does not use it"),
        (dict(memory=0), "memory: 0; give a number from 0 to 1, above 0"),
        (dict(floor=1.1), "floor: 1.1"),
        (dict(cap=0.5), "cap: 0.5; give a finite number of 1 or more"),
        (dict(explore=1), "explore: loss=failure does not use it"),
        (dict(loss="signal", explore=-1), "explore: -1"),
        (dict(quarantine_below=2), "quarantine_below: 2"),
        (dict(quarantine_after=0), "quarantine_after: 0"),
    ],
)
def test_wrong_adaptive_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Adaptive(**settings)
