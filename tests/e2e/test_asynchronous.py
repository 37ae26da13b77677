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

"""Asynchronous steps of verl's loop and of the closed one, dithered, on a pool."""

from collections import defaultdict

import pytest

from tests.e2e.conftest import POOL_SETTINGS, SIZES, STD, metrics_of, noise_of, rows_of
from verl_redit.demo import task
from verl_redit.redit.noise import Key, unit_noise

pytestmark = pytest.mark.e2e


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
