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

"""``verl-redit pool``: make prompt pools from spreadsheets and from language models."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from verl_redit.cli.output import Json, console, errors, print_json, refuse_unknown, table_of, told
from verl_redit.paft import checks, generate, importing
from verl_redit.paft.contracts import CONTRACTS
from verl_redit.paft.pool import SPLITS, TIERS, PoolError
from verl_redit.paft.pool_file import load

Out = Annotated[
    Path,
    typer.Option(help="The pool, a .yaml file; templates are added to one that is there, whose comments are lost."),
]
Fields = Annotated[
    list[str],
    typer.Option(
        "--field",
        help="A placeholder of the templates; give each.",
        default_factory=lambda: ["question"],
        show_default="question",
    ),
]
Contract = Annotated[str, typer.Option(help=f"How answers are stated: {', '.join(CONTRACTS)}.")]


@told(PoolError)
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .csv file in UTF-8, or an .xlsx file.")],
    out: Out,
    contract: Contract,
    field: Fields,
    column: Annotated[str, typer.Option(help="Column with the templates.")] = "text",
    split: Annotated[str, typer.Option(help=f"Of these templates: {' or '.join(SPLITS)}.")] = "train",
    tier: Annotated[str | None, typer.Option(help=f"Of held-out templates: {', '.join(TIERS)}.")] = None,
    append_contract: Annotated[
        bool, typer.Option("--append-contract", help="Tell the contract in a last line where a text does not.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a pool from a spreadsheet of str.format texts, as PAFT's authors publish them.

    Each row becomes a template with the id row-0012, after its row in the spreadsheet, or is dropped with the reason.
    """
    refuse_unknown("--contract", contract, CONTRACTS)
    refuse_unknown("--split", split, SPLITS)
    if tier or split == "held_out":
        refuse_unknown("--tier", tier or "is missing", TIERS)
    pool = importing.open_pool(out, field)
    candidates = importing.read_templates(file, column, pool, split, contract, tier)
    passes = _keep(importing.sift(candidates, pool, append_contract), out, "rows", as_json)
    raise typer.Exit(code=int(not passes))


@told(PoolError)
def generate_(
    out: Out,
    contract: Contract,
    field: Fields,
    endpoint: Annotated[str, typer.Option(help="OpenAI-compatible, such as http://localhost:8000/v1.")],
    model: Annotated[list[str], typer.Option(help="A model there; repeat for more.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Templates of each model, zero-shot and few-shot alike.")] = 20,
    task: Annotated[str, typer.Option(help="What the templates ask a model to do.")] = "solve a problem",
    held_out_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of them that is held out.", show_default="1/9")
    ] = 1 / 9,
    license: Annotated[str, typer.Option(help="SPDX name, for the pool file.")] = "",
    as_json: Json = False,
) -> None:
    """Ask language models for templates, zero-shot and few-shot as PAFT does, and keep those that are fit.

    The API key is OPENAI_API_KEY's. Templates that the pool has are not asked for again: the same command goes on.

    For several endpoints, run it once for each with the same pool.
    """
    refuse_unknown("--contract", contract, CONTRACTS)
    pool = importing.open_pool(out, field)
    asked = generate.requests(model, n, task, pool, contract)
    if there := 2 * n * len(model) - len(asked):
        errors.print(f"{there} templates of these models are in {out} already and are not asked for again")
    replied: list[tuple[generate.Request, str]] = []
    stopped = ""
    try:
        answers = generate.replies(asked, endpoint)
        for body in track(answers, "asking for templates", len(asked), console=errors):
            replied.append((asked[len(replied)], body))
    except (generate.EndpointError, KeyboardInterrupt) as error:
        stopped = str(error) or "interrupted"
    sifted = generate.collect(replied, pool, contract, held_out_share, license)
    passes = _keep(sifted, out, "replies", as_json)
    if stopped:
        raise PoolError(f"stopped after {len(replied)} of {len(asked)} replies: {stopped}; the same command goes on")
    raise typer.Exit(code=int(not passes))


def _keep(sifted: importing.Sifted, out: Path, noun: str, as_json: bool) -> bool:
    """Write the pool, print what became of each candidate; returns whether the pool as written passes the checks."""
    kept = sifted.candidates - sifted.lost
    if kept:
        importing.write(sifted.pool, out)
    left = list(checks.defects(load(str(out)))) if out.is_file() else []
    passes = out.is_file() and not left
    if as_json:
        print_json(
            {
                "ok": passes,
                "candidates": sifted.candidates,
                "kept": kept,
                "dropped": sifted.lost,
                "mends": [asdict(defect) for defect in sifted.mended],
                "drops": [asdict(defect) for defect in sifted.dropped],
                "defects": [asdict(defect) for defect in left],
            }
        )
        return passes
    rows = [(*defect.cells, "mended") for defect in sifted.mended]
    rows += [(*defect.cells, "dropped") for defect in sifted.dropped]
    if rows:
        console.print(table_of(rows, "row", "id", "rule", "what was found", ""))
    console.out(
        f"{noun} in {sifted.candidates} = templates out {kept} + {noun} dropped {sifted.lost}; "
        f"templates mended {len({defect.id for defect in sifted.mended})}"
    )
    if not out.is_file():
        console.out(f"{out} is not written: it would be empty")
    else:
        verdict = f"{'passes' if passes else 'does not pass'} `verl-redit pool check`"
        console.out(f"{out} with {len(sifted.pool.templates)} templates {verdict}")
    if left:
        console.print(table_of((defect.cells for defect in left), "row", "id", "rule", "what is wrong"))
    return passes
