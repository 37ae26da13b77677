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

"""The recipe's own script on the real GSM8K: two steps with the demo's model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import metrics_of

pytestmark = pytest.mark.e2e
RECIPE = Path(__file__).parents[2] / "recipes" / "redit_gsm8k"
HERE = [
    "+host=cpu", "trainer.total_training_steps=2", "trainer.val_before_train=False", "trainer.test_freq=-1",
    "trainer.save_freq=-1", "data.train_max_samples=256", "data.val_max_samples=8",
]  # fmt: skip
SMALL = {
    "TRAIN_BATCH_SIZE": "8", "MINI_BATCH_SIZE": "8", "ROLLOUTS": "2", "MAX_PROMPT_LENGTH": "768",
    "MAX_RESPONSE_LENGTH": "32", "MICRO_BATCH_SIZE": "8",
}  # fmt: skip


def test_the_script_trains_on_the_real_gsm8k(workspace, gsm8k_source, tmp_path):
    subprocess.run(
        [sys.executable, RECIPE.parent / "prepare.py", "gsm8k", "--source", gsm8k_source, "--out", tmp_path], check=True
    )
    environment = {
        **os.environ, **SMALL, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MODEL_PATH": str(workspace / "model"), "DATA_DIR": str(tmp_path), "OUTPUT_DIR": str(tmp_path / "output"),
        "VERL_FILE_LOGGER_PATH": str(tmp_path / "metrics.jsonl"),
    }  # fmt: skip
    result = subprocess.run(
        ["bash", RECIPE / "run_qwen2_5_fsdp.sh", *HERE], env=environment, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    metrics = metrics_of(tmp_path)
    assert list(metrics) == [1, 2]
    # the tiny model answers none of GSM8K: every raw reward is 0, and what is left is the noise
    assert 0 < metrics[1]["critic/score/max"] < 5 * 0.0289
    assert metrics[1]["actor/grad_norm"] > 0
