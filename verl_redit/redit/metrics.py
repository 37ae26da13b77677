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

"""What dithering does to a batch, in numbers: the suite's training metrics ``redit/…``."""

import numpy as np
import torch

from verl_redit.redit.config import ReditConfig
from verl_redit.rollouts import Rollouts


def measure(
    settings: ReditConfig, rollouts: Rollouts, noise: np.ndarray | None, advantages: torch.Tensor, mask: torch.Tensor
) -> dict[str, float]:
    """The metrics of one update.

    Args:
        settings: the run's settings.
        rollouts: sessions with raw rewards.
        noise: what was added to the rewards, float64 of shape (sessions,), or None.
        advantages: what is trained on, float32 of shape (sessions, tokens); last response of each session.
        mask: its tokens, int64 of the same shape.

    Returns:
        Metrics by full name. A session's advantage is the mean over its tokens, its energy the mean of the square. The
        correlation and the share of flipped signs compare it with stock GRPO's in mixed groups, and are left out of a
        batch without any.
    """
    dithered = rollouts.rewards if noise is None else rollouts.rewards + noise
    right = rollouts.group_mean > settings.right_above
    tokens = mask.sum(dim=1).clamp_min(1)
    scalar = (advantages.sum(dim=1) / tokens).double().numpy()
    energy = (torch.linalg.vector_norm(advantages, dim=1) ** 2 / tokens).double().numpy()
    total = energy.sum()
    metrics = {
        "redit/raw_reward/mean": rollouts.rewards.mean(),
        "redit/raw_reward/std": rollouts.rewards.std(),
        "redit/dithered_reward/mean": dithered.mean(),
        "redit/dithered_reward/std": dithered.std(),
        "redit/effective_std": 0.0 if noise is None else np.sqrt(np.mean(noise**2)),
        "redit/tied_share": rollouts.tied.mean(),
        "redit/tied_right_share": (rollouts.tied & right).mean(),
        "redit/tied_wrong_share": (rollouts.tied & ~right).mean(),
        "redit/tied_energy_share": energy[rollouts.tied[rollouts.group]].sum() / total if total > 0 else 0.0,
    }
    mixed = rollouts.mixed[rollouts.group]
    if mixed.any():
        stock, ours = rollouts.estimate(rollouts.rewards)[mixed], scalar[mixed]
        spread = stock.std() * ours.std()
        covariance = np.mean((stock - stock.mean()) * (ours - ours.mean()))
        metrics["redit/mixed_correlation"] = covariance / spread if spread > 0 else 0.0
        metrics["redit/mixed_sign_flip_share"] = np.mean(np.sign(stock) * np.sign(ours) < 0)
    return {name: float(value) for name, value in metrics.items()}
