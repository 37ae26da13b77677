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

"""What commands share: how they print, and how they tell what a user can mend."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from verl_redit.settings import nearest

console = Console()
errors = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class BadOption(ValueError):
    """A value that an option cannot have; the message begins with the option."""


@contextmanager
def told(*kinds: type[ValueError]) -> Iterator[None]:
    """Exit code 1 and the message alone for what a user can mend: options, and errors of these kinds."""
    try:
        yield
    except ValueError as error:
        if not isinstance(error, (BadOption, *kinds)):
            raise
        errors.out(error, style="red", highlight=False)
        raise typer.Exit(code=1) from error


def refuse_unknown(option: str, name: str, valid: Iterable[str]) -> None:
    """Raise BadOption if its value is none of the valid names."""
    if name not in valid:
        raise BadOption(f"{option} {name}: {nearest(name, list(valid))}")


def print_json(content: dict[str, Any]) -> None:
    """To stdout, indented."""
    json.dump(content, sys.stdout, indent=2)
    print()


def table_of(rows: Iterable[Iterable[object]], *columns: str) -> Table:
    """A row for each, with cells as plain text."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # brackets in templates are not markup
    return table
