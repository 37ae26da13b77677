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

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import verl.utils.config
from verl.trainer.ppo.utils import need_critic, need_reference_policy

from verl_redit import preflight
from verl_redit.closed_loop import configured_plugins, save_state
from verl_redit.preflight import ConfigError, check


@pytest.fixture
def rows(tmp_path):
    """Training rows; those of validation beside them."""
    for split in ("train", "test"):
        row = {"data_source": "a", "extra_info": {"split": split, "index": 0}}
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{split}.parquet")
    return tmp_path / "train.parquet"


@pytest.fixture
def config(verl_config, rows, tmp_path):
    """A run that can start, with overrides."""

    def composed(*overrides):
        return verl_config(
            "+host=cpu", "+redit=gaussian", "algorithm.adv_estimator=grpo",
            f"data.train_files={rows}", f"data.val_files=[{rows.with_stem('test')}]",
            f"actor_rollout_ref.model.path={tmp_path}", f"trainer.default_local_dir={tmp_path / 'checkpoints'}",
            *overrides,
        )  # fmt: skip

    return composed


@pytest.fixture(autouse=True)
def release():
    yield
    while preflight._claims:
        preflight._claims.popitem()[1].close()


def message(config) -> str:
    with pytest.raises(ConfigError) as error:
        check(config)
    return str(error.value)


def test_a_run_that_can_start_starts_and_may_be_checked_twice(config):
    check(config())
    check(config())


def test_verls_entry_point_is_checked_before_verl_checks(config):
    broken = config("redit.std=-1")
    with pytest.raises(ConfigError, match=r"redit\.std: -1\.0 is not a standard deviation"):
        verl.utils.config.validate_config(
            config=broken,
            use_reference_policy=need_reference_policy(broken),
            use_critic=need_critic(broken),
        )


def test_all_problems_are_told_at_once(config):
    text = message(config("redit.std=-1", "actor_rollout_ref.rollout.enforce_eager=false", "data.train_files=nowhere"))
    assert text.startswith("verl-redit cannot start this run:\n  - ")
    assert text.count("\n  - ") == 3


def test_a_pattern_stands_for_its_files(config, rows):
    check(config(f"data.train_files={rows.parent}/tr*n.parquet"))
    assert "there is no file" in message(config(f"data.train_files={rows.parent}/none-*.parquet"))
    rows.with_stem("train2").write_bytes(rows.with_stem("test").read_bytes())
    # rows are looked at one by one, so all files are
    assert "'test'" in message(config(f"data.train_files={rows.parent}/train2*.parquet"))


def test_a_log_has_a_folder_when_the_run_starts(config, tmp_path, monkeypatch):
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "runs" / "seed0.jsonl"))
    check(config("trainer.logger=[console]"))
    assert f"mkdir -p {tmp_path / 'runs'}" in message(config("trainer.logger=[console,file]"))
    (tmp_path / "runs").mkdir()
    check(config("trainer.logger=[console,file]"))


def test_files_that_a_data_set_of_the_users_reads_are_its_own_business(config):
    with pytest.raises(ConfigError) as told:
        check(config("data.custom_cls.path=mine.py", "data.train_files=hub/name", "redit.std=-1"))
    assert "redit.std" in str(told.value) and "there is no file" not in str(told.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "actor_rollout_ref.model.path=/no/such/model",
            "actor_rollout_ref.model.path: there is no folder /no/such/model",
        ),
        ("data.train_files=/no/such.parquet", "data.train_files: there is no file /no/such.parquet"),
        ("data.val_files=[/no/such.parquet]", "data.val_files: there is no file /no/such.parquet"),
        (
            "reward.reward_manager.name=dapo",
            "reward.reward_manager.name=dapo: redit has settings, but this manager does not read them; set",
        ),
        (
            "actor_rollout_ref.model.path=no/such/model",
            "actor_rollout_ref.model.path: there is no folder no/such/model",
        ),
        ("trainer.use_v1=false", "trainer.use_v1=false: the legacy trainer tells neither step nor session"),
        ("trainer.default_local_dir=/dev/null/x", "trainer.default_local_dir: cannot write to /dev/null/x: Not a dir"),
        ("host.platform=npu", "host.platform=npu: there is cpu alone"),
        ("redit.inner=redit", "redit.inner: 'redit' cannot wrap itself"),
        ("+redit.sdt=1", "redit.sdt: unknown key; did you mean 'std'?"),
    ],
)
def test_a_mistake_is_told_by_the_name_of_its_setting(config, override, expected):
    assert expected in message(config(override))


@pytest.fixture
def resumed(config, tmp_path):
    """A run that finds a checkpoint of the closed loop in its folder, with overrides."""
    checkpoint = tmp_path / "checkpoints" / "global_step_1"
    save_state(configured_plugins(config()), checkpoint)
    (checkpoint.parent / "latest_checkpointed_iteration.txt").write_text("1")
    return config


def test_a_checkpoint_of_the_closed_loop_is_resumed_in_the_closed_loop_with_the_same_settings(resumed):
    closed = "trainer.v1.trainer_mode=redit_sync"
    check(resumed(closed))
    assert "was written with redit.std=0.0289, this run has 0.5" in message(resumed(closed, "redit.std=0.5"))
    assert "was written with the closed-loop plugins [redit], this run has []" in message(resumed())
    check(resumed("trainer.resume_mode=disable", "redit.std=0.5"))


def test_a_search_does_not_go_on_from_another_run_s_checkpoint(resumed, tmp_path):
    (tmp_path / "checkpoints/global_step_1/actor").mkdir()
    search = [
        "trainer.v1.trainer_mode=redit_sync", "+flexora=search", "actor_rollout_ref.model.lora_rank=8",
        "data.train_batch_size=1", "flexora.search_steps=1",
    ]  # fmt: skip
    assert "global_step_1/actor is no checkpoint of a search; begin a new run" in message(resumed(*search))


def test_a_checkpoint_that_does_not_exist_is_told(config):
    missing = ["trainer.resume_mode=resume_path", "trainer.resume_from_path=/no/global_step_1"]
    assert "trainer.resume_from_path: there is no folder /no/global_step_1" in message(config(*missing))


def test_a_hub_name_and_a_remote_file_are_not_looked_for_here(config):
    check(config("actor_rollout_ref.model.path=Qwen/Qwen2.5-0.5B-Instruct", "data.val_files=hdfs://rows.parquet"))


def test_the_cpu_host_needs_its_environment_variable(config, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "nvidia")
    assert "host: +host=cpu also needs VERL_PLATFORM=cpu" in message(config())


def test_a_run_without_the_suite_is_left_alone(verl_config, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "nvidia")
    check(verl_config("data.train_files=/no/such.parquet"))


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_lives(config, tmp_path):
    other = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys, verl, time; from pathlib import Path; from verl_redit.preflight import _claim; "
            "_claim(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)",
            str(tmp_path / "checkpoints"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        while "held" not in other.stdout.readline():
            assert other.poll() is None, "the first run did not start"
        assert f"trainer.default_local_dir: process {other.pid} is writing its checkpoints" in message(config())
    finally:
        other.kill()
        other.wait()
    check(config())
