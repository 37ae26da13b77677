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

"""What a template needs from a row of verl's: the values of its fields, and the row's name."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from verl_redit.paft.pool import RenderError

LABELS = ("template_id", "tier", "contract", "item_id")  # what a row's extra_info gets of its template
SAMPLED = 64  # rows that a digest looks at


def values_of(row: Mapping[str, Any], fields: Iterable[str], keys: Mapping[str, str]) -> dict[str, Any]:
    """The value of each field, from the row's ``extra_info``.

    Args:
        row: verl's row.
        fields: names that the pool's templates use.
        keys: field -> key in ``extra_info`` (``paft.fields``); a field that is not in it is its own key.

    Raises:
        RenderError: the row lacks a key.
    """
    extra_info = row.get("extra_info") or {}
    values = {field: extra_info.get(keys.get(field, field)) for field in fields}
    if missing := [keys.get(field, field) for field, value in values.items() if value is None]:
        raise RenderError(
            f"no extra_info.{missing[0]}, only {', '.join(extra_info) or 'an empty extra_info'}; keep the raw "
            f"{missing[0]} there when preparing the data, or name its key in paft.fields"
        )
    return values


def digest_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """64 bits of the extra_info of 64 rows, evenly spread: other files, or another choice of rows, give another."""
    chosen = [rows[number * len(rows) // SAMPLED].get("extra_info") for number in range(SAMPLED)] if rows else []
    return _digest(chosen)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def item_of(row: Mapping[str, Any], number: int | str) -> str:
    """A row's name: data source and ``extra_info.index``, or its number in the data set if it has none."""
    index = (row.get("extra_info") or {}).get("index")
    return f"{row.get('data_source', '')}/{number if index is None else index}"


def names_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A name for each row of whole files that is its own, and the same in any order of them.

    Rows without an index, or with one that others have too (in another file, say), are told apart by their
    ``extra_info``; rows that are the same in that by their order.
    """
    digests = [_digest(row.get("extra_info")) for row in rows]
    plain = [item_of(row, digest) for row, digest in zip(rows, digests, strict=True)]
    contents = defaultdict(set)
    for name, digest in zip(plain, digests, strict=True):
        contents[name].add(digest)
    names, times = [], Counter[str]()
    for name, digest in zip(plain, digests, strict=True):
        own = name if len(contents[name]) == 1 else f"{name}#{digest}"
        times[own] += 1
        names.append(own if times[own] == 1 else f"{own}.{times[own]}")
    return names
