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

"""All tests run on the CPU host; it is chosen here, before anything imports verl."""

import os

os.environ["VERL_PLATFORM"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import pytest
import torch
import transfer_queue
import verl  # noqa: F401  loads the plugin
from hydra import compose, initialize_config_module
from tensordict import NonTensorStack, TensorDict

SHARED_GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k"


RUNS_VERL = ("tests/e2e/", "tests/conformance/")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Let one process run verl, one run after the other, and another the other files.

    Runs are not made side by side because a port that one has chosen is free for another until it is bound. It is not
    done by groups (``--dist loadgroup``), which pytest-xdist 3.8 does not find under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "runs of verl" if nodeid.startswith(RUNS_VERL) else nodeid.split("::")[0]

    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    """Put runs of verl first, as they take longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(RUNS_VERL))


@pytest.fixture
def verl_config():
    """Compose verl's own trainer config with overrides, as its entry point does."""

    def composed(*overrides: str):
        with initialize_config_module("verl.trainer.config", version_base=None):
            return compose("ppo_trainer", overrides=list(overrides))

    return composed


class Store(dict):
    """Rows by key; answers as verl's store does: jagged tensors, and stacks of other values."""

    def kv_batch_get(self, keys, partition_id, select_fields):
        rows = [self[key] for key in keys]
        present = [field for field in select_fields if all(field in row for row in rows)]
        return TensorDict({field: self._stack([row[field] for row in rows]) for field in present}, len(keys))

    @staticmethod
    def _stack(values):
        if isinstance(values[0], torch.Tensor):
            return torch.nested.as_nested_tensor(values, layout=torch.jagged)
        return NonTensorStack(*values)

    def kv_batch_put(self, keys, partition_id, fields, tags=None):
        for field, values in fields.items():
            for key, value in zip(keys, values.unbind(), strict=True):
                self[key][field] = value.clone()
        return None


@pytest.fixture
def store(monkeypatch):
    """verl's store of rollouts, as a dictionary."""
    store = Store()
    monkeypatch.setattr(transfer_queue, "kv_batch_get", store.kv_batch_get)
    monkeypatch.setattr(transfer_queue, "kv_batch_put", store.kv_batch_put)
    return store


@pytest.fixture(scope="session")
def gsm8k_source() -> Path:
    """The folder with GSM8K's train.jsonl and test.jsonl, or skip."""
    if not (SHARED_GSM8K / "train.jsonl").is_file():
        pytest.skip(f"needs the real GSM8K in {SHARED_GSM8K}")
    return SHARED_GSM8K
