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

"""GRPO with ReDit by the recipe's script: two FSDP2 ranks, vLLM, LoRA sync, checkpoints, validation."""

import shutil

import pytest
import torch
from verl.utils.reward_score import default_compute_score

from tests.e2e.conftest import ADAPTERS, SIZES, STD, metrics_of, noise_of, rows_of
from verl_redit.demo import task
from verl_redit.redit.noise import Key, unit_noise

pytestmark = pytest.mark.e2e
ROLLOUTS = SIZES.prompts * SIZES.rollouts


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """Two steps, a checkpoint after each, validation before and after."""
    return train(
        tmp_path_factory.mktemp("training") / "run",
        "trainer.save_freq=1",
        "trainer.test_freq=2",
        ADAPTERS,
        f"redit.std={STD}",
        "actor_rollout_ref.actor.use_kl_loss=true",
        f"actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu={ROLLOUTS}",
        ranks=2,
        script="redit_gsm8k/run_qwen2_5_fsdp.sh",
    )


def expected(question, session, step, rows_of_question):
    """The draws that the key function gives for a question; more than one if the question is in several rows."""
    keys = (Key(SIZES.seed, task.DATA_SOURCE, row, step, session) for row in rows_of_question[question])
    return [STD * unit_noise("gaussian", key) for key in keys]


@pytest.mark.parametrize("step", [1, 2])
def test_training_rewards_are_the_scorers_plus_the_keyed_draws(trained, rows_of_question, step):
    noise = noise_of(trained / "rollouts" / f"{step}.jsonl", rows_of_question)
    assert len(noise) == ROLLOUTS
    for (question, session, _), added in noise.items():
        draws = expected(question, session, step, rows_of_question)
        assert any(added == pytest.approx(draw, abs=1e-6) for draw in draws)
    assert len({round(added, 6) for added in noise.values()}) == ROLLOUTS


@pytest.mark.parametrize("step", [0, 2])
def test_validation_rewards_are_exactly_the_scorers(trained, step):
    rows = rows_of(trained / "validation" / f"{step}.jsonl")
    assert rows
    for row in rows:
        assert row["score"] == row["acc"] == row["redit_raw_reward"]
        assert row["score"] == default_compute_score(task.DATA_SOURCE, row["output"], row["gts"])
        assert row["redit_noise"] == 0


def lora_weights(checkpoint):
    """This rank's shard of every LoRA tensor in a checkpoint that the run above wrote."""
    shard = torch.load(checkpoint / "actor" / "model_world_size_2_rank_0.pt", weights_only=False)
    return {name: weight.to_local() for name, weight in shard.items() if "lora_" in name}


def test_lora_weights_changed(trained):
    first, second = (lora_weights(trained / "checkpoints" / f"global_step_{step}") for step in (1, 2))
    assert first.keys() == second.keys() and len(first) == 2 * 7 * 4  # A and B, seven projections, four layers
    assert all(not torch.equal(first[name], second[name]) for name in first if first[name].numel())


def test_vllm_saw_the_changed_weights(trained):
    """After the first update the policy is not the base model's, and vLLM's probabilities are the actor's."""
    second = metrics_of(trained)[2]
    assert second["actor/kl_loss"] > 1e-5
    assert second["training/rollout_probs_diff_max"] < 1e-3
    assert abs(second["rollout_corr/kl"]) < 1e-5


def test_a_run_that_was_stopped_after_step_1_draws_the_same_noise_for_step_2(
    trained, train, rows_of_question, tmp_path
):
    folder = tmp_path / "run"
    stopped = tmp_path / "checkpoints"
    shutil.copytree(trained / "checkpoints" / "global_step_1", stopped / "global_step_1")
    (stopped / "latest_checkpointed_iteration.txt").write_text("1")
    train(
        folder,
        f"trainer.default_local_dir={stopped}",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        ranks=2,
    )
    assert list(metrics_of(folder)) == [2]
    resumed, whole = (noise_of(place / "rollouts" / "2.jsonl", rows_of_question) for place in (folder, trained))
    assert resumed.keys() == whole.keys()
    for key, added in whole.items():
        assert resumed[key] == pytest.approx(added, abs=1e-6)
