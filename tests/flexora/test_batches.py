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

"""A batch divided by prompt groups, on ranks that hold unequal parts of it."""

from functools import partial

import pytest
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from verl_redit.flexora.batches import divided, groups_of, joined, parts_of

# prompt of each row, by rank; None is a row that verl added to fill up, without a trained token
RANKS = [[1, 1, 1, 2], [2, 3, 4, None]]


def rows(prompts: list[int | None], **non_tensor) -> TensorDict:
    nested = partial(torch.nested.as_nested_tensor, layout=torch.jagged)
    ids = [torch.tensor([5 + (prompt or 0)] * 3 + [9, 9]) for prompt in prompts]
    masks = [torch.tensor([0, 0, 0, 1, 1]) * (prompt is not None) for prompt in prompts]
    settings = {"global_batch_size": 8, "use_dynamic_bsz": True, **non_tensor}
    return tu.get_tensordict({"input_ids": nested(ids), "loss_mask": nested(masks)}, non_tensor_dict=settings)


def parts(share: float, **non_tensor):
    """Both parts on each rank, and the groups."""
    own = [groups_of(rows(prompts)) for prompts in RANKS]
    return [divided(rows(prompts, **non_tensor), share, 0, lambda _: own) for prompts in RANKS]


def trained(part: TensorDict) -> list[int]:
    """Prompts of the rows that have trained tokens."""
    pairs = zip(part["input_ids"].unbind(), part["loss_mask"].unbind(), strict=True)
    return [int(ids[0]) - 5 for ids, mask in pairs if mask.any()]


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_every_trained_row_is_in_one_part_and_ranks_have_equal_lengths(share):
    by_rank = parts(share)
    for rank, (first, second, groups) in enumerate(by_rank):
        assert sorted(trained(first) + trained(second)) == sorted(prompt for prompt in RANKS[rank] if prompt)
        assert len(groups) == 7 and len(set(groups)) == 4
    for part in (0, 1):
        assert len({len(of_rank[part]) for of_rank in by_rank}) == 1
    apart = [{prompt for of_rank in by_rank for prompt in trained(of_rank[part])} for part in (0, 1)]
    assert not apart[0] & apart[1] and len(apart[1]) == 4 * share


def test_global_batch_size_is_shared_out_by_rows():
    for first, second, _ in parts(0.5):
        sizes = [tu.get_non_tensor_data(part, "global_batch_size", None) for part in (first, second)]
        assert sum(sizes) == pytest.approx(8)
    counts = [sum(len(trained(of_rank[part])) for of_rank in parts(0.5)) for part in (0, 1)]
    assert sizes == pytest.approx([8 * count / 7 for count in counts])


@pytest.mark.parametrize("micro", [1, 2, 3, 4])
def test_static_micro_batches_are_as_few_as_the_parts_need_and_no_larger_than_before(micro):
    needed = [len(part) for part in parts(0.5)[0][:2]]
    for of_rank in parts(0.5, use_dynamic_bsz=False, micro_batch_size_per_gpu=micro):
        for part, rows_needed in zip(of_rank[:2], needed, strict=True):
            size = tu.get_non_tensor_data(part, "micro_batch_size_per_gpu", None)
            assert size <= micro and len(part) % size == 0
            assert len(part) // size == -(-rows_needed // micro) and len(part) < rows_needed + size


def test_the_shortest_row_fills_up():
    data = rows([1, 2, 3])
    data["input_ids"] = torch.nested.as_nested_tensor(
        [torch.tensor([5, 5, 9]), torch.tensor([6, 9]), torch.tensor([7, 7, 7, 9])], layout=torch.jagged
    )
    data["loss_mask"] = torch.nested.as_nested_tensor(
        [torch.tensor([0, 0, 1]), torch.tensor([0, 1]), torch.tensor([0, 0, 0, 1])], layout=torch.jagged
    )
    own = groups_of(data)
    # another rank has two rows of each group
    for part in divided(data, 0.4, 0, lambda _: [own, own + own])[:2]:
        rows_of = zip(part["input_ids"].unbind(), part["loss_mask"].unbind(), strict=True)
        untrained = [ids for ids, mask in rows_of if not mask.any()]
        assert untrained and all(ids.tolist() == [6, 9] for ids in untrained)


def test_rows_without_a_trained_token_are_no_group():
    assert groups_of(rows([1, None]))[1] == ""


@pytest.mark.parametrize("passes", ["whole", "halves", "held_out", "unrolled"])
def test_halves_alone_are_normalised_by_the_numbers_of_the_whole(passes):
    seen = []

    def loss(model_output, data, dp_group=None):
        seen.append([tu.get_non_tensor_data(data, key, None) for key in ("batch_num_tokens", "global_batch_size")])
        return torch.tensor(0.0), {}

    # two ranks with the same rows
    found = parts_of(rows(RANKS[1]), loss, passes, 0.25, 0, lambda own: [own, own])
    found.loss(model_output={}, data=rows([1, 2], batch_num_tokens=4, global_batch_size=3), dp_group=None)
    assert seen == [[12, 8] if passes == "halves" else [4, 3]]
    assert len(found.groups) == (8 if passes == "whole" else 6)


def test_held_out_is_the_share_asked_for():
    data = rows([1, 2, 3, 4])
    held_out = parts_of(data, print, "held_out", 0.25, 0, lambda own: [own])
    assert (len(trained(held_out.train)), len(trained(held_out.other))) == (3, 1)
    whole = parts_of(data, print, "whole", 0.25, 0, lambda own: [own])
    assert whole.train is data and whole.other is None


def test_what_parts_tell_is_joined():
    outputs = [{"loss": [1.0], "metrics": {"a": [1]}}, {"loss": [2.0, 3.0], "metrics": {"a": [2, 3]}}]
    assert joined(outputs) == {"model_output": {}, "loss": [1.0, 2.0, 3.0], "metrics": {"a": [1, 2, 3]}}
