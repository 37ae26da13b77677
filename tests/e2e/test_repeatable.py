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

"""Runs that repeat: what the closed loop without plugins and dithering leave as stock verl has it, and what not."""

import json

import pytest

from tests.e2e.conftest import CLOSED, metrics_of, rows_of

pytestmark = pytest.mark.e2e

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
