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

from verl_redit.demo import process
from verl_redit.demo.process import DemoError, run_to_end
from verl_redit.demo.workspace import Sizes

SIZES = Sizes(steps=3, prompts=4, rollouts=2, ranks=1, seed=7, warm_steps=1, problems=8)
SLEEP = ["sleep", "60.25"]  # no other program on the machine sleeps as long
SLEEPING_CHILD = f"import subprocess, sys; subprocess.Popen({SLEEP}, start_new_session=True)"


def train(folder, code):
    run_to_end([sys.executable, "-c", code], folder, "arm", SIZES, Console(quiet=True))


def sleepers() -> set[int]:
    return {found.pid for found in psutil.process_iter(["cmdline"]) if found.info["cmdline"] == SLEEP}


def test_a_failed_run_shows_its_first_error_and_its_log(tmp_path):
    code = "print('starting'); print('ValueError: the first'); print('BufferError: an echo'); raise SystemExit(3)"
    with pytest.raises(DemoError) as error:
        train(tmp_path / "run", code)
    assert "exit code 3; first error: ValueError: the first" in str(error.value)
    assert str(tmp_path / "run" / "log.txt") in str(error.value)


def test_the_reasons_that_a_run_is_refused_for_are_shown(tmp_path):
    code = "raise ValueError('cannot start:\\n  - this: mend it\\n  - that')"
    with pytest.raises(DemoError) as error:
        train(tmp_path / "run", code)
    assert "first error: ValueError: cannot start:\n  - this: mend it\n  - that\nthe whole log" in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        "\x1b[36m(TaskRunnerV1 pid=14800)\x1b[0m torch.AcceleratorError: out of memory",
        "ray.exceptions.RayTaskError(ZeroDivisionError): ray::run()",
        "verl_redit.preflight.ConfigError: no",
        "AssertionError",
        "verl_redit.redit.failure.TrainingStopped: the scorer",
    ],
)
def test_an_error_is_found_where_it_is_raised(tmp_path, line):
    log = tmp_path / "log.txt"
    log.write_text(
        f"UserWarning: ValueErrors\n    raise ConfigError(text)\nError executing job with []\n{line}\nmore\n"
    )
    assert process.first_error(log).startswith(f"first error: {line.strip()}\nthe whole log")


def test_a_silent_run_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "STALL_SECONDS", 2)
    script = tmp_path / "silent.py"
    script.write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    before = sleepers()
    with pytest.raises(DemoError, match="no output for 2 s") as error:
        train(tmp_path / "run", SLEEPING_CHILD + f"; import runpy; runpy.run_path({str(script)!r})")
    assert f'a process stood at\n  File "{script}", line 3 in <module>' in str(error.value)
    assert sleepers() == before


def test_no_process_is_left_even_one_that_left_the_group(tmp_path):
    before = sleepers()
    train(tmp_path / "run", SLEEPING_CHILD)
    assert sleepers() == before


def test_ctrl_c_leaves_no_process(tmp_path):
    before = sleepers()
    code = (
        # a shell lets what it starts in the background ignore ctrl-C
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import sys; from pathlib import Path; from rich.console import Console; "
        "from verl_redit.demo import process, workspace; "
        f"process.run_to_end([sys.executable, '-c', {SLEEPING_CHILD + '; import time; time.sleep(60)'!r}], "
        f"Path(sys.argv[1]), 'arm', workspace.{SIZES!r}, Console(quiet=True))"
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
