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

"""A reward that failed must stop the run. verl logs it, pads the group and goes on, so the message takes its own way:
the reward worker leaves it in Ray's key-value store, under the job's id, and the trainer raises it at its next poll.
"""

from types import ModuleType

import ray
import wrapt
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

_NAMESPACE = b"verl_redit"


class TrainingStopped(RuntimeError):
    """The reward manager reported a failure; the message names the row and the reason."""


def _key() -> bytes:
    return f"failure:{ray.get_runtime_context().get_job_id()}".encode()


def report(message: str) -> None:
    """Leave ``message`` for the trainer of this job; the first one is kept. Without Ray, raising is enough."""
    if ray.is_initialized():
        _internal_kv_put(_key(), message.encode(), overwrite=False, namespace=_NAMESPACE)


def take_report() -> str | None:
    """The first message reported in this job; taken away, so that a later run of the same job starts afresh."""
    if not ray.is_initialized():
        return None
    message = _internal_kv_get(_key(), namespace=_NAMESPACE)
    if message is None:
        return None
    _internal_kv_del(_key(), namespace=_NAMESPACE)
    return message.decode()


def stop_training(replay_buffer: ModuleType) -> None:
    """Let the trainer ask for reported failures each time it polls for finished rollouts."""

    def poll(wrapped, instance, args, kwargs):
        wrapped(*args, **kwargs)
        # after the poll: a failed group becomes visible later than its message, so this cannot miss one
        if message := take_report():
            raise TrainingStopped(message)

    wrapt.wrap_function_wrapper(replay_buffer, "ReplayBuffer._sync_metadata_from_transfer_queue", poll)
