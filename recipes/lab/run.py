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

"""A run of the lab: one policy, one task, one arm."""

import numpy as np
import torch

from recipes.lab.grpo import Batch, Curves, Settings, advantages, strategy_of, update
from recipes.lab.task import PROMPTS, Policy, Task

MOST_GENERATIONS = 10  # of a step that replaces groups, as verl's filter_groups has it


def train(task: Task, settings: Settings, seed: int) -> Curves:
    """Train the task's policy; returns what was measured. The same seed draws the same prompts for every arm."""
    policy, strategy, curves = task.policy(), strategy_of(settings), Curves()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    for step in range(settings.steps):
        curves.accuracy.append(task.accuracy(policy))
        draw = np.random.default_rng([seed, step])
        batch, sampled = collect(task, policy, settings, strategy.keeps_group, draw)
        with torch.no_grad():
            log_probs = policy(batch.prompts, batch.responses)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        estimated, metrics = advantages(batch, strategy, settings, step, lambda entropy=entropy: entropy)
        norms = update(
            list(policy.parameters()),
            optimizer,
            lambda part, batch=batch: policy.log_probs(batch.prompts[part], batch.responses[part]),
            estimated,
            settings,
        )
        curves.entropy.append(float(entropy.mean()))
        curves.grad_norm.extend(norms)
        curves.tied_share.append(metrics["redit/tied_share"])
        curves.tied_energy_share.append(metrics["redit/tied_energy_share"])
        curves.sampled_groups.append(sampled)
    curves.accuracy.append(task.accuracy(policy))
    return curves


def collect(
    task: Task, policy: Policy, settings: Settings, keeps_group, draw: np.random.Generator
) -> tuple[Batch, int]:
    """Sample groups until enough are kept, and at most so many times; what is missing then is filled with others."""
    generator = torch.Generator().manual_seed(int(draw.integers(2**31)))
    kept, spare, sampled = [], [], 0
    for _ in range(MOST_GENERATIONS):
        chosen = torch.from_numpy(draw.permutation(PROMPTS)[: settings.prompts])
        prompts = chosen.repeat_interleave(settings.rollouts)
        responses = policy.sample(prompts, generator)
        rewards = task.rewards(prompts, responses)
        if settings.coin:
            rewards = draw.integers(2, size=len(rewards)).astype(float)
        sampled += len(chosen)
        for group in range(len(chosen)):
            own = slice(group * settings.rollouts, (group + 1) * settings.rollouts)
            whole = (prompts[own], responses[own], rewards[own])
            (kept if keeps_group(float(rewards[own].mean())) else spare).append(whole)
        if len(kept) >= settings.prompts:
            break
    prompts, responses, rewards = zip(*(kept + spare)[: settings.prompts], strict=True)
    return Batch(torch.cat(prompts), torch.cat(responses), np.concatenate(rewards)), sampled
