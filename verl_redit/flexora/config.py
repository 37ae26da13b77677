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

"""Settings of Flexora: the top-level config node ``flexora``."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from verl_redit.flexora.choice import RULES
from verl_redit.flexora.layers import GRAINS
from verl_redit.flexora.scores import APPLIED, METHODS
from verl_redit.settings import check_name

MODES = ["search", "selected", "one_run"]
SWITCHES = ["reset", "keep"]
OPTION_OF_RULE = {"top_k": "k", "budget": "budget", "z_score": "z"}


@dataclass(frozen=True)
class FlexoraConfig:
    """What the top-level config node ``flexora`` holds.

    Args:
        mode: ``search`` (score layers while all of them train), ``selected`` (train those of a selection file) or
            ``one_run`` (search, then go on with the chosen layers alone).
        method: how units are scored (`verl_redit.flexora.scores`).
        grain: what is scored as one: ``layer``, or each ``module`` of it.
        search_steps: updates of the search; in RL each mini-batch is one.
        held_out: share of the prompt groups that ``unrolled`` and ``first_order`` set aside in each update.
        inner_steps: K of ``unrolled``, each at the optimizer's learning rate.
        apply: put the gates of ``unrolled`` or ``first_order`` into the forward pass, as the paper does.
        rule: what is kept (`verl_redit.flexora.choice`).
        k: units that ``rule=top_k`` keeps; None for half.
        budget: share of LoRA parameters that ``rule=budget`` keeps.
        z: standard deviations above the mean for ``rule=z_score``.
        seed: of what is set aside, ``method=random``, resamples and the null model.
        output: folder for the search's record and its selection.
        selection: file that ``mode=selected`` trains on.
        accept_noise: train on a selection whose search found no more than chance.
        switch: in ``one_run``, the adapter and its momentum are made anew after the search (``reset``), or the chosen
            layers go on and the others stay as they are (``keep``).
        stop_backward: let the backward pass end at the lowest layer of ``selected``.
        restrict_rollouts: let vLLM wrap the modules of ``selected`` alone.

    Raises:
        ValueError: with the key first, for a value outside these, or one that nothing would read.
    """

    mode: str = "search"
    method: str = "align"
    grain: str = "layer"
    search_steps: int = 100
    held_out: float = 0.25
    inner_steps: int = 1
    apply: bool = False
    rule: str = "top_k"
    k: int | None = None
    budget: float = 0.5
    z: float = 0.0
    seed: int = 0
    output: str = "flexora"
    selection: str | None = None
    accept_noise: bool = False
    switch: str = "reset"
    stop_backward: bool = False
    restrict_rollouts: bool = False

    def __post_init__(self):
        check_name("mode", self.mode, MODES)
        check_name("method", self.method, list(METHODS))
        check_name("grain", self.grain, GRAINS)
        check_name("rule", self.rule, RULES)
        check_name("switch", self.switch, SWITCHES)
        for key in ("search_steps", "inner_steps"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: {getattr(self, key)}; give 1 or more")
        for key in ("held_out", "budget"):
            if not 0 < getattr(self, key) < 1:
                raise ValueError(f"{key}: {getattr(self, key)}; give a share above 0 and below 1")
        if self.k is not None and self.k < 1:
            raise ValueError(f"k: {self.k}; give 1 or more, or null for half of the units")
        if not math.isfinite(self.z):
            raise ValueError(f"z: {self.z}; give a finite number")
        if self.apply and self.method not in APPLIED:
            raise ValueError(f"apply: method={self.method} has no gates; use {' or '.join(APPLIED)}, or drop it")
        if self.rule == "positive" and not METHODS[self.method].gates:
            raise ValueError(
                f"rule: positive is the paper's α > 0, and method={self.method} has no α; use rule=top_k, or "
                f"method={' or '.join(APPLIED)}"
            )
        for key in ("stop_backward", "restrict_rollouts"):
            if getattr(self, key) and self.mode != "selected":
                raise ValueError(
                    f"{key}: in mode={self.mode} every layer has LoRA at first; set it with +flexora=selected"
                )
        if (self.mode == "selected") != (self.selection is not None):
            raise ValueError(
                f"selection: {self.selection!r} with mode={self.mode}; give +flexora=selected a file, and others none"
            )
        for key, chosen in self._unread():
            if getattr(self, key) != getattr(FlexoraConfig, key):
                raise ValueError(f"{key}: {chosen}={getattr(self, chosen)} does not read it; drop it")

    def _unread(self) -> Iterator[tuple[str, str]]:
        """Settings that are not read, each with the setting that says so; without those that a script may give to every
        mode (``seed``, ``search_steps``, ``output``)."""
        if self.mode == "selected":
            yield from ((key, "mode") for key in ("method", "grain", "apply", "rule", *OPTION_OF_RULE.values()))
        if self.mode != "one_run":
            yield "switch", "mode"
        yield from ((key, "rule") for rule, key in OPTION_OF_RULE.items() if rule != self.rule)
        if METHODS[self.method].passes not in ("held_out", "unrolled"):
            yield "held_out", "method"
        if METHODS[self.method].passes != "unrolled":
            yield "inner_steps", "method"
