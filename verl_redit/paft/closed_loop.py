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

"""PAFT in the closed loop: groups are reported to the policy, which adaptive weights follow."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, astuple
from statistics import fmean
from typing import Any

from omegaconf import DictConfig

from verl_redit.closed_loop import Plugin, StateMismatch
from verl_redit.paft.checks import load_checked
from verl_redit.paft.config import PaftConfig
from verl_redit.paft.sampler import PairSampler
from verl_redit.paft.selection import Group, Policy
from verl_redit.settings import parse


class PaftPlugin(Plugin):
    """Reports each group's accuracy and parse rate, as the scorer gave them and without noise, to the sampler's policy.

    The policy's state is saved here, the place in the run with verl's data loader. Loader workers draw ahead of what
    was reported; what they had drawn when a run stopped is drawn again with the newer weights. So with
    ``policy=adaptive`` a resumed run draws the same templates as a whole one if ``data.dataloader_num_workers=0``, and
    nearly the same otherwise; the other policies do not depend on it.
    """

    name = "paft"
    policy: Policy  # from `use_sampler` on; the checks before a run load a state without it

    def __init__(self, config: DictConfig):
        self.settings = parse(PaftConfig, config.paft, "paft")
        self.content_hash = load_checked(self.settings.pool).content_hash

    def use_sampler(self, sampler):
        if not isinstance(sampler, PairSampler):
            raise TypeError(f"paft: the training data is sampled by {type(sampler).__name__}; see data.custom_cls")
        self.policy = sampler.policy

    def reward_change(self, rollouts):
        columns = rollouts.columns("extra_info", "extra_fields")
        sessions = defaultdict(list)
        for session, group in enumerate(rollouts.group):
            scored = columns["extra_fields"][session].get("reward_extra_info", {})
            sessions[group].append((columns["extra_info"][session], scored, rollouts.rewards[session]))
        # the order in which groups finish is chance
        groups = sorted((_group(group) for group in sessions.values()), key=astuple)
        if self.settings.policy == "adaptive":
            for group in groups:
                _refuse_beyond_one(group)
        self.policy.observe(groups)
        return None

    def metrics(self):
        return self.policy.metrics()

    def state_dict(self):
        return self._settings() | {"learned": self.policy.state_dict()}

    def load_state_dict(self, state):
        # an empty state is the user's word that the settings may change
        for key, here in self._settings().items():
            if state and state.get(key) != here:
                raise StateMismatch(
                    f"the checkpoint was written with {key} {state.get(key)}, this run has {here}; set it back, or "
                    "begin a new run (trainer.resume_mode=disable, and another trainer.default_local_dir)"
                )
        if state and hasattr(self, "policy"):
            self.policy.load_state_dict(state["learned"])

    def _settings(self) -> dict[str, Any]:
        settings = {"paft.pool content": self.content_hash, "paft.policy": self.settings.policy}
        if self.settings.policy == "adaptive":
            settings["paft.adaptive"] = json.loads(json.dumps(asdict(self.settings.adaptive)))
        return settings


def _group(sessions: list[tuple[Mapping[str, Any], Mapping[str, Any], float]]) -> Group:
    """One group from its sessions' rows, scorers' results and raw rewards.

    A scorer that returns no ``acc`` is taken at its reward, one that returns no ``parsed`` reads every reply.
    """
    row = sessions[0][0]
    accuracy = fmean(float(reward if scored.get("acc") is None else scored["acc"]) for _, scored, reward in sessions)
    parsed = fmean(1.0 if scored.get("parsed") is None else float(scored["parsed"]) for _, scored, _ in sessions)
    return Group(row["template_id"], row["item_id"], accuracy, parsed)


def _refuse_beyond_one(group: Group) -> None:
    if not 0 <= group.accuracy <= 1:
        raise ValueError(
            f"paft.policy=adaptive: row {group.item} has accuracy {group.accuracy}; let the scorer return `acc` from 0 "
            "to 1 as well"
        )
