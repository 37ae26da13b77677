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

"""The accuracy band with verl's own filter of groups, in the closed loop."""

from collections import defaultdict

import pytest

from tests.e2e.conftest import CLOSED, metrics_of, rows_of

pytestmark = pytest.mark.e2e


def test_the_accuracy_band_refills_a_step_with_mixed_groups(train, tmp_path):
    folder = train(
        tmp_path / "run", CLOSED, "+redit=gaussian", "redit.strategy=accuracy_band",
        "algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=acc", "trainer.val_before_train=false",
        "trainer.test_freq=-1", redit=False, prompts=4, rollouts=8,
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
