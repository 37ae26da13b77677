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

from recipes.lab.grpo import Batch, Curves, Settings, advantages, plugin_of, update
from recipes.lab.task import PROMPTS, Policy, Task
from verl_redit.redit.closed_loop import ReditPlugin

# of a step that replaces groups; verl's V1 trainers go on for ever
MOST_GENERATIONS = 10


def train(task: Task, settings: Settings, seed: int) -> Curves:
    """Train the task's policy; returns what was measured. The same seed draws the same prompts for every arm."""
    policy, plugin, curves = task.policy(), plugin_of(settings, seed), Curves()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    for number in range(settings.steps):
        curves.accuracy.append(task.accuracy(policy))
        batch, sampled = collect(task, policy, settings, plugin, np.random.default_rng([seed, number, 0]))
        curves.sampled_groups.append(sampled)
        if batch is not None:
            step(policy, optimizer, batch, plugin, settings, number, curves)
    curves.accuracy.append(task.accuracy(policy))
    return curves


def step(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    plugin: ReditPlugin,
    settings: Settings,
    number: int,
    curves: Curves,
) -> None:
    """Train on a batch, and add what is measured to the curves."""
    with torch.no_grad():
        log_probs = policy(batch.prompts, batch.responses)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    estimated = advantages(batch, plugin, settings, number, lambda: entropy)

    def log_probs_of(part: slice) -> torch.Tensor:
        return policy.log_probs(batch.prompts[part], batch.responses[part])

    curves.grad_norm.extend(update(list(policy.parameters()), optimizer, log_probs_of, estimated, settings))
    curves.entropy.append(float(entropy.mean()))
    metrics = plugin.metrics()
    curves.tied_share.append(metrics["redit/tied_share"])
    curves.tied_energy_share.append(metrics["redit/tied_energy_share"])


def collect(
    task: Task, policy: Policy, settings: Settings, plugin: ReditPlugin, draw: np.random.Generator
) -> tuple[Batch | None, int]:
    """Sample groups, and others for those that the plugin does not keep; returns them and how many were sampled.

    After `MOST_GENERATIONS` the step is trained on those that were kept, and left out if there are none. Within a
    generation no prompt is drawn twice.
    """
    generator = torch.Generator().manual_seed(int(draw.integers(2**31)))
    kept: list[tuple[torch.Tensor, torch.Tensor, np.ndarray]] = []
    sampled = 0
    for _ in range(MOST_GENERATIONS):
        chosen = torch.from_numpy(draw.permutation(PROMPTS)[: settings.prompts - len(kept)])
        prompts = chosen.repeat_interleave(settings.rollouts)
        responses = policy.sample(prompts, generator)
        rewards = task.rewards(prompts, responses)
        if settings.coin:
            rewards = draw.integers(2, size=len(rewards)).astype(float)
        sampled += len(chosen)
        for start in range(0, len(rewards), settings.rollouts):
            own = slice(start, start + settings.rollouts)
            if plugin.keeps_group(float(rewards[own].mean())):
                kept.append((prompts[own], responses[own], rewards[own]))
        if len(kept) == settings.prompts:
            break
    if not kept:
        return None, sampled
    prompts, responses, rewards = zip(*kept, strict=True)
    return Batch(torch.cat(prompts), torch.cat(responses), np.concatenate(rewards)), sampled
