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

"""Sets up the demo's folder, runs each arm through ``python -m verl.trainer.main_ppo`` and writes the report.

demo-output/
  model/  train.parquet  test.parquet  setup.json     made once, used again for the same sizes and prompts
  runs/20260131-120000/                               one folder for each demo
    report.html  curves.png  summary.json
    stock-grpo/  with-the-suite/                      command.txt, log.txt, metrics.jsonl, rollouts, validation
"""

import fcntl
import json
import os
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from verl_redit.demo import plugins, report, task
from verl_redit.paft.pool import Template, render
from verl_redit.paft.pool_file import load

STALL_SECONDS = 600
RUN_MARK = "VERL_REDIT_DEMO_RUN"
LONGEST_PROMPT = 96
LONGEST_RESPONSE = 24
TEST_PROBLEMS = 128
POOL = str(Path(__file__).with_name("pool.yaml"))
VOCABULARY = 448


class DemoError(RuntimeError):
    """The demo cannot go on; the message says where to look."""


@dataclass(frozen=True)
class Sizes:
    """How large the demo is; every field is an option of the command."""

    steps: int
    prompts: int
    rollouts: int
    ranks: int
    seed: int
    warm_steps: int
    problems: int

    def setup(self) -> dict[str, int]:
        """What the model and the data depend on."""
        return {name: getattr(self, name) for name in ("seed", "warm_steps", "problems")}


@dataclass(frozen=True)
class Arm:
    """One run: a title and the overrides that make it differ from stock GRPO."""

    title: str
    overrides: list[str] = field(default_factory=list)

    @property
    def folder(self) -> str:
        return self.title.lower().replace(" ", "-")


def arms(sizes: Sizes, std: float) -> list[Arm]:
    """Stock GRPO, which shows every row the same prompt, and the suite; both are validated on the same prompts.

    Stock GRPO gets its one prompt by the pool's data set too, which is there for the validation. The order of the rows
    is that of the policy, so the runs do not see the same problems in a step.

    Args:
        std: of the noise on rewards.
    """
    held_out = len(load(POOL).of_split("held_out"))
    pool = [f"paft.pool={POOL}", f"paft.grid.items={TEST_PROBLEMS // held_out}", f"paft.seed={sizes.seed}"]
    return [
        Arm("stock GRPO", ["+paft=fixed", *pool]),
        Arm(
            "with the suite",
            [
                "trainer.v1.trainer_mode=redit_sync", "+redit=gaussian", f"redit.std={std}", f"redit.seed={sizes.seed}",
                "+paft=cycle", *pool,
                # a demo is too short for evidence
                "+flexora=one_run", f"flexora.search_steps={max(1, sizes.steps // 3)}", "flexora.switch=keep",
                "flexora.accept_noise=true", f"flexora.seed={sizes.seed}",
            ],
        ),
    ]  # fmt: skip


def run_demo(out: Path, sizes: Sizes, std: float, console: Console) -> Path:
    """Do it all; returns the report's path.

    Args:
        std: of the noise on rewards.

    Raises:
        DemoError: another demo uses the folder, or a run failed.
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with _only_demo_in(out):
        pool = load(POOL)
        accuracy = prepare(out, sizes, console, pool.of_split("train"))
        run = out / "runs" / time.strftime("%Y%m%d-%H%M%S")
        stock, suite = arms(sizes, std)
        folders = {arm.title: run / arm.folder for arm in (stock, suite)}
        for arm in (stock, suite):
            train(command(out, folders[arm.title], sizes, arm), folders[arm.title], arm.title, sizes, console)
        steps = report.training_steps(folders[suite.title] / "metrics.jsonl")
        parts = plugins.parts(folders[stock.title], folders[suite.title], steps, pool)
        path = report.write(run, folders, asdict(sizes), accuracy, parts, console)
    console.print(f"[bold]Look at[/] {path}")
    return path


@contextmanager
def _only_demo_in(out: Path):
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoError(f"another demo is running in {out}; wait for it, or give this one --out") from error
        yield


def prepare(
    out: Path, sizes: Sizes, console: Console, templates: Sequence[Template] = (), vocabulary: int = VOCABULARY
) -> float:
    """Make the data and the warm-started model, or find them; returns the model's accuracy on the test set.

    Args:
        templates: the prompts of the warm start and of that accuracy; without any, the bare questions.
        vocabulary: of the tokenizer.
    """
    texts = [[template.system, template.user] for template in templates]
    done, setup = out / "setup.json", {**sizes.setup(), "templates": texts, "vocabulary": vocabulary}
    if done.is_file() and (found := json.loads(done.read_text())).get("setup") == setup:
        console.print(f"using the model and the data in {out}, accuracy {found['accuracy']:.0%}")
        return found["accuracy"]
    done.unlink(missing_ok=True)  # what it describes is about to be replaced
    with console.status("importing torch and transformers"):
        from verl_redit.demo import model

    training = task.problems(sizes.problems, sizes.seed, "train")
    test = task.problems(TEST_PROBLEMS, sizes.seed, "test")

    def ask(problem: task.Problem, draw: random.Random) -> list[dict[str, str]]:
        return render(draw.choice(templates), {"question": problem.question}) if templates else model.bare(problem)

    words = [turn["content"] for template in templates for turn in render(template, {"question": ""})]
    solved = [f"{problem.question}\n{problem.solution()}" for problem in training]
    tokenizer = model.build_tokenizer([*words, *solved], vocabulary)
    with _progress(console) as progress:
        bar = progress.add_task("warm start", total=sizes.warm_steps)
        weights = model.warm_start(
            training,
            tokenizer,
            sizes.seed,
            sizes.warm_steps,
            lambda step, loss: progress.update(bar, completed=step, description=f"warm start, loss {loss:.2f}"),
            ask,
        )
    accuracy = model.sampled_accuracy(weights, tokenizer, test, sizes.seed, ask)
    console.print(f"the model answers {accuracy:.0%} of {len(test)} test problems, under the prompts of its warm start")
    model.save(weights, tokenizer, out / "model")
    task.write_rows(training, "train", out / "train.parquet")
    task.write_rows(test, "test", out / "test.parquet")
    done.write_text(json.dumps({"setup": setup, "accuracy": accuracy}))
    return accuracy


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def command(out: Path, folder: Path, sizes: Sizes, arm: Arm) -> list[str]:
    """The command of one arm: verl's entry point, LoRA on, GRPO."""
    return [sys.executable, "-m", "verl.trainer.main_ppo", *arm.overrides, *settings(out, folder, sizes, arm.folder)]


def settings(out: Path, folder: Path, sizes: Sizes, name: str) -> list[str]:
    """What all arms have, as overrides."""
    batch = sizes.prompts
    return [
        "+host=cpu",
        "algorithm.adv_estimator=grpo",
        f"data.train_files={out / 'train.parquet'}",
        f"data.val_files={out / 'test.parquet'}",
        f"data.train_batch_size={batch}",
        f"data.max_prompt_length={LONGEST_PROMPT}",
        f"data.max_response_length={LONGEST_RESPONSE}",
        f"data.seed={sizes.seed}",
        f"actor_rollout_ref.model.path={out / 'model'}",
        "actor_rollout_ref.model.lora_rank=32",
        "actor_rollout_ref.model.lora_alpha=64",
        "actor_rollout_ref.model.target_modules=all-linear",
        # whole weights go to vLLM, which on CPUs is several times as fast without adapters
        "actor_rollout_ref.model.lora.merge=true",
        "actor_rollout_ref.actor.optim.lr=1e-3",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={batch}",
        f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={batch * sizes.rollouts // sizes.ranks}",
        "actor_rollout_ref.actor.use_kl_loss=false",
        f"actor_rollout_ref.rollout.n={sizes.rollouts}",
        f"actor_rollout_ref.rollout.max_model_len={2 * LONGEST_PROMPT}",
        f"actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu={batch * sizes.rollouts // sizes.ranks}",
        "actor_rollout_ref.rollout.val_kwargs.do_sample=true",
        "actor_rollout_ref.rollout.val_kwargs.temperature=1.0",
        f"actor_rollout_ref.rollout.val_kwargs.n={report.VALIDATION_SAMPLES}",
        f"trainer.n_gpus_per_node={sizes.ranks}",
        "trainer.total_epochs=1000",
        f"trainer.total_training_steps={sizes.steps}",
        "trainer.test_freq=10",
        "trainer.logger=[console,file]",
        f"trainer.rollout_data_dir={folder / 'rollouts'}",
        f"trainer.validation_data_dir={folder / 'validation'}",
        f"trainer.default_local_dir={folder / 'checkpoints'}",
        "trainer.project_name=verl-redit-demo",
        f"trainer.experiment_name={name}",
        f"hydra.run.dir={folder / 'hydra'}",
    ]  # fmt: skip


def environment(ranks: int, metrics: Path) -> dict[str, str]:
    """What a run needs in its environment; processors are shared out unless that is set, as ranks that contend are
    slower."""
    return {
        "VERL_PLATFORM": "cpu",
        "VERL_FILE_LOGGER_PATH": str(metrics),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks))),
    }


def train(arguments: list[str], folder: Path, title: str, sizes: Sizes, console: Console) -> None:
    """Run one command to its end, with a progress bar read from its metrics.

    Ctrl-C, a failure and a stall end every process the run has started, Ray's among them.
    """
    folder.mkdir(parents=True)
    metrics, log = folder / "metrics.jsonl", folder / "log.txt"
    variables = environment(sizes.ranks, metrics)
    shell_line = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    (folder / "command.txt").write_text(f"{shell_line} {shlex.join(arguments)}\n")
    mark = f"{os.getpid()}-{time.time_ns()}"
    with _progress(console) as progress, log.open("w") as output:
        bar = progress.add_task(f"{title}: starting verl, Ray and vLLM", total=sizes.steps)
        process = subprocess.Popen(
            arguments,
            env={**os.environ, **variables, RUN_MARK: mark},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while (code := _wait(process)) is None:
                if seen := report.training_steps(metrics):
                    progress.update(bar, completed=seen[-1]["step"], description=title)
                if time.time() - log.stat().st_mtime > STALL_SECONDS:
                    raise DemoError(f"{title}: no output for {STALL_SECONDS} s; {first_error(log)}")
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
    """The first line of the log that tells of an error: later ones are often its echoes."""
    for line in log.read_text(errors="replace").splitlines():
        # Hydra tells that there is an error, and the whole command, before what it is
        if "Error" in line and "Warning" not in line and not line.startswith("Error executing job"):
            return f"first error: {line.strip()}\nthe whole log is {log}"
    return f"the log is {log}"


def _end_processes(process: subprocess.Popen, mark: str) -> None:
    """End the run and whatever it left: every process carries the run's mark in its environment."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
    for end in (psutil.Process.terminate, psutil.Process.kill):
        left = [other for other in psutil.process_iter() if _has_mark(other, mark)]
        for other in left:
            with suppress(psutil.NoSuchProcess):
                end(other)
        psutil.wait_procs(left, timeout=10)


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(RUN_MARK) == mark
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False
