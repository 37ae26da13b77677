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

"""Settings of ReDit: the top-level config node ``redit``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from verl_redit.redit.schedule import Schedule
from verl_redit.settings import check_name, nearest

DISTRIBUTIONS = ["gaussian", "uniform"]
UNLABELLED_ROWS = ["train", "validation"]
GROUPS = ["all", "tied", "tied_right", "tied_wrong", "mixed"]
STD_SOURCES = ["dithered", "clean", "batch"]

# settings that need whole groups
CLOSED_LOOP_SETTINGS = [
    "strategy", "apply_to", "std_source", "std_floor", "right_above", "gate", "accuracy_band", "entropy_scale",
]  # fmt: skip

NOISE_SETTINGS = ["distribution", "std", "components", "schedule"]
_DITHERING = [*NOISE_SETTINGS, "apply_to", "std_source", "std_floor", "gate"]

# of both, what each strategy reads; right_above is for the metrics of all
STRATEGY_SETTINGS = {
    "dither": _DITHERING,
    "directed": ["entropy_scale"],
    "accuracy_band": ["accuracy_band"],
    "advantage_noise": _DITHERING,
}


def _check_range(key: str, bounds: Sequence[float]) -> None:
    if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
        raise ValueError(f"{key}: {list(bounds)}; give [lowest, highest], both from 0 to 1")


def _check_above_0(key: str, number: float) -> None:
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{key}: {number}; give a finite number above 0")


@dataclass(frozen=True)
class Gate:
    """The config node ``redit.gate``: an update is dithered only if both shares lie in their range, bounds included.

    Args:
        tied_share: [lowest, highest] share of the groups of the update's batch that are tied.
        pass_rate: [lowest, highest] share of its responses whose raw reward is above ``redit.right_above``.

    Raises:
        ValueError: with the key first, for anything but two shares in ascending order.
    """

    tied_share: tuple[float, ...] = (0.0, 1.0)
    pass_rate: tuple[float, ...] = (0.0, 1.0)

    def __post_init__(self):
        _check_range("tied_share", self.tied_share)
        _check_range("pass_rate", self.pass_rate)

    def opens(self, tied_share: float, pass_rate: float) -> bool:
        """Whether a step with these shares is dithered."""
        shares = [(tied_share, self.tied_share), (pass_rate, self.pass_rate)]
        return all(lowest <= share <= highest for share, (lowest, highest) in shares)


@dataclass(frozen=True)
class ReditConfig:
    """What the top-level config node ``redit`` holds. Those after ``unlabelled_rows`` are for the closed loop alone.

    Args:
        distribution: ``gaussian`` or ``uniform`` (of half-width √3·std); both have the standard deviation ``std``.
        std: standard deviation of the noise in units of ``reward_range``, at least 0. At 0 nothing is added, and the
            reward manager returns what the inner one returns, bit for bit.
        reward_range: largest minus smallest reward of the scorer, in reward units, above 0.
        components: ranges of the parts that the scorer sums, by the name under which it returns them, in place of
            ``reward_range``: one draw for each, with the standard deviation ``std`` times its range. The reward manager
            checks that the scorer returns each; in the closed loop nothing does.
        schedule: how ``std`` grows or fades with the row's step.
        seed: seed of the keyed draws.
        inner: name of the registered reward manager that scores.
        unlabelled_rows: whether rows whose ``extra_info`` has no ``split`` are ``train`` or ``validation``; None stops
            the run at such a row.
        strategy: ``dither``, or a rival cure for tied groups (`verl_redit.redit.strategies`).
        apply_to: groups that are dithered: ``all``, ``tied`` (all rewards equal), ``tied_right`` and ``tied_wrong`` of
            them, or ``mixed``.
        std_source: what advantages are divided by: the ``dithered`` group's standard deviation (the paper), that of the
            ``clean`` group but at least ``std_floor``, or that of the whole ``batch``.
        std_floor: least divisor with ``std_source=clean``, in the same units as ``std``, above 0.
        right_above: a response is right if its raw reward is above this, in reward units.
        gate: in which updates there is noise.
        accuracy_band: [lowest, highest] mean accuracy of a group that is kept, for ``strategy=accuracy_band``.
        entropy_scale: α of ``strategy=directed``, advantage per nat, above 0.

    Raises:
        ValueError: with the key first, for a value outside these.
    """

    distribution: str = "gaussian"
    std: float = 0.0289
    reward_range: float = 1.0
    components: dict[str, float] | None = None
    schedule: Schedule = field(default_factory=Schedule)
    seed: int = 0
    inner: str = "naive"
    unlabelled_rows: str | None = None
    strategy: str = "dither"
    apply_to: str = "all"
    std_source: str = "dithered"
    std_floor: float = 0.35
    right_above: float = 0.5
    gate: Gate = field(default_factory=Gate)
    accuracy_band: tuple[float, ...] = (0.0, 1.0)
    entropy_scale: float = 0.1

    def __post_init__(self):
        check_name("distribution", self.distribution, DISTRIBUTIONS)
        check_name("strategy", self.strategy, list(STRATEGY_SETTINGS))
        check_name("apply_to", self.apply_to, GROUPS)
        check_name("std_source", self.std_source, STD_SOURCES)
        if not (math.isfinite(self.std) and self.std >= 0):
            raise ValueError(f"std: {self.std} is not a standard deviation; give a finite number, 0 or larger")
        _check_above_0("reward_range", self.reward_range)
        for name, span in (self.components or {}).items():
            _check_above_0(f"components.{name}", span)
        if self.components and self.reward_range != 1.0:
            raise ValueError("reward_range: the components have ranges of their own; drop reward_range or components")
        _check_above_0("std_floor", self.std_floor)
        _check_above_0("entropy_scale", self.entropy_scale)
        _check_range("accuracy_band", self.accuracy_band)
        if self.accuracy_band[0] == self.accuracy_band[1] and self.accuracy_band[0] in (0, 1):
            raise ValueError(f"accuracy_band: {list(self.accuracy_band)} keeps no group, as 0 and 1 are left out")
        if not math.isfinite(self.right_above):
            raise ValueError(f"right_above: {self.right_above}; give a finite number")
        if self.inner == "redit":
            raise ValueError("inner: 'redit' cannot wrap itself; name the manager that scores, for example 'naive'")
        if self.unlabelled_rows not in [None, *UNLABELLED_ROWS]:
            hint = nearest(str(self.unlabelled_rows), UNLABELLED_ROWS)
            raise ValueError(f"unlabelled_rows: {self.unlabelled_rows!r}; {hint}, or null")

    @property
    def ranges(self) -> list[tuple[str, float]]:
        """Name and range of each reward that gets a draw of its own; an empty name is the whole reward."""
        return list((self.components or {}).items()) or [("", self.reward_range)]

    @property
    def scale(self) -> float:
        """Reward units of ``std=1``: the range, or the root of the sum of the components' squared ranges."""
        return math.hypot(*(span for _, span in self.ranges))
