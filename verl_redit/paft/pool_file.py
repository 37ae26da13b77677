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

"""Prompt pools in files: YAML or JSON lines to a `Pool`, with every mistake told by its row."""

import json
import reprlib
from collections.abc import Iterator
from dataclasses import MISSING, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from verl_redit.paft.pool import Pool, PoolError, Template
from verl_redit.settings import nearest

LARGEST_FILE = 16 * 2**20  # bytes; a thousand long templates are below one


def bundled() -> list[str]:
    """Names of the pools that come with the package."""
    return sorted(Path(file.name).stem for file in resources.files("verl_redit.paft.pools").iterdir())


def load(name_or_file: str) -> Pool:
    """Read a pool without judging its templates' texts; `verl_redit.paft.checks` does that.

    Args:
        name_or_file: name of a bundled pool, or path of a ``.yaml`` or ``.jsonl`` file. YAML holds a mapping with
            ``templates`` (a list) and, beside it, values that all templates share, and ``fields``. JSON lines hold
            one template each; a first line without ``user`` holds the shared values and ``fields``.

    Raises:
        PoolError: no such file, not text in UTF-8, not of this form, a value of the wrong type, or an id used twice.
    """
    if name_or_file in bundled():
        file, name = resources.files("verl_redit.paft.pools") / f"{name_or_file}.yaml", name_or_file
        return parse(file.read_text(encoding="utf-8"), ".yaml", name)
    path = Path(name_or_file).expanduser()
    if not path.is_file():
        raise PoolError(f"there is no pool {name_or_file!r}: {nearest(name_or_file, bundled())}, or a file's path")
    if path.stat().st_size > LARGEST_FILE:
        raise PoolError(
            f"{path} has {path.stat().st_size / 2**20:.0f} MB; a pool holds templates and has at most "
            f"{LARGEST_FILE // 2**20} MB. Rows of data belong in data.train_files"
        )
    try:
        return parse(path.read_text(encoding="utf-8-sig"), path.suffix, str(path))
    except UnicodeDecodeError as error:
        raise PoolError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error


def parse(text: str, suffix: str, name: str) -> Pool:
    """`load` for text that has been read; ``suffix`` is ``.yaml`` or ``.jsonl``, ``name`` is for messages."""
    readers = {".yaml": _read_yaml, ".yml": _read_yaml, ".jsonl": _read_json_lines}
    if suffix not in readers:
        raise PoolError(
            f"{name}: {suffix or 'no'} suffix; pools are .yaml or .jsonl, and `verl-redit pool import` reads others"
        )
    shared, entries = readers[suffix](text, name)
    field_names = shared.pop("fields", ["question"])
    if not (isinstance(field_names, list) and field_names and all(isinstance(field, str) for field in field_names)):
        raise PoolError(f"{name}: fields: {reprlib.repr(field_names)}; give a list of names, for example [question]")
    errors, templates, rows = [], [], []
    if own := [key for key in ("id", "user") if key in shared]:
        errors.append(f"{', '.join(own)} beside the templates, but each has its own; move it into one")
    for row, entry in entries:
        try:
            templates.append(_template({**shared, **entry}))
            rows.append(row)
        except ValueError as error:
            errors.append(f"{row}: {error}")
    if not entries:
        errors.append("it holds no template")
    errors += _used_twice(templates, rows)
    if errors:
        raise PoolError("\n".join(f"{name}: {error}" for error in errors))
    return Pool(name, tuple(field_names), tuple(templates), tuple(rows))


def _used_twice(templates: list[Template], rows: list[str]) -> Iterator[str]:
    first: dict[str, str] = {}
    for template, row in zip(templates, rows, strict=True):
        if template.id in first:
            yield f"{row}: id {template.id!r} is used in {first[template.id]} already; give it another"
        first.setdefault(template.id, row)


def _read_yaml(text: str, name: str) -> tuple[dict[str, Any], list[tuple[str, dict]]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=loader)):
            raise PoolError(f"{name}: it has a YAML alias (*name); write the value out")
        root = yaml.compose(text, Loader=loader)
        for line, key in _keys_used_twice(root):
            raise PoolError(f"{name}: line {line}: {key!r} stands there twice; drop one")
        data = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, OverflowError, RecursionError) as error:
        raise PoolError(f"{name}: not YAML: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("templates"), list):
        raise PoolError(f"{name}: no list of templates; write `templates:` and a list under it")
    nodes = next(value for key, value in root.value if key.value == "templates").value
    entries = data.pop("templates")
    for node, entry in zip(nodes, entries, strict=True):
        if not isinstance(entry, dict):
            raise PoolError(
                f"{name}: line {node.start_mark.line + 1}: {reprlib.repr(entry)} is no template; write id:, user: …"
            )
    return data, [(f"line {node.start_mark.line + 1}", entry) for node, entry in zip(nodes, entries, strict=True)]


def _keys_used_twice(root: yaml.Node | None) -> Iterator[tuple[int, str]]:
    pending = [root] if root else []
    while pending:
        node = pending.pop()
        if isinstance(node, yaml.SequenceNode):
            pending += node.value
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                pending.append(value)
                name = str(key.value)
                if name in seen:
                    yield key.start_mark.line + 1, name
                seen.add(name)


def _read_json_lines(text: str, name: str) -> tuple[dict[str, Any], list[tuple[str, dict]]]:
    entries = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line, object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError) as error:
            raise PoolError(f"{name}: line {number}: not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise PoolError(f"{name}: line {number}: {reprlib.repr(entry)} is no template; write an object")
        entries.append((f"line {number}", entry))
    shared = entries.pop(0)[1] if entries and "user" not in entries[0][1] else {}
    return shared, entries


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        raise ValueError("a key stands in it twice")
    return entry


def _template(entry: dict[str, Any]) -> Template:
    known = {field.name: field for field in fields(Template)}
    for key in entry:
        if key not in known:
            raise ValueError(f"{key}: unknown key; {nearest(str(key), list(known))}")
    if missing := [name for name, field in known.items() if field.default is MISSING and name not in entry]:
        raise ValueError(f"no {', '.join(missing)}")
    for key in ("id", "user", "split", "contract", "origin", "license"):
        if not isinstance(entry.get(key, ""), str):
            raise ValueError(f"{key}: {reprlib.repr(entry[key])} is not text")
    for key in ("system", "tier"):
        if not isinstance(entry.get(key), str | None):
            raise ValueError(f"{key}: {reprlib.repr(entry[key])} is not text")
    tags = entry.get("tags", [])
    if not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        raise ValueError(f"tags: {reprlib.repr(tags)}; give a list of words")
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < 1e300:
        raise ValueError(f"weight: {reprlib.repr(weight)}; give a finite number, 0 or larger")
    for key in ("id", "user", "system"):
        try:
            (entry.get(key) or "").encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{key}: character {error.start} is half of a pair (a surrogate); write it anew"
            ) from error
    return Template(**{**entry, "tags": tuple(tags), "weight": float(weight)})
