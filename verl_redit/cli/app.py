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

"""The commands of ``verl-redit``: ``doctor`` and ``demo``; each group has a file of its own."""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from verl_redit.cli import flexora, pool, report
from verl_redit.cli.output import told

app = typer.Typer(no_args_is_help=True, help="Plugins for verl.", pretty_exceptions_enable=False)
app.add_typer(flexora.app, name="flexora")
app.add_typer(pool.app, name="pool")
app.add_typer(report.app, name="report")
console = Console()


@app.callback()
def _commands() -> None:
    """Plugins for verl: reward dithering, prompt pools, layer selection, and a host for machines without a GPU."""


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False) -> None:
    """Check the installation here and inside a fresh Ray worker. Exit code 1 if anything is wrong."""
    from verl_redit.doctor import examine

    if as_json:
        with redirect_stdout(sys.stderr):  # vLLM and Ray print what they like
            checks = list(examine())
        json.dump({"ok": all(check.ok for check in checks), "checks": [asdict(check) for check in checks]}, sys.stdout)
        print()
    else:
        table = Table("where", "check", "", "found", "what to do")
        checks = []
        with console.status("importing verl and vLLM, then starting a Ray worker (about a minute)"):
            for check in examine():
                checks.append(check)
                mark = "[green]ok[/]" if check.ok else "[red]wrong[/]"
                table.add_row(check.where, check.name, mark, check.found, "" if check.ok else check.mend)
        console.print(table)
        wrong = sum(not check.ok for check in checks)
        console.print(f"{wrong} of {len(checks)} checks are wrong" if wrong else f"all {len(checks)} checks are right")
    raise typer.Exit(code=int(any(not check.ok for check in checks)))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the model, the data and the runs.")] = Path("demo-output"),
    steps: Annotated[int, typer.Option(min=1, help="GRPO steps of each run.")] = 20,
    prompts: Annotated[int, typer.Option(min=2, help="Prompts in a step.")] = 16,
    rollouts: Annotated[int, typer.Option(min=2, help="Rollouts of each prompt: the group size.")] = 8,
    ranks: Annotated[int, typer.Option(min=1, help="FSDP ranks, each a process.")] = 2,
    std: Annotated[float, typer.Option(min=0.0, help="Standard deviation of the noise, reward range 1.")] = 0.0289,
    seed: Annotated[int, typer.Option(help="Of the data, the model, the order and all draws.")] = 0,
    warm_steps: Annotated[int, typer.Option(min=0, help="Batches of supervised warm start.")] = 450,
    problems: Annotated[int, typer.Option(min=1, help="Training problems.")] = 2048,
) -> None:
    """Run GRPO with and without the three plugins through verl's own trainer, here and now, and draw the curves."""
    from verl_redit.demo.process import DemoError
    from verl_redit.demo.run import run_demo
    from verl_redit.demo.workspace import Sizes

    if problems < prompts:
        raise typer.BadParameter(f"--problems {problems}: fewer than the {prompts} prompts of a step; give more")
    if prompts * rollouts % ranks:
        raise typer.BadParameter(f"--ranks {ranks}: do not share {prompts} × {rollouts} rollouts evenly; change one")
    sizes = Sizes(
        steps=steps, prompts=prompts, rollouts=rollouts, ranks=ranks, seed=seed, warm_steps=warm_steps,
        problems=problems,
    )  # fmt: skip
    with told(DemoError):
        run_demo(out, sizes, std, console)
