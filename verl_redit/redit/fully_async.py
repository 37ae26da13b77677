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

"""verl's fully-async trainer tells the reward manager neither step nor session; this adds both to each prompt's rows.

Its rollouter submits one prompt at a time, repeated for each session, and numbers the prompts from 1 in their ``uid``.
When it resumes it counts as many of them to a version of the weights as `step_of` does. It loses the samples in flight,
so after a resume a row may meet another version than it would have.
"""

import re
from types import ModuleType

import numpy as np
import wrapt
from omegaconf import DictConfig

_UID = re.compile(r"uid_sample_\d+_(\d+)")


def step_of(uid: str, config: DictConfig) -> int:
    """The version of the weights, from 1, that will learn from this prompt if none is late; schedules count these.

    Raises:
        ValueError: ``uid`` is not of the form ``uid_sample_<epoch>_<number>``.
    """
    match = _UID.fullmatch(uid)
    if not match:
        raise ValueError(f"uid {uid!r}: verl's fully-async rollouter was expected to write uid_sample_<epoch>_<number>")
    settings = config.async_training
    prompts = (
        config.actor_rollout_ref.actor.ppo_mini_batch_size
        * settings.require_batches
        * settings.trigger_parameter_sync_step
    )
    return (int(match[1]) - 1) // prompts + 1


def label_rows(rollouter: ModuleType) -> None:
    """Add ``session_id`` and ``global_steps`` to the rows of each prompt that the rollouter submits for ``redit``."""

    def generate(wrapped, instance, args, kwargs):
        if instance.config.reward.reward_manager.name != "redit":
            return wrapped(*args, **kwargs)
        rows = (kwargs["prompts"] if "prompts" in kwargs else args[0]).non_tensor_batch
        sessions = len(rows["uid"])
        rows["session_id"] = np.arange(sessions)
        rows["global_steps"] = np.full(sessions, step_of(rows["uid"][0], instance.config))
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(rollouter, "FullyAsyncAgentLoopManager.generate_sequences_single", generate)
