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

"""Weights go to the vLLM of the same run when several Ray clusters share a machine.

The same as ``patches/0010-keep-clusters-apart.patch``: the path of the socket, which verl makes from the Ray job's id,
gets the node's id as well. Ray counts jobs within a cluster, so two runs that each start one have the same job id.
"""

import functools
import os
from collections.abc import Callable
from types import ModuleType

import ray
import wrapt

from verl_redit.backports import is_needed


def name_sender(vllm_rollout: ModuleType) -> None:
    """Extend ``verl.workers.rollout.vllm_rollout.vllm_rollout``, where a trainer's rank names the socket."""
    if is_needed(vllm_rollout.ServerAdapter.__init__, "get_job_id_on_node", {"zmq_handle", "get_job_id"}):
        wrapt.wrap_function_wrapper(vllm_rollout, "ServerAdapter.__init__", _sender)


def name_receiver(async_server: ModuleType) -> None:
    """Extend ``verl.workers.rollout.vllm_rollout.vllm_async_server``, which tells vLLM's workers the job's id."""
    if is_needed(async_server.vLLMHttpServer.__init__, "get_job_id_on_node", {"environ", "get_job_id"}):
        server = async_server.vLLMHttpServer
        # not by wrapt: Ray pickles an actor's methods as plain functions, which loses the wrapper
        server.__init__ = _then_name_receiver(server.__init__)


def _sender(wrapped, instance, args, kwargs):
    wrapped(*args, **kwargs)
    job = ray.get_runtime_context().get_job_id()
    before, found, after = instance.zmq_handle.partition(f"-{job}-")
    if not found:
        raise RuntimeError(f"{instance.zmq_handle} does not name Ray's job {job}; install the verl that doctor names")
    instance.zmq_handle = f"{before}-{_job_id_on_node()}-{after}"


def _then_name_receiver(start: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(start)
    def started(*args, **kwargs):
        start(*args, **kwargs)
        os.environ["VERL_RAY_JOB_ID"] = _job_id_on_node()

    return started


def _job_id_on_node() -> str:
    context = ray.get_runtime_context()
    # a Unix socket's path may have 107 characters
    return f"{context.get_job_id()}-{context.get_node_id()[:16]}"
