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

"""Settings of the dithered reward manager."""

import math
from dataclasses import dataclass

from verl_redit.settings import nearest

DISTRIBUTIONS = ["gaussian", "uniform"]
UNLABELLED_ROWS = ["train", "validation"]


@dataclass(frozen=True)
class ReditConfig:
    """What the top-level config node ``redit`` holds.

    Args:
        distribution: ``gaussian`` or ``uniform``; both have the standard deviation ``std``.
        std: standard deviation of the noise in units of ``reward_range``, at least 0. At 0 the manager returns what
            the inner one returns, bit for bit.
        reward_range: largest minus smallest reward of the scorer, in reward units, above 0.
        seed: seed of the keyed draws.
        inner: name of the registered reward manager that scores.
        unlabelled_rows: whether rows whose ``extra_info`` has no ``split`` are ``train`` or ``validation``; None stops
            the run at such a row.

    Raises:
        ValueError: with the key first, for a value outside these.
    """

    distribution: str = "gaussian"
    std: float = 0.0289
    reward_range: float = 1.0
    seed: int = 0
    inner: str = "naive"
    unlabelled_rows: str | None = None

    def __post_init__(self):
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(f"distribution: {self.distribution!r}; {nearest(self.distribution, DISTRIBUTIONS)}")
        if not (math.isfinite(self.std) and self.std >= 0):
            raise ValueError(f"std: {self.std} is not a standard deviation; give a finite number, 0 or larger")
        if not (math.isfinite(self.reward_range) and self.reward_range > 0):
            raise ValueError(f"reward_range: {self.reward_range} is not a range; give a finite number above 0")
        if self.inner == "redit":
            raise ValueError("inner: 'redit' cannot wrap itself; name the manager that scores, for example 'naive'")
        if self.unlabelled_rows not in [None, *UNLABELLED_ROWS]:
            hint = nearest(str(self.unlabelled_rows), UNLABELLED_ROWS)
            raise ValueError(f"unlabelled_rows: {self.unlabelled_rows!r}; {hint}, or null")

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise in reward units."""
        return self.std * self.reward_range
