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

import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from verl_redit.redit.noise import Key, Keys, philox, prompt_digest, unit_noise, unit_noises, unit_noises_of_blocks

KEYS = [
    Key(0, "openai/gsm8k", index, step, session) for index in range(50) for step in range(10) for session in range(8)
]


def columns(keys):
    """The keys of a batch by column; all of one seed."""
    return Keys(keys[0].seed, *map(list, zip(*(key[1:5] for key in keys), strict=True)))


word = st.integers(0, 2**32 - 1)
any_key = st.builds(
    Key,
    seed=st.integers(),
    data_source=st.text(),
    row=st.one_of(st.integers(-(2**63), 2**63 - 1), st.text()),
    step=word,
    session=word,
    component=st.text(),
)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors_library(counter, key, expected):
    """philox4x32 with 10 rounds, from the table of known answers that comes with Random123."""
    a, b, c, d = counter
    bits = philox(key[0] | key[1] << 32, a | b << 32, c, d)
    assert (bits & 0xFFFFFFFF, bits >> 32) == expected


@pytest.mark.parametrize(
    ("distribution", "reference"),
    [("gaussian", stats.norm()), ("uniform", stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)))],
)
def test_draws_have_the_named_distribution_with_mean_0_and_variance_1(distribution, reference):
    draws = unit_noises(distribution, columns(KEYS))
    assert stats.kstest(draws, reference.cdf).pvalue > 0.01
    assert abs(np.mean(draws)) < 4 / math.sqrt(len(draws))
    assert np.std(draws) == pytest.approx(1, abs=0.04)


def test_both_distributions_move_the_reward_in_the_same_direction():
    gaussian, uniform = (unit_noises(distribution, columns(KEYS)) for distribution in ("gaussian", "uniform"))
    assert np.array_equal(np.sign(gaussian), np.sign(uniform))


@pytest.mark.parametrize("field", ["seed", "row", "step", "session", "component"])
def test_draws_of_neighbouring_keys_are_uncorrelated(field):
    neighbours = [
        key._replace(component="format") if field == "component" else key._replace(**{field: getattr(key, field) + 1})
        for key in KEYS
    ]
    there = unit_noises("gaussian", columns(neighbours), neighbours[0].component)
    correlation = np.corrcoef(unit_noises("gaussian", columns(KEYS)), there)[0, 1]
    assert abs(correlation) < 4 / math.sqrt(len(KEYS))


def test_no_two_of_a_million_rows_share_a_draw():
    """53 random bits: the chance of one shared pair among 10^6 is 1 - exp(-10^12 / 2^54) = 0.006 %."""
    million = 10**6
    row = np.arange(million, dtype=np.uint64)
    key = np.full(million, KEYS[0].block[0], dtype=np.uint64)
    zero = np.zeros(million, dtype=np.uint64)
    draws = unit_noises_of_blocks("uniform", key, row, zero, zero)
    assert len(np.unique(draws)) == million
    assert stats.kstest(draws, stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)).cdf).pvalue > 0.01


@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
def test_one_by_one_or_all_together_in_any_order_and_split_is_bit_for_bit_the_same(distribution):
    together = unit_noises(distribution, columns(KEYS))
    assert together.tolist() == [unit_noise(distribution, key) for key in KEYS]
    order = np.random.default_rng(0).permutation(len(KEYS))
    assert (
        unit_noises(distribution, columns([KEYS[position] for position in order])).tolist() == together[order].tolist()
    )
    parts = [unit_noises(distribution, columns(KEYS[start : start + 7])) for start in range(0, len(KEYS), 7)]
    assert np.concatenate(parts).tolist() == together.tolist()


def test_another_process_draws_the_same():
    code = (
        "from verl_redit.redit.noise import *;"
        "print([unit_noise('gaussian', Key(0, 'openai/gsm8k', row, 3, 2)).hex() for row in (17, -17, 'a')])"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = [unit_noise("gaussian", Key(0, "openai/gsm8k", row, 3, 2)).hex() for row in (17, -17, "a")]
    assert there.strip() == str(here)


def test_draws_are_pinned():
    """A change of the hash or its input would change every run that is resumed across versions."""
    key = Key(seed=0, data_source="openai/gsm8k", row=17, step=3, session=2)
    assert unit_noise("gaussian", key) == pytest.approx(-0.4424394240673859)
    assert unit_noise("uniform", key) == pytest.approx(-0.592064752385923)


@given(any_key, any_key)
def test_different_keys_draw_differently_and_equal_keys_equally(one, other):
    assert (unit_noise("uniform", one) == unit_noise("uniform", other)) == (one == other)


@given(any_key)
def test_every_draw_is_finite(key):
    assert math.isfinite(unit_noise("gaussian", key))
    assert abs(unit_noise("uniform", key)) <= math.sqrt(3)


def test_rows_with_and_without_numbers_may_be_in_one_batch():
    keys = [KEYS[0], KEYS[0]._replace(row="a"), KEYS[0]._replace(row=-1), KEYS[0]._replace(data_source="b")]
    assert unit_noises("uniform", columns(keys)).tolist() == [unit_noise("uniform", key) for key in keys]


def test_an_index_and_the_same_index_as_text_are_different_rows():
    key = KEYS[17]
    assert unit_noise("gaussian", key) != unit_noise("gaussian", key._replace(row=str(key.row)))


@pytest.mark.parametrize("field", ["step", "session"])
@pytest.mark.parametrize("value", [-1, 2**32])
def test_steps_and_sessions_that_would_wrap_around_are_refused(field, value):
    with pytest.raises(ValueError, match="must lie between 0 and"):
        unit_noise("gaussian", KEYS[0]._replace(**{field: value}))
    with pytest.raises(ValueError, match="must lie between 0 and"):
        unit_noises("gaussian", columns([*KEYS[:3], KEYS[0]._replace(**{field: value})]))


def test_no_keys_no_draws():
    assert unit_noises("gaussian", Keys(0, [], [], [], [])).shape == (0,)


def test_global_generators_are_not_advanced():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    unit_noise("gaussian", KEYS[0])
    unit_noises("gaussian", columns(KEYS))
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_prompt_digest_depends_on_content_only():
    one = prompt_digest([{"role": "user", "content": "How many?"}])
    assert one == prompt_digest([{"content": "How many?", "role": "user"}])
    assert one != prompt_digest([{"role": "user", "content": "How few?"}])


def test_prompt_digest_of_media_has_no_memory_address():
    assert prompt_digest([{"content": object()}]) == prompt_digest([{"content": object()}])
