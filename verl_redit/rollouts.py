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

"""What the closed loop shows its plugins of one training batch: plain arrays, no verl."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch


@dataclass(frozen=True)
class Rollouts:
    """The sessions of one batch. A session is one rollout of a prompt; a group is all sessions of one prompt.

    Args:
        rewards: the scorer's reward of each session, float64 of shape (sessions,), without any noise.
        group: number of each session's group, int64 of shape (sessions,), from 0 and without gaps.
        columns: reads columns of verl's or of the data set by name; one value for each session.
        estimate: verl's own GRPO, from rewards (sessions,) to advantages (sessions,), as the run's settings have it, or
            only centred if a second argument is False.
    """

    rewards: np.ndarray
    group: np.ndarray
    columns: Callable[..., dict[str, list]]
    estimate: Callable[..., np.ndarray]

    @cached_property
    def group_size(self) -> np.ndarray:
        """Sessions of each group, int64 of shape (groups,)."""
        return np.bincount(self.group)

    @cached_property
    def group_mean(self) -> np.ndarray:
        """Mean reward of each group, float64 of shape (groups,)."""
        return np.bincount(self.group, weights=self.rewards) / self.group_size

    @cached_property
    def group_std(self) -> np.ndarray:
        """Unbiased standard deviation of each group's rewards, float64 of shape (groups,); 1 for a group of one, as in
        verl's GRPO."""
        squares = np.bincount(self.group, weights=(self.rewards - self.group_mean[self.group]) ** 2)
        return np.where(self.group_size > 1, np.sqrt(squares / np.maximum(self.group_size - 1, 1)), 1.0)

    @cached_property
    def tied(self) -> np.ndarray:
        """Which groups have two or more sessions and one reward, bool of shape (groups,)."""
        lowest = np.full(len(self.group_size), np.inf)
        highest = np.full(len(self.group_size), -np.inf)
        np.minimum.at(lowest, self.group, self.rewards)
        np.maximum.at(highest, self.group, self.rewards)
        return (self.group_size > 1) & (lowest == highest)

    @cached_property
    def mixed(self) -> np.ndarray:
        """Which groups have differing rewards, bool of shape (groups,). A group of one is neither tied nor mixed."""
        return (self.group_size > 1) & ~self.tied


@dataclass(frozen=True)
class Tokens:
    """The responses of one batch. A session has more than one if its agent loop returned several outputs.

    Args:
        advantages: what the estimator gave, float32 of shape (responses, tokens), 0 where ``mask`` is 0.
        mask: 1 for tokens that the policy generated, int64 of shape (responses, tokens).
        session: number of each response's session in `Rollouts`, int64 of shape (responses,).
        final: number of each session's last response, int64 of shape (sessions,).
        entropy: reads the policy's entropy at each token, in nats, float32 of shape (responses, tokens).
    """

    advantages: torch.Tensor
    mask: torch.Tensor
    session: torch.Tensor
    final: torch.Tensor
    entropy: Callable[[], torch.Tensor]


def on_last_token(scores: torch.Tensor, mask: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """Token-level scores with ``change`` added to the last token of each response that the policy generated.

    Args:
        scores: jagged nested float32 tensor of shape (responses, tokens); left as it is.
        mask: jagged nested int64 tensor of the same shape. A response without any 1 gets its change on its last token,
            an empty one gets none.
        change: float64 of shape (responses,).

    Returns:
        A jagged nested float32 tensor of the same shape.
    """
    values, offsets = scores.values().clone(), scores.offsets()  # type: ignore[attr-defined]
    written = mask.values()
    present = (offsets.diff() > 0).nonzero()[:, 0]
    last = offsets[1:] - 1
    for response in present[written[last[present]] == 0].tolist():
        begin, end = offsets[response], offsets[response + 1]
        generated = written[begin:end].nonzero()
        if len(generated):
            last[response] = begin + generated[-1, 0]
    values[last[present]] += change[present].to(values.dtype)
    return torch.nested.nested_tensor_from_jagged(values, offsets)
