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

"""ReDit in the closed loop through verl's entry point: what it stores, logs, learns from and resumes."""

import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from verl.utils.reward_score import default_compute_score

from tests.e2e.conftest import CLOSED, STD, metrics_of, rows_of
from verl_redit.demo import task
from verl_redit.demo.process import DemoError

pytestmark = pytest.mark.e2e
METRICS = [
    "redit/raw_reward/mean", "redit/raw_reward/std", "redit/dithered_reward/mean", "redit/dithered_reward/std",
    "redit/effective_std", "redit/tied_share", "redit/tied_right_share", "redit/tied_wrong_share",
    "redit/tied_energy_share",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """Two ranks, two steps, a checkpoint after each."""
    folder = tmp_path_factory.mktemp("closed-loop") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_DIR", str(folder / "tensorboard"))
        train(
            folder, CLOSED, "trainer.save_freq=1", "trainer.val_before_train=false", "trainer.test_freq=-1",
            "trainer.logger=[console,file,tensorboard]",
        )  # fmt: skip
    return folder


@pytest.mark.parametrize("step", [1, 2])
def test_scores_that_verl_stores_and_logs_are_the_scorers(trained, step):
    rows = rows_of(trained / "rollouts" / f"{step}.jsonl")
    scores = [default_compute_score(task.DATA_SOURCE, row["output"], row["gts"]) for row in rows]
    assert [row["score"] for row in rows] == scores
    metrics = metrics_of(trained)[step]
    assert metrics["critic/score/mean"] == pytest.approx(sum(scores) / len(scores))
    assert metrics["redit/raw_reward/mean"] == pytest.approx(sum(scores) / len(scores))


def test_tied_groups_get_gradients(trained):
    for metrics in metrics_of(trained).values():
        assert metrics["redit/tied_share"] > 0
        assert metrics["redit/tied_energy_share"] == pytest.approx(metrics["redit/tied_share"], abs=0.05)
        assert metrics["redit/effective_std"] == pytest.approx(STD, rel=0.5)
        assert metrics["critic/advantages/max"] > 0 and metrics["actor/grad_norm"] > 0


def test_metrics_are_in_the_console_the_file_and_tensorboard(trained):
    log = (trained / "log.txt").read_text()
    (events,) = (trained / "tensorboard").rglob("events.*")
    board = EventAccumulator(str(events))
    board.Reload()
    for name in METRICS:
        assert all(name in metrics for metrics in metrics_of(trained).values())
        assert f" - {name}:" in log
        assert [point.step for point in board.Scalars(name)] == [1, 2]


@pytest.fixture
def stopped(trained, tmp_path):
    """The checkpoints of a run that was stopped after step 1."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(trained / "checkpoints" / "global_step_1", folder / "global_step_1")
    (folder / "latest_checkpointed_iteration.txt").write_text("1")
    return folder


def test_a_resumed_run_draws_the_noise_of_the_whole_one(trained, stopped, train, tmp_path):
    folder = tmp_path / "run"
    train(
        folder, CLOSED, f"trainer.default_local_dir={stopped}", "trainer.val_before_train=false", "trainer.test_freq=-1"
    )
    resumed, whole = metrics_of(folder), metrics_of(trained)
    assert list(resumed) == [2]
    # the root mean square of all draws of the step: equal only if the draws are
    assert resumed[2]["redit/effective_std"] == pytest.approx(whole[2]["redit/effective_std"], rel=1e-9)
    assert whole[1]["redit/effective_std"] != pytest.approx(whole[2]["redit/effective_std"], rel=1e-3)


@pytest.mark.parametrize(
    ("redit", "overrides", "message"),
    [
        (True, ["redit.std=0.2"], "the checkpoint was written with redit.std=0.1, this run has 0.2"),
        (False, [], "was written with the closed-loop plugins [redit], this run has []"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_before_anything_starts(
    stopped, train, tmp_path, redit, overrides, message
):
    with pytest.raises(DemoError, match="verl stopped with exit code 1"):
        train(tmp_path / "run", CLOSED, f"trainer.default_local_dir={stopped}", *overrides, redit=redit)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "verl-redit cannot start this run" in log and message in log
    assert "TaskRunner" not in log
