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

"""The suite on a verl that has every change of `patches/` itself, so that backports leave it alone."""

import shutil
from pathlib import Path

import pytest
import verl

from tests.e2e.conftest import POOL_SETTINGS, STD, metrics_of, rows_of
from tests.patches.test_patches import PATCHES, apply
from verl_redit.flexora.selection import load

pytestmark = pytest.mark.e2e


def test_all_three_plugins_train_on_it(train, tmp_path, monkeypatch):
    shutil.copytree(Path(verl.__file__).parent, tmp_path / "verl", ignore=shutil.ignore_patterns("__pycache__"))
    for patch in PATCHES:
        apply(patch, tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = train(
        tmp_path / "run", "trainer.v1.trainer_mode=redit_sync", "+paft=cycle", *POOL_SETTINGS, "+flexora=one_run",
        "flexora.search_steps=1", "flexora.k=1", "flexora.accept_noise=true", "trainer.val_before_train=false",
        "trainer.test_freq=-1",
    )  # fmt: skip
    assert str(tmp_path / "verl/workers") in (folder / "log.txt").read_text()  # in its warnings
    rows = rows_of(folder / "rollouts" / "2.jsonl")
    assert len({row["template_id"] for row in rows}) == len({row["uid"].split("_")[0] for row in rows})
    assert metrics_of(folder)[2]["redit/effective_std"] == pytest.approx(STD, rel=0.5)
    assert len(load(folder / "checkpoints/flexora/selection.json").chosen) == 1
