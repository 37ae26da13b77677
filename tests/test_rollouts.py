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

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verl_redit.rollouts import on_last_token


def jagged(rows, dtype):
    values = torch.tensor([value for row in rows for value in row], dtype=dtype)
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return torch.nested.nested_tensor_from_jagged(values, offsets)


def changed(scores, mask, change):
    nested = jagged(scores, torch.float32)
    before = nested.values().clone()
    result = on_last_token(nested, jagged(mask, torch.int64), torch.tensor(change, dtype=torch.float64))
    assert torch.equal(nested.values(), before)
    return [row.tolist() for row in result.unbind()]


def test_the_change_goes_to_the_last_token_that_the_policy_wrote():
    scores = [[0.0, 0.0, 1.0], [0.0, 2.0], [3.0]]
    mask = [[1, 1, 0], [1, 1], [1]]
    assert changed(scores, mask, [10, 20, 30]) == [[0, 10, 1], [0, 22], [33]]


def test_without_such_a_token_it_goes_to_the_last_one_and_an_empty_response_gets_none():
    assert changed([[0.0, 1.0], [], [2.0]], [[0, 0], [], [1]], [10, 20, 30]) == [[0, 11], [], [32]]


@given(
    st.lists(
        st.lists(st.tuples(st.floats(-1, 1, width=32), st.booleans()), min_size=1, max_size=5), min_size=1, max_size=5
    )
)
def test_every_responses_sum_changes_by_its_change(rows):
    scores = [[score for score, _ in row] for row in rows]
    mask = [[int(written) for _, written in row] for row in rows]
    change = list(range(1, len(rows) + 1))
    result = changed(scores, mask, change)
    for before, after, expected in zip(scores, result, change, strict=True):
        assert sum(after) - sum(before) == pytest.approx(expected, abs=1e-5)
        assert sum(x != y for x, y in zip(before, after, strict=True)) == 1
