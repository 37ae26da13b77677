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

"""A scorer that fails ends the run; stock verl would log it, pad the group and go on."""

import pytest

from verl_redit.demo.process import DemoError

pytestmark = pytest.mark.e2e

SCORER = """
def compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs):
    return 1.0 if extra_info["split"] == "test" else None
"""


def test_the_run_stops_and_names_the_row(train, tmp_path):
    scorer = tmp_path / "scorer.py"
    scorer.write_text(SCORER)
    folder = tmp_path / "run"
    with pytest.raises(DemoError, match="verl stopped with exit code 1"):
        train(folder, f"reward.custom_reward_function.path={scorer}", "trainer.val_before_train=false")
    log = (folder / "log.txt").read_text()
    stop = next(line for line in log.splitlines() if "TrainingStopped: " in line)
    assert "reward manager 'redit' stopped the run at data_source='openai/gsm8k', extra_info.index=" in stop
    assert "step=1, session=" in stop
    assert "the scorer returned None; it must return a number" in stop
    assert not (folder / "rollouts").exists() or not list((folder / "rollouts").iterdir())
    assert "step:1 - " not in log
