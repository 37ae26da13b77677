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

"""The closed loop's contract: what a plugin may do in a training step, and how its state travels with a checkpoint.

A plugin sees whole batches and never verl: `verl_redit.trainer` is the adapter that runs plugins in verl's trainers.
"""

import importlib
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from omegaconf import DictConfig
from torch.utils.data import Sampler

from verl_redit.rollouts import Rollouts, Tokens

# trainer.v1.trainer_mode -> the stock mode that it extends
MODES = {
    "redit_sync": "sync",
    "redit_colocate_async": "colocate_async",
    "redit_separate_async": "separate_async",
}

# top-level config node -> the plugin that it turns on in the closed loop
PLUGINS = {
    "redit": "verl_redit.redit.closed_loop:ReditPlugin",
    "paft": "verl_redit.paft.closed_loop:PaftPlugin",
}


class StateMismatch(ValueError):
    """A checkpoint that was written with other plugins or settings; the message says which and how to go on."""


class Plugin:
    """One method in the closed loop. Every hook does nothing unless a plugin says otherwise.

    Hooks are called in this order in each step: `keeps_group` as groups finish, `reward_change` before the advantage,
    `advantages` after it, `metrics` after the update. A step with several updates (``parameter_sync_step``) repeats all
    but the first.

    Attributes:
        name: the config node that turns the plugin on, and its name in checkpoints.
        chooses_groups: whether `keeps_group` may say no; verl's ``algorithm.filter_groups`` must then be on.
        divides: whether `advantages` divides by a standard deviation of its own; verl's GRPO then only centres.
    """

    name: ClassVar[str]
    chooses_groups: bool = False
    divides: bool = False

    def use_sampler(self, sampler: Sampler) -> None:
        """Is shown the training data's sampler, before anything is drawn."""

    def keeps_group(self, accuracy: float) -> bool:
        """Whether a finished group with this mean of ``algorithm.filter_groups.metric`` is trained on. Asked at each
        poll, so the answer must depend on the accuracy alone."""
        return True

    def reward_change(self, rollouts: Rollouts) -> np.ndarray | None:
        """What the estimator shall see added to the rewards, float64 of shape (sessions,); None for nothing."""
        return None

    def advantages(self, rollouts: Rollouts, tokens: Tokens) -> torch.Tensor:
        """The advantages to train on, float32 of shape (responses, tokens)."""
        return tokens.advantages

    def metrics(self) -> dict[str, float]:
        """What to log for this update, by full name (``redit/…``)."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON holds it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of a checkpoint.

        Raises:
            StateMismatch: the state belongs to another configuration.
        """


def is_closed_loop(config: DictConfig) -> bool:
    """Whether the run uses one of the suite's trainer modes."""
    return config.get("trainer", {}).get("v1", {}).get("trainer_mode") in MODES


def configured_plugins(config: DictConfig) -> list[Plugin]:
    """The plugins whose node is in the config."""
    plugins = []
    for node, path in PLUGINS.items():
        if node in config:
            module, name = path.split(":")
            plugins.append(getattr(importlib.import_module(module), name)(config))
    return plugins


def resumed_checkpoint(config: DictConfig) -> Path | None:
    """The checkpoint folder that verl resumes from with these settings; None if it starts anew."""
    from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

    trainer = config.trainer
    if trainer.resume_mode == "disable":
        return None
    if trainer.resume_mode == "resume_path":
        return Path(trainer.resume_from_path) if trainer.resume_from_path else None
    latest = find_latest_ckpt_path(str(Path(trainer.default_local_dir).absolute()))
    return Path(latest) if latest else None


def save_state(plugins: list[Plugin], checkpoint: Path) -> None:
    """Write the plugins' state into a checkpoint's folder."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    state = {plugin.name: plugin.state_dict() for plugin in plugins}
    _file(checkpoint).write_text(json.dumps(state, indent=2) + "\n")


def load_state(plugins: list[Plugin], checkpoint: Path) -> None:
    """Hand each plugin its state from a checkpoint's folder.

    Raises:
        StateMismatch: the checkpoint was written with other plugins, or a plugin refuses its state.
    """
    file = _file(checkpoint)
    state = json.loads(file.read_text()) if file.is_file() else {}
    here = {plugin.name for plugin in plugins}
    if state.keys() != here:
        changes = [f'add "{name}": {{}}' for name in sorted(here - state.keys())]
        changes += [f'take "{name}" out' for name in sorted(state.keys() - here)]
        mend = (
            f"in {file} {' and '.join(changes)}" if state else f"write {json.dumps(dict.fromkeys(here, {}))} to {file}"
        )
        raise StateMismatch(
            f"{checkpoint} was written with the closed-loop plugins [{', '.join(sorted(state))}], this run has "
            f"[{', '.join(sorted(here))}]; configure the same ones, or {mend}, to go on from it with these"
        )
    for plugin in plugins:
        try:
            plugin.load_state_dict(state[plugin.name])
        except StateMismatch as error:
            raise StateMismatch(f"{file}: {error}") from error


def _file(checkpoint: Path) -> Path:
    return checkpoint / "verl_redit.json"
