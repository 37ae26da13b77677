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

"""``verl-redit flexora``: look at layer selections, compare them, paste them, and choose anew."""

import shlex
from dataclasses import asdict
from itertools import combinations, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from verl_redit.cli.output import Json, console, errors, print_json, told

if TYPE_CHECKING:
    from verl_redit.flexora.selection import Selection

app = typer.Typer(no_args_is_help=True, help="Layer selections: look at them, compare them, choose anew.")


SelectionFile = Annotated[Path, typer.Argument(metavar="SELECTION", help="The selection.json of a search.")]


@app.command()
@told(ValueError)
def show(
    selection: SelectionFile,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(dir_okay=False, help="Write a page that needs no other file.")] = None,
    png: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write a picture: bars, or a heat map with grain=module."),
    ] = None,
) -> None:
    """Show what was chosen, from which scores, and whether it is more than chance."""
    from verl_redit.flexora import pictures, report
    from verl_redit.flexora.selection import load

    loaded = load(selection)
    if html:
        report.write_page(loaded, html)
    if png:
        png.parent.mkdir(parents=True, exist_ok=True)
        pictures.draw(loaded).savefig(png, format="png")
    if as_json:
        print_json({"summary": loaded.summary, **asdict(loaded)})
        return
    report.print_report(loaded, console)
    for file in filter(None, (html, png)):
        console.out(f"written: {file}")


@app.command()
@told(ValueError)
def compare(
    selections: Annotated[
        list[Path], typer.Argument(metavar="SELECTION SELECTION...", help="Two or more of the same units.")
    ],
    as_json: Json = False,
) -> None:
    """Tell how far selections agree: on what is chosen, and on the order of the scores."""
    import numpy as np

    from verl_redit.flexora.evidence import correlation, jaccard
    from verl_redit.flexora.selection import load

    if len(selections) < 2:
        raise typer.BadParameter("one selection; give two or more", param_hint="SELECTION")
    loaded = [load(file) for file in selections]
    for file, other in zip(selections[1:], loaded[1:], strict=True):
        _refuse_other_units(selections[0], loaded[0], file, other)
    chosen = [np.array([unit.chosen for unit in selection.units]) for selection in loaded]
    scores = [np.array([unit.score for unit in selection.units]) for selection in loaded]
    pairs = [
        {
            "left": str(selections[left]),
            "right": str(selections[right]),
            "jaccard": jaccard(chosen[left], chosen[right]),
            "chance_jaccard": _chance_jaccard(len(chosen[left]), int(chosen[left].sum()), int(chosen[right].sum())),
            "correlation": correlation(scores[left], scores[right]),
        }
        for left, right in combinations(range(len(loaded)), 2)
    ]
    if as_json:
        summaries = {str(file): selection.summary for file, selection in zip(selections, loaded, strict=True)}
        print_json({"units": len(loaded[0].units), "selections": summaries, "pairs": pairs})
        return
    for file, selection in zip(selections, loaded, strict=True):
        console.out(f"{file}: {selection.summary}")
    table = Table("selections", "Jaccard index", "expected by chance", "rank correlation", box=box.SIMPLE_HEAD)
    table.columns[0].overflow = "fold"
    for pair in pairs:
        figures = (f"{pair[name]:.2f}" for name in ("jaccard", "chance_jaccard", "correlation"))
        table.add_row(Text(f"{pair['left']}\n{pair['right']}"), *figures)
    console.print(table)


def _refuse_other_units(file: Path, selection: "Selection", other_file: Path, other: "Selection") -> None:
    names = ([unit.name for unit in each.units] for each in (selection, other))
    for number, (name, other_name) in enumerate(zip_longest(*names, fillvalue="missing"), start=1):
        if name != other_name:
            raise ValueError(
                f"{file} and {other_file} have different units: number {number} is {name} in the first and "
                f"{other_name} in the second; compare searches of one model with the same target_modules and grain"
            )


def _chance_jaccard(units: int, left: int, right: int) -> float:
    """Mean Jaccard index of two choices of these sizes, drawn apart."""
    import numpy as np
    from scipy.stats import hypergeom

    shared = np.arange(min(left, right) + 1)
    return float((hypergeom.pmf(shared, units, left, right) * shared / (left + right - shared)).sum())


@app.command()
@told(ValueError)
def regex(
    selection: SelectionFile,
    sft: Annotated[bool, typer.Option("--sft", help="For verl's supervised trainer.")] = False,
) -> None:
    """Print the verl setting that trains the chosen layers alone, quoted for the shell."""
    from hydra.core.override_parser.types import Quote, QuotedString

    from verl_redit.flexora.selection import load

    loaded = load(selection)
    if loaded.beats_chance is False:  # on stderr, so that the output can be pasted or substituted as it is
        warning = f"warning: {selection}: {loaded.summary}. Layers chosen at random may do as well"
        errors.out(f"{warning}; search for more steps, or use all layers", style="yellow", highlight=False)
    pattern = loaded.exclude_modules
    value = "null" if pattern is None else QuotedString(pattern, Quote.double).with_quotes()
    print(shlex.quote(f"{'' if sft else 'actor_rollout_ref.'}model.exclude_modules={value}"))


@app.command()
@told(ValueError)
def select(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="The record.jsonl of a search.")],
    out: Annotated[Path, typer.Option(help="The new selection, a .json file that is not there yet.")],
    rule: Annotated[str | None, typer.Option(help="top_k, budget, positive or z_score; else the search's.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="Units that top_k keeps.")] = None,
    budget: Annotated[float | None, typer.Option(help="Share of LoRA parameters that budget keeps.")] = None,
    z: Annotated[float | None, typer.Option("--z", help="Standard deviations above the mean for z_score.")] = None,
) -> None:
    """Choose anew from what a search has measured, by another rule."""
    from verl_redit.flexora.config import OPTION_OF_RULE, FlexoraConfig
    from verl_redit.flexora.record import read
    from verl_redit.flexora.selection import conclude
    from verl_redit.settings import parse

    if out.exists():
        raise ValueError(f"--out {out}: it is there already; give a new name, or remove it")
    searched = read(record)
    given = {"rule": rule, "k": k, "budget": budget, "z": z}
    given = {key: value for key, value in given.items() if value is not None}
    of_rules = {"rule", *OPTION_OF_RULE.values()}
    same = rule in (None, searched.settings["rule"])
    before = {key: value for key, value in searched.settings.items() if same or key not in of_rules}
    wanted = parse(FlexoraConfig, {**before, **({} if rule is None else {"rule": rule})}, "flexora").rule
    for option in given.keys() - {"rule", OPTION_OF_RULE.get(wanted)}:
        raise ValueError(f"--{option} {given[option]}: rule={wanted} does not read it; give --rule as well")
    settings = parse(FlexoraConfig, {**before, **given}, "flexora")
    selection = conclude(searched, settings)
    selection.write(out)
    console.out(f"{selection.summary}; written to {out}")


@app.command()
@told(ValueError)
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="global_step_K/actor of an RL run, or a supervised global_step_K."),
    ],
    out: Annotated[Path, typer.Option(help="A new or empty folder.")],
    base_model: Annotated[str | None, typer.Option(help="Name or path of the model that the adapter is for.")] = None,
) -> None:
    """Write a checkpoint's LoRA as a plain PEFT adapter, on exactly the modules that were trained."""
    from verl_redit.flexora.export import export as write

    done = write(checkpoint, out, base_model)
    left_out = f"; left out, as their B is zero: {len(done.left_out)}" if done.left_out else ""
    console.out(f"{out}: LoRA on {len(done.modules)} modules{left_out}")
