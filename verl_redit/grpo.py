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

"""verl's own GRPO, on rewards alone."""

import numpy as np
import torch
from verl.trainer.ppo.core_algos import compute_grpo_vectorized_outcome_advantage


def grpo_advantages(rewards: np.ndarray, group: np.ndarray, divide: bool = True) -> np.ndarray:
    """What verl's GRPO makes of rewards, as if every response had one token.

    Args:
        rewards: float of shape (sessions,).
        group: number of each session's group, int64 of shape (sessions,).
        divide: by the group's standard deviation (``algorithm.norm_adv_by_std_in_grpo``); else only centre.

    Returns:
        Advantages, float64 of shape (sessions,), computed in float32.
    """
    scores = torch.from_numpy(rewards).float()[:, None]
    advantages, _ = compute_grpo_vectorized_outcome_advantage(
        scores, torch.ones_like(scores), group, norm_adv_by_std_in_grpo=divide
    )
    return advantages[:, 0].double().numpy()
