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

"""Settings of PAFT: the top-level config node ``paft``."""

import math
from dataclasses import dataclass, field

from verl_redit.settings import check_name

POLICIES = ["fixed", "static", "uniform", "block", "cycle", "stratified", "adaptive"]
VALIDATIONS = ["grid", "stock"]
LOSSES = ["failure", "cvar", "signal"]


def _check_share(key: str, number: float, above: float = -math.inf) -> None:
    if not (above < number and 0 <= number <= 1):
        raise ValueError(f"{key}: {number}; give a number from 0 to 1" + (", above 0" if above == 0 else ""))


def _check_positive(key: str, number: float, least: float = 0.0) -> None:
    if not (math.isfinite(number) and number > 0 and number >= least):
        raise ValueError(f"{key}: {number}; give a finite number " + (f"of {least:g} or more" if least else "above 0"))


@dataclass(frozen=True)
class Grid:
    """The config node ``paft.grid``: held-out templates times items of the validation files.

    Args:
        items: validation rows in the grid, chosen by a keyed draw that does not change with their order.
        templates: held-out templates in it, spread over the tiers; None for all.
        seed: of both choices.

    Raises:
        ValueError: a number below 1.
    """

    items: int = 64
    templates: int | None = None
    seed: int = 0

    def __post_init__(self):
        _check_positive("items", self.items, 1)
        if self.templates is not None:
            _check_positive("templates", self.templates, 1)


@dataclass(frozen=True)
class Adaptive:
    """The config node ``paft.adaptive``: how weights follow losses (`verl_redit.paft.adaptive`).

    Args:
        loss: ``failure`` (1 - accuracy), ``cvar`` (mean of the worst ``worst`` of a template's groups) or ``signal``
            (√(p(1-p)) of the accuracy p: where a group's rewards differ most).
        rate: η of the exponentiated weights, above 0.
        memory: share of a template's running loss that its next group takes over, above 0 and up to 1.
        floor: share of all draws that stays uniform, from 0 to 1.
        cap: largest weight in units of the uniform one, at least 1.
        worst: share of groups for ``cvar``, above 0 and up to 1.
        explore: weight of the bonus for templates seen seldom, with ``loss=signal``, at least 0.
        quarantine_below: share of the templates' average parse rate under which one is not drawn any more, from 0 to 1.
        quarantine_after: groups that a template must have had before, at least 1.

    Raises:
        ValueError: with the key first, for a value outside these.
    """

    loss: str = "failure"
    rate: float = 2.0
    memory: float = 0.1
    floor: float = 0.2
    cap: float = 4.0
    worst: float = 0.25
    explore: float = 0.0
    quarantine_below: float = 0.1
    quarantine_after: int = 8

    def __post_init__(self):
        check_name("loss", self.loss, LOSSES)
        _check_positive("rate", self.rate)
        _check_share("memory", self.memory, above=0)
        _check_share("floor", self.floor)
        _check_positive("cap", self.cap, 1)
        _check_share("worst", self.worst, above=0)
        if not (math.isfinite(self.explore) and self.explore >= 0):
            raise ValueError(f"explore: {self.explore}; give a finite number, 0 or larger")
        if self.worst != Adaptive.worst and self.loss != "cvar":
            raise ValueError(f"worst: loss={self.loss} does not use it; set loss=cvar, or drop it")
        if self.explore and self.loss != "signal":
            raise ValueError(f"explore: loss={self.loss} does not use it; set loss=signal, or drop it")
        _check_share("quarantine_below", self.quarantine_below)
        _check_positive("quarantine_after", self.quarantine_after, 1)


@dataclass(frozen=True)
class PaftConfig:
    """What the top-level config node ``paft`` holds.

    Args:
        pool: name of a bundled pool, or path of a ``.yaml`` or ``.jsonl`` file.
        policy: which template a draw gets (`verl_redit.paft.selection`).
        template: id of the one that ``policy=fixed`` shows; None for the pool's first.
        block: draws that share a template with ``policy=block``: the paper's K, counted in rows.
        seed: seed of the keyed draws and of the rows' order.
        fields: template field -> key of the row's ``extra_info``, where they differ.
        validation: ``grid`` (held-out templates times items), or ``stock`` (the rows' own prompts).
        grid: size of the grid.
        adaptive: of ``policy=adaptive``.

    Raises:
        ValueError: with the key first, for a value outside these.
    """

    pool: str = "gsm8k"
    policy: str = "cycle"
    template: str | None = None
    block: int = 4
    seed: int = 0
    fields: dict[str, str] | None = None
    validation: str = "grid"
    grid: Grid = field(default_factory=Grid)
    adaptive: Adaptive = field(default_factory=Adaptive)

    def __post_init__(self):
        check_name("policy", self.policy, POLICIES)
        check_name("validation", self.validation, VALIDATIONS)
        _check_positive("block", self.block, 1)
        if self.template is not None and self.policy != "fixed":
            raise ValueError(f"template: policy={self.policy} does not read it; set policy=fixed, or drop it")
        if self.block != PaftConfig.block and self.policy != "block":
            raise ValueError(f"block: policy={self.policy} does not read it; set policy=block, or drop it")
        if self.adaptive != Adaptive() and self.policy != "adaptive":
            raise ValueError(f"adaptive: policy={self.policy} does not read it; set policy=adaptive, or drop it")
