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

"""What happens on ``import verl``: when host module X is imported, install adapter Y.

verl imports this module through the ``verl.plugins`` entry point at the end of ``import verl``, in every process.
So nothing heavy is imported here: each adapter is imported only when the module it extends is.
"""

import importlib
import importlib.abc
import importlib.metadata
import logging
import os
import sys
from functools import partial
from types import ModuleType

import wrapt
from packaging.specifiers import SpecifierSet

logger = logging.getLogger(__name__)

SUPPORTED_VERL = SpecifierSet(">=0.9.1,<0.10")

# (host module, adapter that is called with it)
ADAPTERS = [
    ("omegaconf", "verl_redit.config:add_resolver"),
    ("hydra.core.plugins", "verl_redit.config:add_search_path"),
    ("verl.utils.config", "verl_redit.preflight:check_before_start"),
    ("verl.trainer.main_ppo", "verl_redit.preflight:check_before_run"),
    ("verl.experimental.reward_loop.reward_manager", "verl_redit.redit.reward_manager:register"),
    ("verl.trainer.ppo.v1.replay_buffer", "verl_redit.redit.failure:stop_training"),
    ("verl.trainer.ppo.v1", "verl_redit.trainer:register"),
    ("verl.trainer.ppo.v1.trainer_base", "verl_redit.paft.reporting:show_templates"),
    ("verl.trainer.ppo.utils", "verl_redit.backports.dataset_sampler:extend_rl_loaders"),
    ("verl.trainer.sft_trainer", "verl_redit.backports.dataset_sampler:extend_sft_trainer"),
    ("verl.trainer.sft_trainer_ray", "verl_redit.backports.dataset_sampler:extend_sft_trainer"),
    ("verl.workers.rollout.vllm_rollout.vllm_rollout", "verl_redit.backports.weight_transfer:name_sender"),
    ("verl.workers.rollout.vllm_rollout.vllm_async_server", "verl_redit.backports.weight_transfer:name_receiver"),
    ("verl.workers.engine.base", "verl_redit.flexora.registry:choose_engine"),
    ("verl.workers.engine.fsdp.transformer_impl", "verl_redit.flexora.search_engine:register"),
    ("verl.workers.engine.fsdp.transformer_impl", "verl_redit.flexora.selected_engine:register"),
    ("vllm.lora.model_manager", "verl_redit.flexora.rollout:refuse_lost_modules"),
    ("verl.experimental.fully_async_policy.fully_async_rollouter", "verl_redit.redit.fully_async:label_rows"),
]

CPU_HOST_ADAPTERS = [
    ("verl.plugin.platform.platform_manager", "verl_redit.cpu.platform:register"),
    ("verl.plugin.platform.platform_manager", "verl_redit.cpu.adapters:collect_less_often"),
    ("verl.utils.distributed", "verl_redit.cpu.adapters:collapse_backend"),
    ("verl.workers.engine.fsdp.transformer_impl", "verl_redit.cpu.adapters:register_fsdp2_engine"),
    ("verl.trainer.ppo.v1.replay_buffer", "verl_redit.cpu.adapters:poll_often"),
    ("vllm.model_executor.layers.utils", "verl_redit.cpu.adapters:keep_linear_weights"),
]

# (host module, adapter) pairs called so far in this process; `verl-redit doctor` reads it
called: set[tuple[str, str]] = set()
# host module -> why an adapter could not extend it
refused: dict[str, Exception] = {}
_early: dict[str, tuple[str, ModuleType]] = {}


def on_cpu_host() -> bool:
    """Whether this process runs verl on the CPU host, which is chosen by ``VERL_PLATFORM=cpu`` and nothing else."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"


def adapters() -> list[tuple[str, str]]:
    """The host modules and adapters of this process."""
    return ADAPTERS + CPU_HOST_ADAPTERS if on_cpu_host() else ADAPTERS


def check_verl_version() -> None:
    """Raise ImportError if the installed verl is one this release was not written for."""
    version = importlib.metadata.version("verl")
    if not SUPPORTED_VERL.contains(version, prereleases=True):
        raise ImportError(
            f"verl-redit supports verl {SUPPORTED_VERL}, but verl {version} is installed: "
            f"pip install 'verl{SUPPORTED_VERL}', or a verl-redit release that names verl {version}."
        )


def _install(adapter: str, host: ModuleType) -> None:
    if (host.__name__, adapter) in called:
        return
    name, function = adapter.split(":")
    try:
        module = importlib.import_module(name)
        if getattr(module.__spec__, "_initializing", False) and not hasattr(module, function):
            # the import of the adapter itself has brought in its host
            _early[name] = (adapter, host)
            return
        getattr(module, function)(host)
    except Exception as error:
        logger.exception("verl-redit could not extend %s; run `verl-redit doctor`", host.__name__)
        refused[host.__name__] = error
        raise
    called.add((host.__name__, adapter))


class _StayRefused(importlib.abc.MetaPathFinder):
    """A module is refused at every import, not the first alone: its hooks are called once."""

    def find_spec(self, name, path, target=None):
        if error := refused.get(name):
            raise ImportError(f"verl-redit could not extend {name}: {error}", name=name) from error
        return None


def install_early(name: str) -> None:
    """Install the adapter module ``name``, which calls this when it is complete, if its hook was called before."""
    if name in _early:
        _install(*_early.pop(name))


def load() -> None:
    """Register the post-import hooks. Errors are logged before they are raised, because verl hides them."""
    try:
        check_verl_version()
        if on_cpu_host():
            importlib.import_module("verl_redit.cpu.vllm_metadata").answer_for_vllm()
        sys.meta_path.insert(0, _StayRefused())
        for host, adapter in adapters():
            wrapt.register_post_import_hook(partial(_install, adapter), host)
    except Exception:
        logger.exception("verl-redit is not loaded; run `verl-redit doctor`")
        raise


load()
