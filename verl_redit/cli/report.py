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

"""``verl-redit report``: pages from what runs have written."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from verl_redit.cli.output import told


class _RunsUnlessNamed(TyperGroup):
    """``report DIR…`` is ``report runs DIR…``."""

    def parse_args(self, ctx, args):
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["runs", *args]
        elif args and Path(args[0]).is_dir():
            typer.secho(f"{args[0]} is the command here; the folder of that name is ./{args[0]}", fg="yellow", err=True)
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunsUnlessNamed,
    no_args_is_help=True,
    help="Reports on runs, from the files that verl wrote. `report DIR…` is `report runs DIR…`.",
    pretty_exceptions_enable=False,
)
console = Console()


@app.command()
def runs(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR|LOG", exists=True, help="An arm; each log below is a run of it, a seed. The first is the base."
        ),
    ],
    metric: Annotated[
        str | None, typer.Option(help="What is compared; without it, validation accuracy, or else reward or loss.")
    ] = None,
    target: Annotated[float | None, typer.Option(help="For steps to target; without it, the base's value.")] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Without it, the last that all runs have.")] = None,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for the page, curves.png and summary.json.")
    ] = Path("runs-report"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON instead of a table.")] = False,
) -> None:
    """Compare runs by the logs of verl's file logger; they may still be going, or have crashed."""
    from verl_redit.comparison import figures, logs, page

    with told(logs.LogError):
        arms = logs.read_arms(folders)
        comparison = figures.compare(arms, metric, target, step)
    path = page.write_page(comparison, arms, out)
    if as_json:
        sys.stdout.write(page.as_json(comparison) + "\n")
    else:
        page.print_comparison(comparison, console)
        console.print(f"page: {escape(str(path))}", soft_wrap=True)


@app.command()
def robustness(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR", help="Run folders with dumps in validation/, or those; the first is the base."),
    ],
    step: Annotated[int | None, typer.Option(min=0, help="Training step; without it, each run's last.")] = None,
    bar: Annotated[float, typer.Option(min=0.0, max=1.0, help="Accuracy from which a template counts as good.")] = 0.85,
    tokenizer: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Model folder, to count tokens instead of characters."),
    ] = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the page and summary.json.")] = Path(
        "robustness-report"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON instead of tables.")] = False,
) -> None:
    """How much accuracy depends on the template, from validation on a grid of templates and items."""
    from verl_redit.paft.robustness import dumps, report
    from verl_redit.paft.robustness.scores import make_report

    with told(dumps.DumpError):
        lengths = dumps.token_counter(tokenizer) if tokenizer else dumps.count_characters
        runs = dumps.read_runs(folders, step, lengths)
    scores = make_report(runs, bar, "tokens" if tokenizer else "characters")
    page = report.write_report(scores, runs, out)
    if as_json:
        sys.stdout.write(scores.json() + "\n")
    else:
        report.print_report(scores, console)
        console.print(f"page: {escape(str(page))}", soft_wrap=True)
