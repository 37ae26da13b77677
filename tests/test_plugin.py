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

import importlib.metadata
import os
import subprocess
import sys

import pytest
import verl.utils.config
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls

from verl_redit import plugin

HEAVY = {"matplotlib", "typer", "vllm", "verl_redit.redit.reward_manager", "verl_redit.doctor"}


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_verl_loads_the_plugin_through_its_entry_point():
    entries = importlib.metadata.entry_points(group="verl.plugins")
    assert [entry.value for entry in entries if entry.name == "verl_redit"] == ["verl_redit.plugin"]
    assert get_reward_manager_cls("redit").__module__ == "verl_redit.redit.reward_manager"


def test_import_verl_imports_nothing_heavy():
    result = python(f"import sys, verl; print({HEAVY!r} & set(sys.modules), 'verl_redit.plugin' in sys.modules)")
    assert result.stdout.split("\n")[-2] == "set() True", result.stderr


def test_without_the_cpu_platform_no_cpu_adapter_is_installed():
    """Installing the suite on a GPU cluster must change nothing there."""
    code = (
        "import sys, verl, verl.utils.distributed, verl.plugin.platform.platform_manager as manager; "
        "from verl_redit import plugin; print(sorted(manager.PlatformRegistry.registered_names()), "
        "plugin.adapters() == plugin.ADAPTERS, [name for name in sys.modules if name.startswith('verl_redit.cpu')])"
    )
    result = python(code, VERL_PLATFORM="nvidia")
    assert result.stdout.split("\n")[-2] == "['amd', 'huawei', 'nvidia'] True []", result.stderr


def test_another_verl_is_refused_with_a_message(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.8.0")
    with pytest.raises(ImportError, match=r"supports verl .*but verl 0\.8\.0 is installed: pip install 'verl"):
        plugin.check_verl_version()


def test_a_failure_to_load_is_logged_although_verl_hides_it():
    code = (
        "import importlib.metadata as metadata; version = metadata.version; "
        "metadata.version = lambda name: '0.8.0' if name == 'verl' else version(name); import verl"
    )
    result = python(code)
    assert result.returncode == 0
    assert "verl-redit is not loaded; run `verl-redit doctor`" in result.stderr
    assert "but verl 0.8.0 is installed" in result.stderr


def test_a_failing_adapter_is_logged_with_the_host_it_was_for(caplog):
    with pytest.raises(ModuleNotFoundError):
        plugin._install("verl_redit.nothing:at_all", verl.utils.config)
    assert "verl-redit could not extend verl.utils.config; run `verl-redit doctor`" in caplog.text


@pytest.mark.parametrize(
    "code",
    [
        "from verl_redit.redit.reward_manager import ReditRewardManager as ours; "
        "from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls as find; "
        "print(find('redit') is ours)",
        "from verl_redit.trainer import ClosedLoop as ours; from verl.trainer.ppo.v1 import get_trainer_cls as find; "
        "print(issubclass(find('redit_sync'), ours))",
    ],
)
def test_an_adapter_may_be_imported_before_its_host(code):
    result = python(code)
    assert result.stdout.split("\n")[-2] == "True", result.stderr


def test_loading_twice_changes_nothing():
    checks = python(
        "import verl, importlib; from verl_redit import plugin; plugin.load(); "
        "from verl.utils.config import validate_config as v; "
        "print(type(v).__name__, type(v.__wrapped__).__name__)"
    )
    assert checks.stdout.split("\n")[-2] == "FunctionWrapper function", checks.stderr
