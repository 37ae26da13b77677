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

"""A batch of verl's divided by prompt groups, so that each part runs through the engine as a batch of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.py_functional import append_to_dict
from verl.utils.seqlen_balancing import ceildiv

from verl_redit.flexora.parts import group_of, other_part

MASKS = ("loss_mask", "response_mask")


def groups_of(data: TensorDict) -> list[str]:
    """Group of each row: that of its prompt, or in supervised data of what comes before its first trained token.

    A row without any trained token, as verl adds to fill up a batch, is in no group: it is called ``""``.
    """
    masks = [mask.bool() for mask in data["loss_mask"].unbind()]
    if "prompts" in data:
        prompts = list(data["prompts"].unbind())
    else:
        rows = zip(data["input_ids"].unbind(), masks, strict=True)
        prompts = [ids[: int(mask.int().argmax())] for ids, mask in rows]
    return [group_of(prompt.tolist()) if mask.any() else "" for prompt, mask in zip(prompts, masks, strict=True)]


@dataclass(frozen=True)
class Parts:
    """A batch as a method's passes take it."""

    train: TensorDict
    other: TensorDict | None  # the other half, or what is held out
    groups: list[str]  # of the rows of all ranks
    loss: Callable


def parts_of(
    data: TensorDict,
    loss: Callable,
    passes: str,
    held_out: float,
    seed: int,
    everyone: Callable[[list], list[list]],
) -> Parts:
    """The parts of a batch for a method.

    Args:
        loss: the engine's.
        passes: of the method.
        held_out: share of the prompt groups, for methods that hold some out.
        everyone: gathers a list from each data-parallel rank.

    Raises:
        TooFewGroups: the batch is to be divided, and has one prompt group.
    """
    if passes == "whole":
        return Parts(data, None, list(chain(*everyone(groups_of(data)))), loss)
    if passes == "halves":
        tokens = chain(*everyone([int(mask.sum()) for mask in data["loss_mask"].unbind()]))
        loss = _normalised(loss, sum(tokens), tu.get_non_tensor_data(data, "global_batch_size", None))
    return Parts(*divided(data, 0.5 if passes == "halves" else held_out, seed, everyone), loss)


def divided(
    data: TensorDict, share: float, seed: int, everyone: Callable[[list[str]], list[list[str]]]
) -> tuple[TensorDict, TensorDict, list[str]]:
    """The batch without `parts.other_part`, that part, and the groups of all ranks.

    Every rank gets the same number of rows in a part: where it has fewer, short rows without any trained token fill
    up, because ranks must run the same micro-batches. These are no larger than the whole batch's.

    Args:
        everyone: gathers a list from each data-parallel rank.

    Raises:
        TooFewGroups: the batch has one prompt group.
    """
    own = groups_of(data)
    by_rank = everyone(own)
    groups = [group for of_rank in by_rank for group in of_rank if group]
    other = other_part(groups, share, seed)
    parts = []
    for in_other in (False, True):
        rows = [row for row, group in enumerate(own) if (group in other) == in_other]
        most = max(sum((group in other) == in_other for group in of_rank) for of_rank in by_rank)
        parts.append(_filled(data, rows, most))
        total = sum((group in other) == in_other for group in groups)
        if (size := tu.get_non_tensor_data(data, "global_batch_size", None)) is not None:
            tu.assign_non_tensor(parts[-1], global_batch_size=size * total / len(groups))
    return parts[0], parts[1], groups


def _filled(data: TensorDict, rows: Sequence[int], length: int) -> TensorDict:
    micro = None
    if not tu.get_non_tensor_data(data, "use_dynamic_bsz", True):
        # as many micro-batches as it takes, and as small ones as that allows
        micro_batches = ceildiv(length, tu.get_non_tensor_data(data, "micro_batch_size_per_gpu", 1))
        micro = ceildiv(length, micro_batches)
        length = micro_batches * micro
    sizes = [len(ids) for ids in data["input_ids"].unbind()]
    filled = tu.index_select_tensor_dict(data, [*rows, *[sizes.index(min(sizes))] * (length - len(rows))])
    if micro is not None:
        tu.assign_non_tensor(filled, micro_batch_size_per_gpu=micro)
    for mask in MASKS:
        if mask in filled:
            filled[mask] = _without_last(filled[mask], length - len(rows))
    return filled


def _without_last(mask: torch.Tensor, rows: int) -> torch.Tensor:
    """The mask, zero in its last ``rows`` rows."""
    if not mask.is_nested:
        return torch.cat([mask[: len(mask) - rows], torch.zeros_like(mask[len(mask) - rows :])])
    values, offsets = mask.values().clone(), mask.offsets()  # type: ignore[attr-defined]
    values[offsets[len(offsets) - 1 - rows] :] = 0
    return torch.nested.nested_tensor_from_jagged(values, offsets)


def _normalised(loss: Callable, batch_num_tokens: float, global_batch_size: float | None) -> Callable:
    """The loss function, divided by the numbers of the whole batch instead of its part's, so that parts add up."""

    def of_whole(model_output, data, dp_group=None):
        tu.assign_non_tensor(data, batch_num_tokens=batch_num_tokens)
        if global_batch_size is not None:
            tu.assign_non_tensor(data, global_batch_size=global_batch_size)
        return loss(model_output=model_output, data=data, dp_group=dp_group)

    return of_whole


def joined(outputs: list[dict]) -> dict:
    """What the engine returned of parts that train together, as of one batch."""
    metrics: dict = {}
    for output in outputs:
        append_to_dict(metrics, output["metrics"])
    return {"model_output": {}, "loss": [loss for output in outputs for loss in output["loss"]], "metrics": metrics}
