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
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from verl_redit.demo import plugins, report
from verl_redit.demo.process import DemoError, run_to_end
from verl_redit.demo.workspace import TEST_PROBLEMS, Sizes, prepare
from verl_redit.paft.pool_file import load

LONGEST_PROMPT = 96
LONGEST_RESPONSE = 24
POOL = str(Path(__file__).with_name("pool.yaml"))


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
            run_to_end(command(out, folders[arm.title], sizes, arm), folders[arm.title], arm.title, sizes, console)
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
