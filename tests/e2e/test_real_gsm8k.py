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

"""A recipe's script on the real GSM8K, prepared by the recipes' own command: two steps with the demo's model."""

import subprocess
import sys

import pytest

from tests.e2e.conftest import RECIPES, SMALL, metrics_of, run_script

pytestmark = pytest.mark.e2e


def test_the_script_trains_on_it(workspace, gsm8k_source, tmp_path):
    command = [sys.executable, RECIPES / "prepare.py", "gsm8k", "--source", gsm8k_source, "--out", tmp_path]
    subprocess.run(command, check=True)
    rows = ["data.train_max_samples=256", "data.val_max_samples=8"]
    settings = {"MODEL_PATH": str(workspace / "model"), "DATA_DIR": str(tmp_path)}
    metrics = metrics_of(run_script("redit_gsm8k/run_qwen2_5_fsdp.sh", tmp_path / "run", [*SMALL, *rows], **settings))
    assert list(metrics) == [1, 2]
    # the tiny model answers none of GSM8K: every raw reward is 0, and what is left is the noise
    assert 0 < metrics[1]["critic/score/max"] < 5 * 0.0289
    assert metrics[1]["actor/grad_norm"] > 0
