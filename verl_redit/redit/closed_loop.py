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
from functools import partial

import numpy as np
from omegaconf import DictConfig

from verl_redit.closed_loop import Plugin, StateMismatch
from verl_redit.redit.config import ReditConfig
from verl_redit.redit.metrics import measure
from verl_redit.redit.rows import keys_of
from verl_redit.redit.strategies import STRATEGIES
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
        self.chooses_groups = self.strategy.chooses_groups
        self.divides = self.strategy.divides
        self.change: np.ndarray | None = None
        self.measured: dict[str, float] = {}

    def keeps_group(self, accuracy):
        return self.strategy.keeps_group(accuracy)

    def reward_change(self, rollouts):
        self.keys = functools.cache(partial(keys_of, self.settings.seed, rollouts.columns))
        self.change = self.strategy.reward_change(rollouts, self.keys)
        return self.change

    def advantages(self, rollouts, tokens):
        advantages = self.strategy.advantages(rollouts, self.keys, self.change, tokens)
        last, mask = advantages[tokens.final], tokens.mask[tokens.final]
        self.measured = measure(self.settings, rollouts, self.change, last, mask)
        return advantages

    def metrics(self):
        return self.measured

    def state_dict(self):
        return json.loads(json.dumps(asdict(self.settings)))

    def load_state_dict(self, state):
        here = self.state_dict()
        # an empty state is the user's word that the settings may change, a missing key one of an earlier release
        changed = [key for key in state if here.get(key) != state[key]]
        if changed:
            key = min(changed)
            raise StateMismatch(
                f"the checkpoint was written with redit.{key}={state[key]}, this run has {here.get(key)}; set it back, "
                'or write "redit": {} into that file to go on with the new settings'
            )
