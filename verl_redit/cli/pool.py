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

"""``verl-redit pool``: look at prompt pools. Making them is in `verl_redit.cli.pool_making`."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.panel import Panel
from rich.text import Text

from verl_redit.cli import pool_making
from verl_redit.cli.output import BadOption, Json, console, print_json, refuse_unknown, table_of, told
from verl_redit.paft import checks
from verl_redit.paft.pool import SPLITS, Pool, PoolError, RenderError, render
from verl_redit.paft.pool_file import load
from verl_redit.paft.rows import values_of

app = typer.Typer(no_args_is_help=True, help="Prompt pools: look at them, and make them.")

SAMPLES = {"question": "What is 2 + 3?"}

PoolName = Annotated[str, typer.Argument(metavar="POOL", help="Name of a bundled pool, or a .yaml or .jsonl file.")]


@app.command()
@told(PoolError, RenderError)
def check(pool: PoolName, as_json: Json = False) -> None:
    """List what is wrong with a pool. Exit code 1 if anything is."""
    loaded = load(pool)
    found = list(checks.defects(loaded))
    sizes = {split: len(loaded.of_split(split)) for split in SPLITS}
    longest = max((most for _, _, most in checks.lengths(loaded).values()), default=0)
    if as_json:
        print_json(
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
            console.print(table_of((defect.cells for defect in found), "row", "id", "rule", "what is wrong"))
        counts = ", ".join(f"{size} {split}" for split, size in sizes.items())
        console.out(
            f"{pool}: {counts}; content {loaded.content_hash}; longest text {longest} characters; defects: {len(found)}"
        )
    raise typer.Exit(code=int(bool(found)))


@app.command()
@told(PoolError, RenderError)
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
        refuse_unknown("--split", split, SPLITS)
    for id in template or []:
        refuse_unknown("--template", id, [known.id for known in loaded.templates])
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
            raise BadOption(f"--set {pair}: write it as field=value")
        refuse_unknown("--set", field, pool.fields)
        chosen[field] = [*chosen.get(field, []), value] if field in options else value
    missing = [field for field in pool.fields if field not in chosen]
    if row is not None:
        return values_of(_row(row), missing, {}) | chosen
    sample = {field: ["4", "5", "6"] if field in options else SAMPLES.get(field, f"<{field}>") for field in missing}
    return sample | chosen


def _row(place: str) -> dict[str, Any]:
    file, _, number = place.rpartition(":")
    if not (number.isdecimal() and Path(file).is_file()):
        raise BadOption(f"--row {place}: write it as FILE:N, a parquet file that is there and a row's number from 0")
    import pyarrow.parquet as pq

    rows = pq.read_table(file)
    if int(number) >= len(rows):
        raise BadOption(f"--row {place}: the file has {len(rows)} rows, the last is {len(rows) - 1}")
    return rows.slice(int(number), 1).to_pylist()[0]


@app.command()
@told(PoolError, RenderError)
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
        print_json({"splits": splits, "nearest_train": pairs, "shared_words": words})
        return
    rows = [
        (split, tiers.total(), ", ".join(f"{number} {tier}" for tier, number in tiers.items()), *sizes)
        for split, tiers, sizes in counted
    ]
    console.print(table_of(rows, "split", "templates", "tiers", "shortest", "median", "longest"))
    console.out("lengths are in characters, without the fields' values")
    if shares:
        distances = [(held_out, train, f"{shared:.0%}") for held_out, train, shared in near]
        console.print(table_of(distances, "held-out template", "nearest train template", "words in common"))
        console.out(f"words in common: median {words['median']:.0%}, largest {words['largest']:.0%}")


app.command("import")(pool_making.import_)
app.command("generate")(pool_making.generate_)
