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

"""The closed loop through verl's entry point: the suite's trainer modes with FSDP2, vLLM, LoRA sync and checkpoints."""

import json
import shutil
from collections import defaultdict

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from verl.utils.reward_score import default_compute_score

from tests.e2e.conftest import POOL_SETTINGS, SIZES, STD, metrics_of, noise_of, rows_of
from verl_redit.demo import task
from verl_redit.demo.run import DemoError
from verl_redit.redit.noise import Key, unit_noise

pytestmark = pytest.mark.e2e
CLOSED = "trainer.v1.trainer_mode=redit_sync"
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


# One response to each question, and always the likeliest one: such runs of verl repeat, and each reward is its own
# advantage, so that there is something to learn. LoRA's start is drawn, which full_determinism seeds.
REPEATABLE = [
    "actor_rollout_ref.rollout.top_k=1", "actor_rollout_ref.rollout.val_kwargs.temperature=0",
    "actor_rollout_ref.actor.fsdp_config.full_determinism=true",
]  # fmt: skip


@pytest.fixture(scope="module")
def repeatable(train, tmp_path_factory):
    """Stock, the closed loop without plugins, the closed loop with ReDit, and the dithered reward manager."""
    folder = tmp_path_factory.mktemp("repeatable")
    runs = {"stock": (False, 2, []), "bare": (False, 2, [CLOSED]), "closed": (True, 1, [CLOSED]), "open": (True, 1, [])}
    for name, (redit, steps, overrides) in runs.items():
        settings = [*REPEATABLE, "trainer.save_freq=2", "trainer.test_freq=-1", *overrides]
        train(folder / name, *settings, redit=redit, prompts=16, rollouts=1, steps=steps)
    return folder


def learned(folder, name, step):
    """Metrics of what was generated and learned, without clocks, processors and memory."""
    measured = ("actor/", "critic/", "response_length/", "val-", "rollout_corr/")
    return {
        key: value
        for key, value in metrics_of(folder / name)[step].items()
        if key.startswith(measured) and not key.startswith("actor/perf")
    }


@pytest.mark.parametrize("step", [1, 2])
def test_without_plugins_the_closed_loop_is_stock(repeatable, step):
    stock, bare = (learned(repeatable, name, step) for name in ("stock", "bare"))
    assert len(stock) > 20 and stock["actor/grad_norm"] > 0
    assert bare == {key: pytest.approx(value, rel=1e-3, abs=1e-6) for key, value in stock.items()}
    assert not (repeatable / "bare" / "checkpoints" / "global_step_2" / "verl_redit.json").exists()


def test_validation_is_byte_for_byte_the_same_with_dithering_on_and_off(repeatable):
    lines = {}
    for name in ("stock", "bare", "closed", "open"):
        rows = rows_of(repeatable / name / "validation" / "0.jsonl")
        ours = {"redit_raw_reward", "redit_noise"} if name == "open" else set()
        assert all(ours <= row.keys() for row in rows)
        lines[name] = sorted(
            json.dumps({key: value for key, value in row.items() if key not in {"uid", *ours}}) for row in rows
        )
    assert len(lines["stock"]) > 100
    assert lines["stock"] == lines["bare"] == lines["closed"] == lines["open"]


@pytest.mark.parametrize("name", ["closed", "open"])
def test_dithering_changes_what_is_learned(repeatable, name):
    stock, dithered = (learned(repeatable, run, 1) for run in ("stock", name))
    assert (dithered["critic/score/mean"] == stock["critic/score/mean"]) == (name == "closed")
    assert dithered["actor/grad_norm"] != pytest.approx(stock["actor/grad_norm"], rel=1e-3)


def test_the_accuracy_band_refills_a_step_with_mixed_groups(train, tmp_path):
    folder = train(
        tmp_path / "run", CLOSED, "redit.strategy=accuracy_band", "algorithm.filter_groups.enable=true",
        "algorithm.filter_groups.metric=acc", "trainer.val_before_train=false", "trainer.test_freq=-1",
        prompts=4, rollouts=8,
    )  # fmt: skip
    evicted = 0.0
    for step, metrics in metrics_of(folder).items():
        groups = defaultdict(set)
        for row in rows_of(folder / "rollouts" / f"{step}.jsonl"):
            groups[row["uid"].split("_")[0]].add(row["score"])
        assert list(groups.values()) == [{0.0, 1.0}] * 4
        assert metrics["redit/tied_share"] == 0 and "redit/mixed_correlation" in metrics
        evicted += metrics.get("training/filter_groups/evicted_samples", 0)
    assert evicted > 0


@pytest.mark.parametrize("mode", ["colocate_async", "redit_colocate_async"])
def test_both_loops_dither_asynchronous_steps_on_a_pool(train, rows_of_question, tmp_path, mode):
    folder = train(
        tmp_path / "run", f"trainer.v1.trainer_mode={mode}", "+paft=cycle", *POOL_SETTINGS,
        "trainer.val_before_train=false", "trainer.test_freq=-1",
    )  # fmt: skip
    shown = defaultdict(set)
    for step in (1, 2):
        dump = folder / "rollouts" / f"{step}.jsonl"
        for row in rows_of(dump):
            shown[row["uid"].split("_")[0]].add(row["template_id"])
        noise = noise_of(dump, rows_of_question)
        assert len(noise) == SIZES.prompts * SIZES.rollouts
        if mode == "colocate_async":
            for (question, session, _), added in noise.items():
                # a prompt may have been dispatched a step ahead
                keys = [
                    Key(SIZES.seed, task.DATA_SOURCE, row, dispatched, session)
                    for row in rows_of_question[question]
                    for dispatched in (0, 1, 2)
                ]
                assert any(added == pytest.approx(STD * unit_noise("gaussian", key), abs=1e-6) for key in keys)
        else:
            metrics = metrics_of(folder)[step]
            assert set(noise.values()) == {0.0}
            assert metrics["redit/effective_std"] == pytest.approx(STD, rel=0.5)
            assert metrics["redit/tied_energy_share"] == pytest.approx(metrics["redit/tied_share"], abs=0.05)
    assert all(len(templates) == 1 for templates in shown.values())
    assert len(set().union(*shown.values())) == len(shown) == 2 * SIZES.prompts
