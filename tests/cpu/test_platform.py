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

import inspect

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_cuda import PlatformCUDA
from verl.utils.device import get_device_id, get_device_name, get_torch_device
from verl.utils.memory_utils import aggressive_empty_cache

from verl_redit.cpu.platform import CpuPlatform


def test_verl_uses_it_when_asked():
    assert get_device_name() == "cpu"
    assert torch.zeros(1).to(get_device_id()).device.type == "cpu"


def test_it_is_never_detected():
    assert not CpuPlatform().is_platform_available()
    assert not CpuPlatform().is_platform_available(use_smi_check=True)


def test_it_has_the_methods_and_signatures_of_verls_interface():
    for name, member in inspect.getmembers(PlatformBase, inspect.isfunction):
        ours, theirs = (
            [parameter.name for parameter in inspect.signature(function).parameters.values()]
            for function in (getattr(CpuPlatform, name), getattr(PlatformCUDA, name, member))
        )
        assert ours == theirs, name


def test_memory_is_this_process_and_this_machine():
    device = get_torch_device()
    free, total = device.mem_get_info()
    assert 0 < device.memory_allocated() < total
    assert 0 < free <= total
    aggressive_empty_cache(force_sync=True)


def test_random_state_round_trips():
    device = get_torch_device()
    state = device.get_rng_state()
    first = torch.rand(3)
    device.set_rng_state(state)
    assert torch.equal(first, torch.rand(3))
