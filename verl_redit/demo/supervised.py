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

"""verl's supervised trainer on the demo's rows, without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

from verl_redit.demo.process import DemoError, environment, first_error


def train(model: Path, rows: Path, folder: Path, *overrides: str, ranks: int) -> None:
    """Run ``verl.trainer.sft_trainer`` with FSDP2 to its end; its log, metrics and checkpoints are in the folder.

    Raises:
        DemoError: it failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}",
        "-m", "verl.trainer.sft_trainer", "+host=cpu_sft", f"trainer.n_gpus_per_node={ranks}",
        f"data.train_files={rows}", f"model.path={model}", "optim.lr=1e-3",
        f"trainer.default_local_dir={folder / 'checkpoints'}", "trainer.logger=[console,file]",
        f"hydra.run.dir={folder / 'hydra'}", *overrides,
    ]  # fmt: skip
    log = folder / "log.txt"
    settings = environment(ranks, folder / "metrics.jsonl")
    with log.open("w") as output:
        code = subprocess.run(
            arguments, env={**os.environ, **settings}, stdout=output, stderr=output, cwd=folder
        ).returncode
    if code:
        raise DemoError(f"verl stopped with exit code {code}; {first_error(log)}")
