"""Checks before verl starts Ray, the actors or vLLM: a mistake is told in seconds and by the name of its setting."""

from collections.abc import Iterator
from types import ModuleType

import wrapt
from omegaconf import DictConfig, OmegaConf

from verl_redit import plugin


class ConfigError(ValueError):
    """Settings that cannot run; the message lists each with its mend."""


def check_before_start(verl_config: ModuleType) -> None:
    """Check the suite's settings before verl checks its own."""

    def validate(wrapped, instance, args, kwargs):
        check(kwargs["config"] if "config" in kwargs else args[0])
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(verl_config, "validate_config", validate)


def check(config: DictConfig) -> None:
    """Raise ConfigError if a run that uses the suite cannot work; a run that does not is left alone."""
    if problems := list(_problems(config)):
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ConfigError(f"verl-redit cannot start this run:\n{listed}")


def _problems(config: DictConfig) -> Iterator[str]:
    host = OmegaConf.select(config, "host.platform")
    if host and not plugin.on_cpu_host():
        yield "host.platform=cpu: set VERL_PLATFORM=cpu in the environment as well, or drop +host=cpu"
    uses_redit = OmegaConf.select(config, "reward.reward_manager.name") == "redit"
    if plugin.on_cpu_host():
        from verl_redit.cpu.limits import problems

        yield from problems(config)
    if uses_redit:
        from verl_redit.redit import startup

        yield from startup.problems(config)
    elif "redit" in config:
        yield "redit: set, but reward.reward_manager.name is not redit; add +redit=gaussian or drop the redit settings"
