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

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_redit.redit.schedule import SHAPES, Schedule, cosine, factor, linear, multi_factor, square_root

# the published start of the half-width (m0 = 0.1) times our factor, worked out by hand
PUBLISHED = [
    (square_root, 300, 0.1 / math.sqrt(2)),
    (square_root, 1000, 0.1 / math.sqrt(13 / 3)),
    (square_root, 9000, 0.1 / math.sqrt(31)),
    (factor, 1, 0.099),
    (factor, 100, 0.03660323412732292),
    (factor, 458, math.exp(math.log(0.1) + 458 * math.log(0.99))),
    (factor, 459, 1e-3),
    (factor, 9000, 1e-3),
    (multi_factor, 1999, 0.1),
    (multi_factor, 2000, 0.05),
    (multi_factor, 4000, 0.025),
    (multi_factor, 8000, 0.00625),
]


@pytest.mark.parametrize(("shape", "step", "half_width"), PUBLISHED)
def test_published_constants_give_the_published_noise(shape, step, half_width):
    assert 0.1 * shape(step) == pytest.approx(half_width, rel=1e-6)
    assert 0.1 * Schedule(shape.__name__).at(step) == pytest.approx(half_width, rel=1e-6)


@pytest.mark.parametrize(
    ("step", "half_width"),
    [(0, 0.0), (500, 0.05), (1000, 0.1), (4500, 0.0505), (8000, 1e-3), (20000, 1e-3)],
)
def test_published_cosine_warms_up_for_1000_steps_and_ends_at_8000(step, half_width):
    assert 0.1 * Schedule("cosine").at(step) == pytest.approx(half_width)


@pytest.mark.parametrize(
    ("shape", "step", "half_width"),
    [
        ("cosine", 0, 1e-3),
        ("cosine", 4000, 0.0505),
        ("cosine", 8000, 0.1),
        ("square_root", 7700, 0.1 / math.sqrt(2)),
        ("factor", 7999, 0.099),
        ("multi_factor", 0, 0.00625),
        ("multi_factor", 6001, 0.1),
        ("linear", 2000, 0.025),
    ],
)
def test_reversed_shapes_run_from_the_last_step_backwards_without_warm_up(shape, step, half_width):
    assert 0.1 * Schedule(shape, reverse=True).at(step) == pytest.approx(half_width)
    assert Schedule(shape, reverse=True).at(10**6) == pytest.approx(Schedule(shape, warmup_steps=0).at(0))


def test_cosine_and_linear_by_hand():
    assert [cosine(step, total_steps=4, floor=0.2) for step in (0, 2, 4, 9)] == pytest.approx([1, 0.6, 0.2, 0.2])
    assert [linear(step, total_steps=4) for step in (0, 1, 4, 9)] == [1, 0.75, 0, 0]


def test_warm_up_leaves_the_other_steps_to_the_shape():
    schedule = Schedule("linear", warmup_steps=10, total_steps=30)
    assert [schedule.at(step) for step in (0, 5, 10, 20, 30, 31)] == [0, 0.5, 1, 0.5, 0, 0]


def test_warm_up_ends_where_the_shape_begins():
    schedule = Schedule("cosine", reverse=True, warmup_steps=100, total_steps=1000)
    assert schedule.at(99) == pytest.approx(0.0099)
    assert schedule.at(100) == pytest.approx(0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_added_after_stop_step(shape):
    schedule = Schedule(shape, warmup_steps=0, stop_step=7)
    assert schedule.at(7) > 0
    assert schedule.at(8) == 0


@given(
    st.builds(
        Schedule,
        shape=st.sampled_from([shape for shape in SHAPES if shape != "constant"]),
        reverse=st.just(True),
        warmup_steps=st.none() | st.integers(0, 1500),
        total_steps=st.integers(1501, 9000),
        stop_step=st.none() | st.integers(1, 9000),
    )
    | st.builds(
        Schedule,
        shape=st.sampled_from(["cosine", "linear"]),
        warmup_steps=st.none() | st.integers(0, 1500),
        total_steps=st.integers(1501, 9000),
        stop_step=st.none() | st.integers(1, 9000),
    )
    | st.builds(
        Schedule,
        shape=st.sampled_from(list(SHAPES)),
        warmup_steps=st.none() | st.integers(0, 1500),
        stop_step=st.none() | st.integers(1, 9000),
    ),
    st.integers(0, 20000),
)
def test_every_factor_lies_between_0_and_1(schedule, step):
    assert 0 <= schedule.at(step) <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": "cosin"}, "shape: 'cosin'; did you mean 'cosine'?"),
        ({"time_scale": 0}, "time_scale: 0; give a number of steps above 0"),
        ({"decay": 1.1}, "decay: 1.1; give a number from 0 to 1"),
        ({"floor": -0.1}, "floor: -0.1; give a number from 0 to 1"),
        ({"drop": 2}, "drop: 2; give a number from 0 to 1"),
        ({"stop_step": 0}, "stop_step: 0 leaves no step with noise; give 1 or more"),
        ({"total_steps": 100}, "total_steps: shape=constant does not read it"),
        ({"shape": "cosine", "milestones": [1, 2]}, "milestones: shape=cosine does not read it"),
        ({"shape": "factor", "total_steps": 100}, "total_steps: shape=factor does not read it"),
        ({"reverse": True}, "reverse: shape=constant does not read it"),
        ({"warmup_steps": -1}, "warmup_steps: -1; give 0 or more"),
        ({"shape": "cosine", "total_steps": 500}, "total_steps: 500 leaves no step after the warm-up of 1000"),
        ({"shape": "linear", "total_steps": 0}, "total_steps: 0 leaves no step"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError) as error:
        Schedule(**settings)
    assert str(error.value).startswith(message)
