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

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from verl_redit.redit.noise import Key, prompt_digest, uniform_variate, unit_noise

KEYS = [
    Key(0, "openai/gsm8k", index, step, session) for index in range(50) for step in range(10) for session in range(8)
]
any_key = st.builds(
    Key,
    seed=st.integers(),
    data_source=st.text(),
    row=st.one_of(st.integers(), st.text()),
    step=st.integers(min_value=0),
    session=st.integers(min_value=0),
)


@pytest.mark.parametrize(
    ("distribution", "reference"),
    [("gaussian", stats.norm()), ("uniform", stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)))],
)
def test_draws_have_the_named_distribution_with_mean_0_and_variance_1(distribution, reference):
    draws = [unit_noise(distribution, key) for key in KEYS]
    assert stats.kstest(draws, reference.cdf).pvalue > 0.01
    assert abs(np.mean(draws)) < 4 / math.sqrt(len(draws))
    assert np.std(draws) == pytest.approx(1, abs=0.04)


def test_neighbouring_keys_are_uncorrelated():
    draws = np.array([unit_noise("gaussian", key) for key in KEYS]).reshape(-1, 8)
    correlations = np.corrcoef(draws.T)[np.triu_indices(8, 1)]
    assert np.abs(correlations).max() < 4 / math.sqrt(len(draws))


def test_draws_are_pinned():
    """A change of the hash or its input would change every run that is resumed across versions."""
    key = Key(seed=0, data_source="openai/gsm8k", row=17, step=3, session=2)
    assert unit_noise("gaussian", key) == pytest.approx(-0.15529684213971015)
    assert unit_noise("uniform", key) == pytest.approx(-0.21375705800140946)


@given(any_key, any_key)
def test_different_keys_draw_differently_and_equal_keys_equally(one, other):
    assert (uniform_variate(one) == uniform_variate(other)) == (one == other)


@given(any_key)
def test_every_draw_is_finite(key):
    assert 0 < uniform_variate(key) < 1
    assert math.isfinite(unit_noise("gaussian", key))
    assert abs(unit_noise("uniform", key)) <= math.sqrt(3)


def test_global_generators_are_not_advanced():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    unit_noise("gaussian", KEYS[0])
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_prompt_digest_depends_on_content_only():
    one = prompt_digest([{"role": "user", "content": "How many?"}])
    assert one == prompt_digest([{"content": "How many?", "role": "user"}])
    assert one != prompt_digest([{"role": "user", "content": "How few?"}])


def test_prompt_digest_of_media_has_no_memory_address():
    assert prompt_digest([{"content": object()}]) == prompt_digest([{"content": object()}])
