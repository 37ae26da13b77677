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

"""``verl-redit pool``: look at prompt pools, and make them from spreadsheets and from language models."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.progress import track
from rich.table import Table
from rich.text import Text

from verl_redit.paft import checks, generate, importing
from verl_redit.paft.checks import Defect
from verl_redit.paft.contracts import CONTRACTS
from verl_redit.paft.pool import SPLITS, TIERS, Pool, PoolError, RenderError, render
from verl_redit.paft.pool_file import load
from verl_redit.paft.rows import values_of
from verl_redit.settings import nearest

app = typer.Typer(no_args_is_help=True, help="Prompt pools: look at them, and make them.")
console = Console()
errors = Console(stderr=True)

SAMPLES = {"question": "What is 2 + 3?"}

PoolName = Annotated[str, typer.Argument(metavar="POOL", help="Name of a bundled pool, or a .yaml or .jsonl file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
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


@contextmanager
def _told() -> Iterator[None]:
    """Exit code 1 and the message alone for what a user can mend."""
    try:
        yield
    except (PoolError, RenderError) as error:
        errors.out(error, style="red", highlight=False)
        raise typer.Exit(code=1) from error


def _valid(option: str, name: str, valid: Iterable[str]) -> None:
    if name not in valid:
        raise PoolError(f"{option} {name}: {nearest(name, list(valid))}")


def _print_json(content: dict[str, Any]) -> None:
    json.dump(content, sys.stdout, indent=2)
    print()


def _table(rows: Iterable[Iterable[object]], *columns: str) -> Table:
    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # brackets in templates are not markup
    return table


def _cells(defect: Defect) -> tuple[str, str, str, str]:
    return defect.row, defect.id, defect.rule, defect.message


@app.command()
@_told()
def check(pool: PoolName, as_json: Json = False) -> None:
    """List what is wrong with a pool. Exit code 1 if anything is."""
    loaded = load(pool)
    found = list(checks.defects(loaded))
    sizes = {split: len(loaded.of_split(split)) for split in SPLITS}
    longest = max((most for _, _, most in checks.lengths(loaded).values()), default=0)
    if as_json:
        _print_json(
            {
                "ok": not found,
                "templates": sizes,
                "content_hash": loaded.content_hash,
                "longest": longest,
                "defects": [asdict(defect) for defect in found],
            }
        )
    else:
        if found:
            console.print(_table(map(_cells, found), "row", "id", "rule", "what is wrong"))
        counts = ", ".join(f"{size} {split}" for split, size in sizes.items())
        console.out(
            f"{pool}: {counts}; content {loaded.content_hash}; longest text {longest} characters; defects: {len(found)}"
        )
    raise typer.Exit(code=int(bool(found)))


@app.command()
@_told()
def show(
    pool: PoolName,
    template: Annotated[list[str] | None, typer.Option(help="Id of a template; repeat for more.")] = None,
    split: Annotated[str | None, typer.Option(help=f"Only these: {' or '.join(SPLITS)}.")] = None,
    row: Annotated[
        str | None, typer.Option(metavar="FILE:N", help="Row N, from 0, of a parquet file of verl's.")
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A value; repeat a field for its options.")
    ] = None,
) -> None:
    """Show templates as the model sees them, on a row of yours or on a sample."""
    loaded = checks.load_checked(pool)
    if split:
        _valid("--split", split, SPLITS)
    for id in template or []:
        _valid("--template", id, [known.id for known in loaded.templates])
    values = _values(loaded, row, given or [])
    for known in loaded.templates:
        if known.split != (split or known.split) or known.id not in (template or [known.id]):
            continue
        title = " · ".join([known.id, known.split, known.tier or "no tier", known.contract])
        for message in render(known, values):
            console.print(Panel(Text(message["content"]), title=Text(title), subtitle=message["role"]))


def _values(pool: Pool, row: str | None, given: list[str]) -> dict[str, Any]:
    """Each field's value: given, else from the row, else a sample."""
    options = checks.looped_fields(pool.templates)
    chosen: dict[str, Any] = {}
    for pair in given:
        field, equals, value = pair.partition("=")
        if not equals:
            raise PoolError(f"--set {pair}: write it as field=value")
        _valid("--set", field, pool.fields)
        chosen[field] = [*chosen.get(field, []), value] if field in options else value
    missing = [field for field in pool.fields if field not in chosen]
    if row is not None:
        return values_of(_row(row), missing, {}) | chosen
    sample = {field: ["4", "5", "6"] if field in options else SAMPLES.get(field, f"<{field}>") for field in missing}
    return sample | chosen


def _row(place: str) -> dict[str, Any]:
    file, _, number = place.rpartition(":")
    if not (number.isdecimal() and Path(file).is_file()):
        raise PoolError(f"--row {place}: write it as FILE:N, a parquet file that is there and a row's number from 0")
    import pyarrow.parquet as pq

    rows = pq.read_table(file)
    if int(number) >= len(rows):
        raise PoolError(f"--row {place}: the file has {len(rows)} rows, the last is {len(rows) - 1}")
    return rows.slice(int(number), 1).to_pylist()[0]


@app.command()
@_told()
def stats(pool: PoolName, as_json: Json = False) -> None:
    """Count a pool's templates, and tell how far the held-out ones are from the train ones."""
    loaded = load(pool)
    counted = [
        (split, Counter(template.tier or "none" for template in loaded.of_split(split)), sizes)
        for split, sizes in checks.lengths(loaded).items()
    ]
    near = [(held_out.id, train.id, shared) for held_out, train, shared in checks.nearest_train(loaded)]
    shares = [shared for _, _, shared in near]
    words = {"median": median(shares), "largest": max(shares)} if shares else {}
    if as_json:
        splits = {
            split: {"templates": tiers.total(), "tiers": tiers}
            | dict(zip(("shortest", "median", "longest"), sizes, strict=True))
            for split, tiers, sizes in counted
        }
        pairs = [dict(zip(("held_out", "train", "shared"), pair, strict=True)) for pair in near]
        _print_json({"splits": splits, "nearest_train": pairs, "shared_words": words})
        return
    rows = [
        (split, tiers.total(), ", ".join(f"{number} {tier}" for tier, number in tiers.items()), *sizes)
        for split, tiers, sizes in counted
    ]
    console.print(_table(rows, "split", "templates", "tiers", "shortest", "median", "longest"))
    console.out("lengths are in characters, without the fields' values")
    if shares:
        distances = [(held_out, train, f"{shared:.0%}") for held_out, train, shared in near]
        console.print(_table(distances, "held-out template", "nearest train template", "words in common"))
        console.out(f"words in common: median {words['median']:.0%}, largest {words['largest']:.0%}")


@app.command("import")
@_told()
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
    _valid("--contract", contract, CONTRACTS)
    _valid("--split", split, SPLITS)
    if tier or split == "held_out":
        _valid("--tier", tier or "is missing", TIERS)
    pool = importing.open_pool(out, field)
    candidates = importing.read_templates(file, column, pool, split, contract, tier)
    passes = _keep(importing.sift(candidates, pool, append_contract), out, "rows", as_json)
    raise typer.Exit(code=int(not passes))


@app.command("generate")
@_told()
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
    _valid("--contract", contract, CONTRACTS)
    pool = importing.open_pool(out, field)
    asked = generate.requests(model, n, task, pool, contract)
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
        _print_json(
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
    rows = [(*_cells(defect), "mended") for defect in sifted.mended]
    rows += [(*_cells(defect), "dropped") for defect in sifted.dropped]
    if rows:
        console.print(_table(rows, "row", "id", "rule", "what was found", ""))
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
        console.print(_table(map(_cells, left), "row", "id", "rule", "what is wrong"))
    return passes
