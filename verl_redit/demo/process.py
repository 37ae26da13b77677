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

"""Runs one command to its end, with a progress bar read from its metrics, and ends every process it has started."""

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
from rich.console import Console

from verl_redit.demo import report
from verl_redit.demo.workspace import Sizes

STALL_SECONDS = 600
RUN_MARK = "VERL_REDIT_DEMO_RUN"
# as Python ends a traceback, perhaps with what Ray and colours put before it
RAISED = re.compile(r"(\S*\([^)]*pid=[^)]*\)\S* +)?[\w.]+(Error|Exception|Interrupt|Stopped)(\(\w+\))?(: |$)")

# as faulthandler writes the innermost calls of the thread that a signal reached
STOOD = re.compile(r"^Current thread .*\n((?:  File .*\n){1,8})", re.MULTILINE)


class DemoError(ValueError):
    """The demo cannot go on; the message says where to look."""


def environment(ranks: int, metrics: Path) -> dict[str, str]:
    """What a run needs in its environment; processors are shared out unless that is set, as ranks that contend are
    slower."""
    return {
        "VERL_PLATFORM": "cpu",
        "VERL_FILE_LOGGER_PATH": str(metrics),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks))),
    }


def run_once(arguments: list[str], folder: Path, title: str, sizes: Sizes, console: Console) -> None:
    """`run_to_end`, unless it has been; what a run that failed has left is removed."""
    done = folder / "done"
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        run_to_end(arguments, folder, title, sizes, console)
        done.touch()


def run_to_end(arguments: list[str], folder: Path, title: str, sizes: Sizes, console: Console) -> None:
    """Run one command to its end, with a progress bar read from its metrics.

    Ctrl-C, a failure and a stall end every process the run has started, Ray's among them.
    """
    folder.mkdir(parents=True)
    metrics, log = folder / "metrics.jsonl", folder / "log.txt"
    variables = environment(sizes.ranks, metrics)
    shell_line = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    (folder / "command.txt").write_text(f"{shell_line} {shlex.join(arguments)}\n")
    mark = f"{os.getpid()}-{time.time_ns()}"
    with report.progress_bar(console) as progress, log.open("w") as output:
        written, since = 0, time.monotonic()  # a clock that stands still while the machine sleeps
        bar = progress.add_task(f"{title}: starting verl, Ray and vLLM", total=sizes.steps)
        process = subprocess.Popen(
            arguments,
            env={**os.environ, **variables, "PYTHONFAULTHANDLER": "1", RUN_MARK: mark},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while (code := _wait(process)) is None:
                if seen := report.training_steps(metrics):
                    progress.update(bar, completed=len(seen), description=title)
                if (size := log.stat().st_size) != written:
                    written, since = size, time.monotonic()
                elif time.monotonic() - since > STALL_SECONDS:
                    where = _abort(mark, log)
                    raise DemoError(f"{title}: no output for {STALL_SECONDS} s{where}; {first_error(log)}")
            progress.update(bar, completed=len(report.training_steps(metrics)), description=title)
        finally:
            _end_processes(process, mark)
    if code != 0:
        raise DemoError(f"{title}: verl stopped with exit code {code}; {first_error(log)}")


def _wait(process: subprocess.Popen) -> int | None:
    try:
        return process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return None


def first_error(log: Path) -> str:
    """The first error in the log, with the lines that belong to it: later ones are often its echoes."""
    lines = iter(log.read_text(errors="replace").splitlines())
    for line in lines:
        if RAISED.match(line):
            rest = itertools.takewhile(lambda line: line.startswith("  "), lines)
            return f"first error: {line.strip()}\n" + "".join(f"{line}\n" for line in rest) + f"the whole log is {log}"
    return f"the log is {log}"


def _marked(mark: str) -> list[psutil.Process]:
    """The run's processes: each carries its mark in its environment."""
    return [process for process in psutil.process_iter() if _has_mark(process, mark)]


def _abort(mark: str, log: Path) -> str:
    """Have Python write where each process stands, and end it; returns the innermost calls of each main thread."""
    before = log.stat().st_size
    for process in sorted(_marked(mark), key=psutil.Process.create_time):  # who watches over others first
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGABRT)
            psutil.wait_procs([process], timeout=5)
    stood = STOOD.findall(log.read_bytes()[before:].decode(errors="replace"))
    return "".join(f"\na process stood at\n{calls.rstrip()}" for calls in stood)


def _end_processes(process: subprocess.Popen, mark: str) -> None:
    """End the run and whatever it left."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
    for end in (psutil.Process.terminate, psutil.Process.kill):
        left = _marked(mark)
        for other in left:
            with suppress(psutil.NoSuchProcess):
                end(other)
        psutil.wait_procs(left, timeout=10)


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(RUN_MARK) == mark
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False
