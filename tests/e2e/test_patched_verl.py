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

"""Both stages of the suite's recipe on a verl that has every change of `patches/`, so that backports leave it alone."""

import shutil
from pathlib import Path

import pytest
import verl

from tests.e2e.conftest import POOL_SETTINGS, SMALL, metrics_of, rows_of, run_script, trained_layers
from tests.patches.test_patches import PATCHES, apply
from verl_redit.flexora.selection import load

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def patched_verl(tmp_path_factory):
    """In the environment of all that is started."""
    folder = tmp_path_factory.mktemp("patched")
    shutil.copytree(Path(verl.__file__).parent, folder / "verl", ignore=shutil.ignore_patterns("__pycache__"))
    for patch in PATCHES:
        apply(patch, folder)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(folder))
        yield folder


def test_both_stages_train_with_all_three_plugins(first_stage, patched_verl, workspace, tmp_path):
    supervised = first_stage(tmp_path / "suite")
    folder = tmp_path / "run"
    overrides = [
        *SMALL, *POOL_SETTINGS, f"data.train_files={workspace / 'train.parquet'}",
        f"data.val_files={workspace / 'test.parquet'}", "flexora.accept_noise=true", "trainer.save_freq=2",
        f"trainer.rollout_data_dir={folder / 'rollouts'}",
    ]  # fmt: skip
    where = {"OUTPUT_DIR": str(supervised.parents[1])}  # of both stages
    metrics = metrics_of(run_script("suite_gsm8k/run_2_grpo_qwen2_5_fsdp.sh", folder, overrides, **where))
    assert str(patched_verl / "verl/workers") in (folder / "log.txt").read_text()  # in its warnings
    rows = rows_of(folder / "rollouts/2.jsonl")
    assert len({row["template_id"] for row in rows}) == len({row["uid"].split("_")[0] for row in rows}) == 8
    # the script dithers mixed groups alone
    assert metrics[2]["redit/tied_share"] > metrics[2]["redit/tied_energy_share"] == 0
    trained = trained_layers(supervised.parents[1] / "grpo/seed0/global_step_2/actor")
    assert trained == {unit.name for unit in load(supervised / "flexora/selection.json").chosen}
