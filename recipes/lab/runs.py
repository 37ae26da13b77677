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
"""Many runs of verl's own trainer side by side, each judged by verl's validation after its last step."""

import os
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from verl_redit.demo import run
from verl_redit.demo.process import run_once
from verl_redit.demo.run import Arm
from verl_redit.demo.workspace import Sizes


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        folder: where it goes.
        overrides: what makes it differ from the demo's GRPO.
        sizes: the demo's, with the seed of the rows' order.
        samples: answers to each problem in validation.
    """

    folder: Path
    overrides: list[str]
    sizes: Sizes
    samples: int

    @property
    def dump(self) -> Path:
        """Of the validation."""
        return self.folder / "validation" / f"{self.sizes.steps}.jsonl"

    def command(self, workspace: Path) -> list[str]:
        """verl's entry point; the workspace has the model and the rows."""
        return [
            *run.command(workspace, self.folder, self.sizes, Arm(self.folder.name, self.overrides)),
            f"actor_rollout_ref.rollout.seed={self.sizes.seed}",
            f"actor_rollout_ref.rollout.val_kwargs.n={self.samples}",
            "trainer.val_before_train=false",
            f"trainer.test_freq={self.sizes.steps}",
        ]


def run_all(jobs: list[Job], workspace: Path, processes: int, console: Console) -> None:
    """Make the runs that are not finished, as `wait_for` says; processors are shared out."""
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    with ThreadPoolExecutor(processes) as pool:
        wait_for(pool, [pool.submit(_run, job, workspace) for job in jobs], "runs", console)


def wait_for(pool: Executor, started: list[Future], title: str, console: Console) -> None:
    """Wait with a progress bar; after a failure, or ctrl-C, what has begun goes to its end and nothing else begins."""
    try:
        for done in track(as_completed(started), title, total=len(started), console=console):
            done.result()
    except BaseException:  # ctrl-C too
        pool.shutdown(cancel_futures=True)
        raise


def _run(job: Job, workspace: Path) -> None:
    title = f"{job.folder.parent.name}/{job.folder.name}"
    run_once(job.command(workspace), job.folder, title, job.sizes, Console(quiet=True))
