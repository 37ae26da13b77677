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

import signal
import subprocess
import sys
import time

import psutil
import pytest
from rich.console import Console

from verl_redit.demo import run
from verl_redit.demo.run import DemoError, Sizes
from verl_redit.paft.checks import defects
from verl_redit.paft.pool_file import load

SIZES = Sizes(steps=3, prompts=4, rollouts=2, ranks=1, seed=7, warm_steps=1, problems=8)
SLEEP = ["sleep", "60.25"]  # no other program on the machine sleeps as long
SLEEPING_CHILD = f"import subprocess, sys; subprocess.Popen({SLEEP}, start_new_session=True)"


def train(folder, code):
    run.train([sys.executable, "-c", code], folder, "arm", SIZES, Console(quiet=True))


def sleepers() -> set[int]:
    return {process.pid for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == SLEEP}


def test_the_arms_differ_by_their_overrides_alone(tmp_path):
    arms = run.arms(SIZES, 0.05)
    stock, suite = (run.command(tmp_path, tmp_path / "run", SIZES, arm) for arm in arms)
    assert stock[1:3] == ["-m", "verl.trainer.main_ppo"]
    shared = [
        [word for word in command if word not in arm.overrides and not word.startswith("trainer.experiment_name=")]
        for command, arm in zip((stock, suite), arms, strict=True)
    ]
    assert shared[0] == shared[1]


def test_the_demos_arms_are_validated_alike(tmp_path, verl_config):
    stock, suite = (
        verl_config(*(word for word in run.command(tmp_path, tmp_path / "run", SIZES, arm)[3:] if "hydra." not in word))
        for arm in run.arms(SIZES, 0.05)
    )
    for name in ("pool", "grid", "validation", "seed"):
        assert stock.paft[name] == suite.paft[name]
    assert (stock.paft.policy, suite.paft.policy) == ("fixed", "cycle")
    assert "redit" not in stock and "flexora" not in stock and stock.trainer.v1.trainer_mode == "sync"
    assert suite.redit.std == 0.05 and suite.flexora.search_steps == 1


def test_the_demos_prompts_are_a_sound_pool():
    assert not list(defects(load(run.POOL)))


@pytest.mark.parametrize("arm", run.arms(SIZES, 0.05), ids=lambda arm: arm.folder)
def test_verl_takes_the_command(tmp_path, verl_config, arm):
    command = run.command(tmp_path, tmp_path / "run", SIZES, arm)
    overrides = [word for word in command[3:] if not word.startswith("hydra.")]
    config = verl_config(*overrides)
    assert config.data.train_batch_size == SIZES.prompts
    assert config.actor_rollout_ref.rollout.n == SIZES.rollouts
    assert config.ray_kwargs.ray_init.num_gpus == SIZES.ranks


def test_a_failed_run_shows_its_first_error_and_its_log(tmp_path):
    code = "print('starting'); print('ValueError: the first'); print('BufferError: an echo'); raise SystemExit(3)"
    with pytest.raises(DemoError) as error:
        train(tmp_path / "run", code)
    assert "exit code 3; first error: ValueError: the first" in str(error.value)
    assert str(tmp_path / "run" / "log.txt") in str(error.value)


def test_a_silent_run_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "STALL_SECONDS", 2)
    with pytest.raises(DemoError, match="no output for 2 s"):
        train(tmp_path / "run", "import time; time.sleep(60)")


def test_no_process_is_left_even_one_that_left_the_group(tmp_path):
    before = sleepers()
    train(tmp_path / "run", SLEEPING_CHILD)
    assert sleepers() == before


def test_ctrl_c_leaves_no_process(tmp_path):
    before = sleepers()
    code = (
        # a shell lets what it starts in the background ignore ctrl-C
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import sys; from pathlib import Path; from rich.console import Console; from verl_redit.demo import run; "
        f"run.train([sys.executable, '-c', {SLEEPING_CHILD + '; import time; time.sleep(60)'!r}], "
        f"Path(sys.argv[1]), 'arm', run.{SIZES!r}, Console(quiet=True))"
    )
    demo = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stderr=subprocess.PIPE)
    deadline = time.time() + 300
    while sleepers() == before:
        assert time.time() < deadline and demo.poll() is None
        time.sleep(0.1)
    demo.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in demo.communicate(timeout=300)[1]
    assert sleepers() == before


def test_the_command_can_be_pasted_into_a_shell(tmp_path):
    train(tmp_path / "run", "import os; print(os.environ['VERL_PLATFORM'])")
    line = (tmp_path / "run" / "command.txt").read_text()
    assert subprocess.run(line, shell=True, capture_output=True, text=True, check=True).stdout == "cpu\n"


def test_the_model_and_the_data_are_used_again_for_the_same_sizes(tmp_path, capsys):
    console = Console(width=200)
    accuracy = run.prepare(tmp_path, SIZES, console)
    written = (tmp_path / "train.parquet").stat().st_mtime_ns
    assert run.prepare(tmp_path, SIZES, console) == accuracy
    assert "using the model and the data in" in capsys.readouterr().out
    assert (tmp_path / "train.parquet").stat().st_mtime_ns == written


def test_a_second_demo_in_the_same_folder_is_refused(tmp_path):
    with (
        run._only_demo_in(tmp_path),
        pytest.raises(DemoError, match="another demo is running in .* give this one --out"),
    ):
        with run._only_demo_in(tmp_path):
            pass
