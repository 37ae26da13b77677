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

"""How the noise grows or fades: pure functions from a step to a factor on ``redit.std``.

Shapes and constants are those of a public copy of the authors' TRL scripts, which schedule the relative half-width m
from m₀ = 0.1 (`redit.std` 0.0577) over runs of about 8,000 steps; their absolute floor of 1e-3 is 0.01 of m₀. Which
one won is not known to us. `linear` and a warm-up of every shape are ours. Steps count from 1, like ``global_steps``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from verl_redit.settings import check_name


def square_root(step: float, time_scale: float = 300.0) -> float:
    """(1 + step / time_scale)^(-1/2)."""
    return (1 + step / time_scale) ** -0.5


def factor(step: float, decay: float = 0.99, floor: float = 0.01) -> float:
    """decay^step, not below ``floor``."""
    return max(floor, decay**step)


def multi_factor(step: float, milestones: Sequence[int] = (2000, 4000, 6000, 8000), drop: float = 0.5) -> float:
    """``drop`` to the power of the number of milestones reached."""
    return drop ** sum(milestone <= step for milestone in milestones)


def cosine(step: float, total_steps: int = 8000, floor: float = 0.01) -> float:
    """Half a cosine from 1 at step 0 to ``floor`` at ``total_steps``, then ``floor``."""
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(step / total_steps, 1.0))) / 2


def linear(step: float, total_steps: int = 8000) -> float:
    """A straight line from 1 at step 0 to 0 at ``total_steps``, then 0."""
    return max(0.0, 1 - step / total_steps)


# the settings that each shape reads; all read warmup_steps and stop_step
SHAPES = {
    "constant": [],
    "square_root": ["time_scale", "reverse"],
    "factor": ["decay", "floor", "reverse"],
    "multi_factor": ["milestones", "drop", "reverse"],
    "cosine": ["floor", "total_steps", "reverse"],
    "linear": ["total_steps", "reverse"],
}
_OF_SHAPES = {name for names in SHAPES.values() for name in names}


@dataclass(frozen=True)
class Schedule:
    """The config node ``redit.schedule``.

    Args:
        shape: a key of `SHAPES`.
        reverse: run the shape backwards from ``total_steps``, so that the noise grows.
        warmup_steps: steps over which the factor first rises linearly from 0 to where the shape begins; the shape runs
            in the steps left. None is what the authors' scripts have: 1,000 for ``cosine`` unless reversed, else 0.
        total_steps: length of ``cosine``, ``linear`` and every reversed shape, warm-up included.
        stop_step: the last step with noise, at least 1; None for no end.
        time_scale: of ``square_root``, in steps.
        decay: of ``factor``, for each step.
        floor: least factor of ``factor`` and ``cosine``.
        milestones, drop: steps at which ``multi_factor`` multiplies by ``drop``.

    Raises:
        ValueError: with the key first, for a value that makes no schedule, or that the shape does not read.
    """

    shape: str = "constant"
    reverse: bool = False
    warmup_steps: int | None = None
    total_steps: int = 8000
    stop_step: int | None = None
    time_scale: float = 300.0
    decay: float = 0.99
    floor: float = 0.01
    milestones: tuple[int, ...] = (2000, 4000, 6000, 8000)
    drop: float = 0.5

    def __post_init__(self):
        check_name("shape", self.shape, list(SHAPES))
        if not self.time_scale > 0:
            raise ValueError(f"time_scale: {self.time_scale}; give a number of steps above 0")
        for name in ("decay", "floor", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)}; give a number from 0 to 1")
        if self.warmup < 0:
            raise ValueError(f"warmup_steps: {self.warmup}; give 0 or more")
        reads = [*SHAPES[self.shape], *(["total_steps"] if self.reverse else [])]
        if self.stop_step is not None and self.stop_step < 1:
            raise ValueError(f"stop_step: {self.stop_step} leaves no step with noise; give 1 or more")
        if "total_steps" in reads and self.total_steps <= self.warmup:
            raise ValueError(
                f"total_steps: {self.total_steps} leaves no step after the warm-up of {self.warmup}; "
                "give a larger one, or set warmup_steps"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            is_set = (tuple(value) if isinstance(value, list) else value) != field.default
            if is_set and field.name in _OF_SHAPES and field.name not in reads:
                raise ValueError(f"{field.name}: shape={self.shape} does not read it; drop it, or set another shape")

    @property
    def warmup(self) -> int:
        """Steps of warm-up."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return 1000 if self.shape == "cosine" and not self.reverse else 0

    def at(self, step: int) -> float:
        """Factor on ``redit.std`` at a row's ``global_steps``."""
        if self.stop_step is not None and step > self.stop_step:
            return 0.0
        if step < self.warmup:
            return step / self.warmup * self._shape(0)
        return self._shape(step - self.warmup)

    def _shape(self, time: int) -> float:
        length = self.total_steps - self.warmup
        if self.reverse:
            time = max(0, length - time)
        match self.shape:
            case "square_root":
                return square_root(time, self.time_scale)
            case "factor":
                return factor(time, self.decay, self.floor)
            case "multi_factor":
                return multi_factor(time, self.milestones, self.drop)
            case "cosine":
                return cosine(time, length, self.floor)
            case "linear":
                return linear(time, length)
            case _:
                return 1.0
