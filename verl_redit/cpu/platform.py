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

"""verl's device interface on a machine without accelerators.

Registered as ``cpu`` and chosen by ``VERL_PLATFORM=cpu`` alone: the head node of a GPU cluster has no GPU either, so
detecting a CPU would be a guess. Ray counts ranks as resource "GPU" because verl's worker pools ask for that name.
"""

import logging
import os
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase

logger = logging.getLogger(__name__)


class CpuDevice(ModuleType):
    """``torch.cpu`` with the memory and random-state functions that ``torch.cuda`` has and verl calls.

    Memory is this process's resident set, in bytes; the limits are the machine's.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def memory_allocated(self, device: Any = None) -> int:
        return psutil.Process().memory_info().rss

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def empty_cache(self) -> None:
        """There is no cache to empty."""

    def ipc_collect(self) -> None:
        """There are no device handles to collect."""

    def get_device_name(self, device: Any = None) -> str:
        return "cpu"

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


class CpuPlatform(PlatformBase):
    """The host's processors as verl's device."""

    def __init__(self):
        self._device = CpuDevice("verl_redit.cpu.device")

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return self._device

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return False  # never detected, only asked for

    def current_device(self) -> Any:
        return "cpu"  # FSDP2 passes this to `Tensor.to`

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: Any) -> None:
        """There is one device."""

    def synchronize(self, device_index: int | None = None) -> None:
        """CPU work is synchronous."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None:
        """The allocator has no settings."""

    def empty_cache(self) -> None:
        self._device.empty_cache()

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def get_device_uuid(self, device_id: int) -> str:
        return f"cpu-{os.environ.get('RANK', device_id)}"

    def nvtx_range(self, msg: str):
        return nullcontext()

    def profiler_start(self) -> None:
        """No device profiler."""

    def profiler_stop(self) -> None:
        """No device profiler."""

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


def register(platform_manager: ModuleType) -> None:
    """Add the platform under the name ``cpu``, unless verl has one of its own."""
    if platform_manager.PlatformRegistry.get("cpu"):
        logger.debug("verl has a platform cpu itself")
        return
    platform_manager.PlatformRegistry.register(platform="cpu")(CpuPlatform)
