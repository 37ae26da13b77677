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

"""One tiny model, and a process group of one, for the tests of the engine."""

import pytest
import torch

from tests.flexora import engines


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Folder of a random Qwen2 with six layers."""
    return engines.save_model(tmp_path_factory.mktemp("flexora") / "model")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A process group of this process alone."""
    engines.join(0, 1, tmp_path_factory.mktemp("group") / "store")
    yield
    torch.distributed.destroy_process_group()
