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

"""Checks before verl starts Ray, the actors or vLLM: a mistake is told in seconds and by the name of its setting."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO

import wrapt
from omegaconf import DictConfig, OmegaConf

from verl_redit import plugin
from verl_redit.closed_loop import (
    StateMismatch,
    configured_plugins,
    is_closed_loop,
    load_state,
    resumed_checkpoint,
)
from verl_redit.data_files import found, listed, reads_files

NODES = ("redit", "paft", "flexora", "host")

logger = logging.getLogger(__name__)
_claims: dict[Path, IO] = {}  # locks held until this process ends


class ConfigError(ValueError):
    """Settings that cannot run; the message lists each with its mend."""


def check_before_start(verl_config: ModuleType) -> None:
    """Check the suite's settings before verl checks its own."""

    def validate(wrapped, instance, args, kwargs):
        check(kwargs["config"] if "config" in kwargs else args[0])
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(verl_config, "validate_config", validate)


def check_before_run(main_ppo: ModuleType) -> None:
    """Check them before verl starts Ray, for verl's fully-async trainer, which comes here without checking its own."""

    def run(wrapped, instance, args, kwargs):
        config = kwargs["config"] if "config" in kwargs else args[0]
        if "async_training" in config:
            check(config)
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(main_ppo, "run_ppo", run)


def check(config: DictConfig) -> None:
    """Raise ConfigError if a run that uses the suite cannot work; a run that does not use it is left alone."""
    uses_redit = OmegaConf.select(config, "reward.reward_manager.name") == "redit"
    uses_suite = uses_redit or any(node in config for node in NODES) or is_closed_loop(config)
    if not (uses_suite or plugin.on_cpu_host()):
        return
    if problems := list(_problems(config, uses_redit)) or list(_resume_problems(config)):
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ConfigError(f"verl-redit cannot start this run:\n{listed}")
    _claim(Path(config.trainer.default_local_dir).expanduser().resolve())


def _problems(config: DictConfig, uses_redit: bool) -> Iterator[str]:
    if not config.trainer.use_v1:
        yield "trainer.use_v1=false: the legacy trainer tells neither step nor session; set trainer.use_v1=true"
    yield from _missing_paths(config)
    if plugin.on_cpu_host():
        from verl_redit.cpu import limits

        yield from limits.problems(config)
    elif "host" in config:
        yield "host: +host=cpu also needs VERL_PLATFORM=cpu in the environment; set it, or drop +host=cpu"
    if "host" in config and config.host.platform != "cpu":
        yield f"host.platform={config.host.platform}: there is cpu alone; drop it"
    if uses_redit or ("redit" in config and is_closed_loop(config)):
        from verl_redit.redit import startup as redit_startup

        yield from redit_startup.problems(config)
    elif "redit" in config:
        name = config.reward.reward_manager.name
        yield (
            f"reward.reward_manager.name={name}: redit has settings, but this manager does not read them; set "
            f"redit.inner={name} and drop reward.reward_manager.name"
        )
    if "paft" in config:
        from verl_redit.paft import startup as paft_startup

        yield from paft_startup.problems(config)
    if "flexora" in config:
        from verl_redit.flexora import startup as flexora_startup

        yield from flexora_startup.problems(config)


def _resume_problems(config: DictConfig) -> Iterator[str]:
    checkpoint = resumed_checkpoint(config)
    if checkpoint is None:
        return
    if not checkpoint.is_dir():
        yield f"trainer.resume_from_path: there is no folder {checkpoint}"
        return
    try:
        load_state(configured_plugins(config) if is_closed_loop(config) else [], checkpoint)
    except StateMismatch as error:
        yield f"trainer.resume_mode={config.trainer.resume_mode}: {error}"
    if "paft" in config:
        from verl_redit.paft import startup as paft_startup

        yield from paft_startup.resume_problems(config, checkpoint)
    if "flexora" in config:
        from verl_redit.flexora import startup as flexora_startup

        yield from flexora_startup.checkpoint_problems(config, checkpoint)


def _missing_paths(config: DictConfig) -> Iterator[str]:
    model = str(config.actor_rollout_ref.model.path)
    is_path = model.startswith(("/", ".", "~")) or ("://" not in model and model.count("/") > 1)
    if is_path and not Path(model).expanduser().is_dir():
        yield f"actor_rollout_ref.model.path: there is no folder {model}"
    for setting in ("data.train_files", "data.val_files") if reads_files(config) else ():
        for file in listed(OmegaConf.select(config, setting)):
            if "://" not in file and not found(file):
                yield f"{setting}: there is no file {file}"
    log = Path(os.environ.get("VERL_FILE_LOGGER_PATH", ""))
    if "file" in listed(config.trainer.logger) and not log.parent.is_dir():
        yield f"VERL_FILE_LOGGER_PATH={log}: verl makes no folder for its log; mkdir -p {log.parent}"


def _claim(folder: Path) -> None:
    """Refuse a folder that another run on this machine is writing to, as long as this process lives."""
    if folder in _claims:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".verl_redit.lock").open("a+")
    except OSError as error:
        raise ConfigError(f"trainer.default_local_dir: cannot write to {folder}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            logger.warning("%s: the file system has no locks, so a second run in it would not be noticed", folder)
            return
        lock.seek(0)
        raise ConfigError(
            f"trainer.default_local_dir: process {lock.read().strip()} is writing its checkpoints to {folder}; "
            "wait for it, or give this run another folder"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    _claims[folder] = lock
