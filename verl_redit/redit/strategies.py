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

"""Dithering and its rivals: what may be done about groups without spread, behind one small interface.

Everything here is pure: arrays in, arrays out. A strategy is asked three things, in this order: is a group kept, what
is added to its rewards, and what becomes of the advantages that verl's GRPO made of them.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

from verl_redit.redit.config import ReditConfig
from verl_redit.redit.noise import Key, Keys, unit_noise, unit_noises
from verl_redit.rollouts import Rollouts, Tokens

_EPSILON = 1e-6  # as in verl's GRPO


def reward_noise(settings: ReditConfig, key: Key) -> float:
    """The noise of one sample, in reward units: one draw for each reward component, each scaled by its range."""
    draws = (span * unit_noise(settings.distribution, key._replace(component=name)) for name, span in settings.ranges)
    return settings.std * settings.schedule.at(key.step) * sum(draws)


def reward_noises(settings: ReditConfig, keys: Keys) -> np.ndarray:
    """`reward_noise` of each key: float64 of shape (keys,)."""
    total = np.zeros(len(keys.row))
    for name, span in settings.ranges:
        total += span * unit_noises(settings.distribution, keys, name)
    steps, row = np.unique(keys.step, return_inverse=True)
    return settings.std * np.array([settings.schedule.at(int(step)) for step in steps])[row] * total


class Strategy:
    """Stock GRPO: every group is kept, nothing is added, advantages are left alone.

    Attributes:
        chooses_groups: whether `keeps_group` may say no.
        divides: whether `advantages` divides by a standard deviation of its own; verl's GRPO then only centres.
    """

    chooses_groups = False
    divides = False

    def __init__(self, settings: ReditConfig):
        self.settings = settings

    def keeps_group(self, accuracy: float) -> bool:
        """Whether a finished group with this mean of ``algorithm.filter_groups.metric`` is trained on."""
        return True

    def reward_change(self, rollouts: Rollouts, keys: Callable[[], Keys]) -> np.ndarray | None:
        """What is added to the rewards, float64 of shape (sessions,); None for nothing."""
        return None

    def advantages(
        self, rollouts: Rollouts, keys: Callable[[], Keys], change: np.ndarray | None, tokens: Tokens
    ) -> torch.Tensor:
        """Advantages to train on, float32 of shape (responses, tokens); ``change`` is what `reward_change` gave."""
        return tokens.advantages


class Dither(Strategy):
    """ReDit (arXiv 2506.18631, section 3): keyed zero-mean noise on the rewards, before the group is normalised.

    Beyond the paper: noise on some groups only (``apply_to``, ``gate``), and another divisor (``std_source``).
    ``clean`` divides by max(std of the group's raw rewards, ``std_floor``), so that a tied group's advantages have the
    size ``std / std_floor`` and the others keep theirs. ``batch`` divides by the standard deviation of all dithered
    rewards of the batch (TRL's ``scale_rewards="batch"``; "Tricks or Traps", arXiv 2508.08221).
    """

    def __init__(self, settings: ReditConfig):
        super().__init__(settings)
        self.divides = settings.std_source != "dithered"

    def reward_change(self, rollouts, keys):
        where = self._dithered_groups(rollouts)[rollouts.group]
        if self.settings.std == 0 or not where.any():
            return None
        return np.where(where, reward_noises(self.settings, keys()), 0.0)

    def _dithered_groups(self, rollouts: Rollouts) -> np.ndarray:
        pass_rate = float((rollouts.rewards > self.settings.right_above).mean())
        if not self.settings.gate.opens(float(rollouts.tied.mean()), pass_rate):
            return np.zeros(len(rollouts.group_size), dtype=bool)
        right = rollouts.group_mean > self.settings.right_above
        return {
            "all": np.ones(len(right), dtype=bool),
            "tied": rollouts.tied,
            "tied_right": rollouts.tied & right,
            "tied_wrong": rollouts.tied & ~right,
            "mixed": rollouts.mixed,
        }[self.settings.apply_to]

    def _divisor(self, rollouts: Rollouts, change: np.ndarray | None) -> np.ndarray:
        """What centred advantages are divided by, float64 of shape (sessions,)."""
        if self.settings.std_source == "clean":
            divisor = np.maximum(rollouts.group_std, self.settings.std_floor * self.settings.scale)
            return np.where(rollouts.group_size > 1, divisor, 1.0)[rollouts.group]
        rewards = rollouts.rewards if change is None else rollouts.rewards + change
        return np.full(len(rewards), rewards.std(ddof=1) + _EPSILON if len(rewards) > 1 else 1.0)

    def advantages(self, rollouts, keys, change, tokens):
        if not self.divides:
            return tokens.advantages
        return tokens.advantages / torch.from_numpy(self._divisor(rollouts, change)).float()[tokens.session, None]


class DirectedAdvantages(Strategy):
    """RL-ZVP (arXiv 2509.21880, equation 5): tied groups learn from being right or wrong, token by token.

    A token with entropy H of a group that is all right gets the advantage α·H, of one that is all wrong -α·(max H - H),
    the maximum being over its response; α is ``entropy_scale``. Other groups keep verl's GRPO advantages. We differ in
    that right means a reward above ``right_above``, so that rewards other than 0 and 1 can be used.
    """

    def advantages(self, rollouts, keys, change, tokens):
        entropy = tokens.entropy() * tokens.mask
        right = torch.from_numpy(rollouts.group_mean > self.settings.right_above)
        group = torch.from_numpy(rollouts.group)[tokens.session]
        directed = torch.where(right[group, None], entropy, entropy - entropy.amax(dim=1, keepdim=True))
        tied = torch.from_numpy(rollouts.tied)[group, None]
        return torch.where(tied, self.settings.entropy_scale * directed * tokens.mask, tokens.advantages)


class AccuracyBand(Strategy):
    """Trains on groups whose mean raw accuracy lies in ``accuracy_band``; verl replaces the others with fresh prompts.

    Online difficulty filtering (arXiv 2504.03380); the band (0, 1) is DAPO's dynamic sampling (arXiv 2503.14476), so a
    bound of 0 or 1 leaves out groups that lie on it, and any other bound keeps them.
    """

    chooses_groups = True

    def keeps_group(self, accuracy):
        low, high = self.settings.accuracy_band
        return low <= accuracy <= high and not (low == accuracy == 0 or high == accuracy == 1)


class AdvantageNoise(Dither):
    """A control for dithering: Gaussian noise on the advantages themselves, with the energy that dithering would add.

    One draw for each session, with the mean square of (advantages of the dithered rewards - advantages of the raw ones)
    over the batch, both with the divisor of ``std_source``. It reaches all groups alike, so it tells whether dithering
    is more than gradient noise.
    """

    def reward_change(self, rollouts, keys):
        return None

    def advantages(self, rollouts, keys, change, tokens):
        advantages = super().advantages(rollouts, keys, None, tokens)
        dithering = super().reward_change(rollouts, keys)
        if dithering is None:
            return advantages
        added = self._estimate(rollouts, dithering) - self._estimate(rollouts, None)
        draws = unit_noises("gaussian", keys(), "advantage")
        noise = torch.from_numpy(math.sqrt(np.mean(added**2)) * draws).float()
        return advantages + noise[tokens.session, None] * tokens.mask

    def _estimate(self, rollouts: Rollouts, change: np.ndarray | None) -> np.ndarray:
        """Advantages of the changed rewards, float64 of shape (sessions,)."""
        rewards = rollouts.rewards if change is None else rollouts.rewards + change
        advantages = rollouts.estimate(rewards, not self.divides)
        return advantages / self._divisor(rollouts, change) if self.divides else advantages


STRATEGIES: dict[str, type[Strategy]] = {
    "dither": Dither,
    "directed": DirectedAdvantages,
    "accuracy_band": AccuracyBand,
    "advantage_noise": AdvantageNoise,
}
