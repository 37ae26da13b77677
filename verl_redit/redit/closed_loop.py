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

"""ReDit in the closed loop: a strategy with its keys, its metrics and its settings as state."""

import functools
import json
from dataclasses import asdict

import numpy as np
import torch
from omegaconf import DictConfig

from verl_redit.closed_loop import Plugin, StateMismatch
from verl_redit.redit.config import ReditConfig
from verl_redit.redit.metrics import measure
from verl_redit.redit.noise import Key
from verl_redit.redit.rows import COLUMNS, key_of
from verl_redit.redit.strategies import STRATEGIES
from verl_redit.rollouts import Rollouts, Tokens
from verl_redit.settings import parse


class ReditPlugin(Plugin):
    """Dithers just before the advantage, or does what ``redit.strategy`` names instead.

    Stored rewards stay raw. Its state is its settings: draws are keyed, so a resumed run needs nothing else, and a run
    whose settings changed is not a resumed one.
    """

    name = "redit"

    def __init__(self, config: DictConfig):
        self.settings = parse(ReditConfig, config.redit, "redit")
        self.strategy = STRATEGIES[self.settings.strategy](self.settings)
        self.centres = self.strategy.divides
        self.noise: np.ndarray | None = None
        self.measured: dict[str, float] = {}

    def keeps_group(self, accuracy):
        return self.strategy.keeps(accuracy)

    def reward_change(self, rollouts):
        self.noise = self.strategy.noise(rollouts, self._keys(rollouts))
        return self.noise

    def advantages(self, rollouts: Rollouts, tokens: Tokens) -> torch.Tensor:
        advantages = self.strategy.advantages(rollouts, self._keys(rollouts), tokens)
        self.measured = measure(
            self.settings, rollouts, self.noise, advantages[tokens.final], tokens.mask[tokens.final]
        )
        return advantages

    def metrics(self):
        return self.measured

    def _keys(self, rollouts: Rollouts):
        @functools.cache
        def keys() -> list[Key]:
            names = (*COLUMNS, "extra_info")
            rows = zip(*(rollouts.column(name) for name in names), strict=True)
            return [key_of(self.settings.seed, dict(zip(names, row, strict=True))) for row in rows]

        return keys

    def state_dict(self):
        return json.loads(json.dumps(asdict(self.settings)))

    def load_state_dict(self, state):
        here = self.state_dict()
        if changed := [key for key in here.keys() | state.keys() if here.get(key) != state.get(key)]:
            key = min(changed)
            raise StateMismatch(
                f"the checkpoint was written with redit.{key}={state.get(key)}, this run has {here.get(key)}; set it "
                "back, or delete the redit settings in that file to go on with the new ones"
            )
