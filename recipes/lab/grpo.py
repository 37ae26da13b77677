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

"""GRPO in one process, on a policy of any kind: verl's advantages and loss, the suite's plugin, nothing of its own.

It differs from verl's trainer in what has no part in the question: one process, float32, no store, old log-probs from
the policy that is trained, and an end to the search for groups that are kept (`recipes.lab.run.collect`).
`tests/recipes/test_lab.py` holds it to verl's trainer and engine.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage, get_policy_loss_fn
from verl.workers.config import ActorConfig

from verl_redit.grpo import grpo_advantages
from verl_redit.redit.closed_loop import ReditPlugin
from verl_redit.rollouts import Rollouts, Tokens

DATA_SOURCE = "lab"


@dataclass(frozen=True)
class Settings:
    """Of one run; names are verl's where it has them.

    Args:
        lr: learning rate of AdamW, with verl's weight decay and clipping of the gradient's norm.
        steps: GRPO steps.
        prompts: groups of a step.
        rollouts: sessions of a group.
        mini_batches: updates of a step.
        norm_adv_by_std_in_grpo: whether a group's advantages are divided by its standard deviation.
        loss_agg_mode: as verl's.
        redit: the suite's config node, or None for stock.
        coin: rewards are fair coins, whatever was answered.
        weight_decay: verl's default.
        clip_grad: largest norm of a gradient; verl's default.
    """

    lr: float = 1e-3
    steps: int = 200
    prompts: int = 16
    rollouts: int = 8
    mini_batches: int = 1
    norm_adv_by_std_in_grpo: bool = True
    loss_agg_mode: str = "token-mean"
    redit: dict[str, Any] | None = None
    coin: bool = False
    weight_decay: float = 0.01
    clip_grad: float = 1.0


@dataclass
class Curves:
    """One value for each step: exact accuracy before it, and what was measured in it."""

    accuracy: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    tied_share: list[float] = field(default_factory=list)
    tied_energy_share: list[float] = field(default_factory=list)
    sampled_groups: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """The sessions of a step, group by group.

    Args:
        prompts: number of each session's prompt, int64 of shape (sessions,).
        responses: int64 of shape (sessions, tokens).
        rewards: float64 of shape (sessions,).
    """

    prompts: torch.Tensor
    responses: torch.Tensor
    rewards: np.ndarray


def plugin_of(settings: Settings, seed: int) -> ReditPlugin:
    """The suite's plugin as a run asks for it, with the run's seed for its draws; for stock one that adds nothing."""
    return ReditPlugin(OmegaConf.create({"redit": {**(settings.redit or {"std": 0.0}), "seed": seed}}))


def advantages(
    batch: Batch, plugin: ReditPlugin, settings: Settings, step: int, entropy: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """What is trained on, float32 of shape (sessions, tokens); the plugin has measured it then, as in the closed loop.

    Args:
        entropy: of the policy at each token, in nats, float32 of shape (sessions, tokens).
    """
    sessions = len(batch.rewards)
    group = np.repeat(np.arange(sessions // settings.rollouts), settings.rollouts)
    mask = torch.ones_like(batch.responses)
    columns = {
        "data_source": [DATA_SOURCE] * sessions,
        "global_steps": [step] * sessions,
        "session_id": list(range(settings.rollouts)) * (sessions // settings.rollouts),
        "extra_info": [{"index": int(prompt)} for prompt in batch.prompts],
    }

    def estimate(rewards: np.ndarray, divide: bool = True) -> np.ndarray:
        return grpo_advantages(rewards, group, divide and settings.norm_adv_by_std_in_grpo)

    rollouts = Rollouts(batch.rewards, group, lambda *names: {name: columns[name] for name in names}, estimate)
    change = plugin.reward_change(rollouts)
    scores = torch.zeros(mask.shape)
    scores[:, -1] = torch.from_numpy(batch.rewards if change is None else batch.rewards + change)
    divide = settings.norm_adv_by_std_in_grpo and not plugin.divides
    estimated, _ = compute_grpo_outcome_advantage(scores, mask, group, norm_adv_by_std_in_grpo=divide)
    every = torch.arange(sessions)
    return plugin.advantages(rollouts, Tokens(estimated, mask, every, every, entropy))


def update(
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    log_probs: Callable[[slice], torch.Tensor],
    estimated: torch.Tensor,
    settings: Settings,
) -> list[float]:
    """The updates of one step, by verl's clipped loss; returns the norms of their gradients before clipping.

    Args:
        log_probs: of the responses in a slice of the sessions, float32 of shape (sessions, tokens), with gradients.
        estimated: advantages of all sessions.
    """
    loss_of = get_policy_loss_fn("vanilla")
    config = ActorConfig(strategy="fsdp2", rollout_n=settings.rollouts, use_dynamic_bsz=True)
    with torch.no_grad():
        old = log_probs(slice(None))
    norms = []
    for chosen in np.array_split(np.arange(len(estimated)), settings.mini_batches):
        part = slice(int(chosen[0]), int(chosen[-1]) + 1)
        mask = torch.ones_like(old[part])
        loss, _ = loss_of(old[part], log_probs(part), estimated[part], mask, settings.loss_agg_mode, config)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, settings.clip_grad)))
        optimizer.step()
    return norms
