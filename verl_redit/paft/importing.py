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

"""From a spreadsheet of prompts to a pool: each row is kept, mended or dropped, with the reason.

The authors of PAFT (arXiv 2502.12859) publish spreadsheets with one column of ``str.format`` texts. Most line breaks in
them are the two characters ``\\n``: their training code shows these to the model as they are, their evaluation makes
line breaks of them, so that a model is trained on one text and tested on another. Here they become line breaks.
"""

import csv
import io
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import yaml

from verl_redit.paft.checks import LITERAL_NEWLINE, NEAR_DUPLICATE, Defect, defects, nearest_train, text_defects
from verl_redit.paft.contracts import CONTRACTS
from verl_redit.paft.pool import Pool, PoolError, Template
from verl_redit.paft.pool_file import load
from verl_redit.settings import nearest

# str.format's syntax: an escaped brace, a placeholder, or a brace without its other half
_BRACES = re.compile(r"\{\{|\}\}|\{(?P<name>[^{}]*)\}|[{}]")
_JINJA_OPENS = re.compile(r"(?=\{[{%#])")

Told = tuple[str, str]  # rule, and what is wrong or what was done


@dataclass(frozen=True)
class Sifted:
    """What became of candidates: each is in the pool, or in ``dropped`` with at least one reason.

    Args:
        pool: what was there before, then the candidates that are fit for it.
        candidates: how many there were.
        mended: what was wrong with those that are in the pool now, and what was done.
        dropped: why the others are not, after what was mended in them.
    """

    pool: Pool
    candidates: int
    mended: tuple[Defect, ...]
    dropped: tuple[Defect, ...]

    @property
    def lost(self) -> int:
        """How many were dropped."""
        return len({defect.id for defect in self.dropped})


def read_templates(
    file: Path, column: str, pool: Pool, split: str, contract: str, tier: str | None
) -> list[tuple[str, Template]]:
    """Each cell of a spreadsheet's column as a candidate for `sift`: its row, and a template with that row's number.

    The first row holds the columns' names, so the first candidate is ``row-0002``. If the pool has templates already,
    ids begin with the file's name, as another file has the same row numbers.

    Args:
        file: ``.csv`` in UTF-8, or ``.xlsx`` with one sheet.
        pool: what the candidates are for.

    Raises:
        PoolError: another kind of file, another encoding, rows longer than the header, or no such column.
    """
    readers = {".csv": _csv_rows, ".xlsx": _xlsx_rows}
    if file.suffix not in readers:
        raise PoolError(f"{file}: {file.suffix or 'no'} suffix; give a .csv or .xlsx file")
    header, *rows = readers[file.suffix](file) or [[]]
    if header.count(column) != 1:
        raise PoolError(f"{file}: {header.count(column)} columns are called {column!r}; {nearest(column, header)}")
    place = header.index(column)
    prefix = f"{file.stem}-row" if pool.templates else "row"
    candidates = []
    for number, row in enumerate(rows, start=2):
        text = row[place] if place < len(row) else ""
        template = Template(f"{prefix}-{number:04}", text, split, contract, tier=tier, origin=file.name)
        candidates.append((f"row {number}", template))
    return candidates


def _csv_rows(file: Path) -> list[list[str]]:
    try:
        text = file.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise PoolError(
            f"{file}: byte {error.start} (0x{error.object[error.start]:02X}) is not UTF-8; save it as CSV UTF-8, or "
            f"convert it, for example with iconv -f WINDOWS-1252 -t UTF-8"
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise PoolError(
            f"{file}: line {reader.line_num}: {error}; put texts in quotes, and write a quote in them twice"
        ) from error
    for number, row in enumerate(rows, start=1):
        if len(row) > len(rows[0]):
            raise PoolError(
                f"{file}: row {number} has {len(row)} cells, the header {len(rows[0])}; put texts with commas in quotes"
            )
    return rows


def _xlsx_rows(file: Path) -> list[list[str]]:
    import pandas

    try:
        sheets = pandas.read_excel(file, sheet_name=None, header=None, dtype=str, na_filter=False)
    except (ValueError, zipfile.BadZipFile) as error:
        raise PoolError(f"{file}: no workbook: {error}; save it anew as .xlsx, or as CSV UTF-8") from error
    filled = {name: sheet for name, sheet in sheets.items() if not sheet.empty}
    if len(filled) != 1:
        raise PoolError(f"{file}: {len(filled)} sheets with rows ({', '.join(filled)}); keep one in the file")
    (sheet,) = filled.values()
    return sheet.fillna("").to_numpy().tolist()


def open_pool(out: Path, field_names: list[str]) -> Pool:
    """The pool that ``out`` holds, or an empty one if there is no such file.

    Raises:
        PoolError: no ``.yaml`` suffix, no such folder, or a pool with other fields.
    """
    if out.suffix != ".yaml":
        raise PoolError(f"{out}: {out.suffix or 'no'} suffix; give a .yaml file")
    if not out.parent.is_dir():
        raise PoolError(f"{out}: there is no folder {out.parent}; make it first")
    if not out.is_file():
        return Pool(str(out), tuple(field_names), (), ())
    pool = load(str(out))
    if set(pool.fields) != set(field_names):
        raise PoolError(
            f"{out} has templates with the fields {', '.join(pool.fields)}, not {', '.join(field_names)}; give the "
            "same fields, or another file"
        )
    return pool


def sift(candidates: Iterable[tuple[str, Template]], pool: Pool, append_contract: bool = False) -> Sifted:
    """Add to a pool those candidates that are fit for it, mended where there is one way to mend.

    Args:
        candidates: (row, template), each with an id of its own and a user text as ``str.format`` takes it.
        pool: its templates stay as they are; candidates that repeat them are dropped.
        append_contract: mend a text that does not tell its contract: a last line tells it.
    """
    there = {template.id for template in pool.templates}
    row_of: dict[str, str] = {}
    fit: dict[str, Template] = {}
    mended: list[Defect] = []
    dropped: list[Defect] = []
    for row, candidate in candidates:
        row_of[candidate.id] = row
        template, mends, wrong = _judged(candidate, pool, append_contract)
        if template.id in there:
            wrong.append(("id", "a template of the pool has it already; rename that one"))
        if wrong:
            dropped += [Defect(rule, row, template.id, message) for rule, message in mends + wrong]
        else:
            fit[template.id] = template
            mended += [Defect(rule, row, template.id, message) for rule, message in mends]
    while clashes := list(_clashes(pool, fit, row_of)):
        dropped += clashes
        for defect in clashes:
            fit.pop(defect.id, None)
    sifted = Sifted(
        _joined(pool, fit, row_of), len(row_of), tuple(mend for mend in mended if mend.id in fit), tuple(dropped)
    )
    assert sifted.candidates == len(fit) + sifted.lost, "a candidate is neither in the pool nor dropped"
    return sifted


def _judged(candidate: Template, pool: Pool, append_contract: bool) -> tuple[Template, list[Told], list[Told]]:
    """The candidate in jinja, its mends, and what is wrong with it for itself."""
    text, mends = _mended(candidate.user, pool.fields)
    text, wrong = _translated(text, pool.fields)
    contract = CONTRACTS.get(candidate.contract)
    if append_contract and contract and not contract.is_told(text):
        text += f"\n{contract.rule[0].upper()}{contract.rule[1:]}."
        mends.append(("contract", f"a last line tells it: {contract.rule}"))
    template = replace(candidate, user=text)
    if not text:
        return template, [], wrong
    if wrong:
        # defects of jinja would follow from these
        others = [told for told in text_defects(template) if not told[1].startswith("{#")]
        return template, mends, wrong + others
    alone = Pool(pool.name, pool.fields, (template,), ("it",))
    return template, mends, [(defect.rule, defect.message) for defect in defects(alone) if defect.row]


def _joined(pool: Pool, fit: dict[str, Template], row_of: dict[str, str]) -> Pool:
    return replace(pool, templates=(*pool.templates, *fit.values()), rows=(*pool.rows, *(row_of[id] for id in fit)))


def _clashes(pool: Pool, fit: dict[str, Template], row_of: dict[str, str]) -> Iterator[Defect]:
    """Defects that a candidate has only beside other templates."""
    yield from (defect for defect in defects(_joined(pool, fit, row_of)) if defect.id in fit)
    # between a held-out template that was there and a new train one, `defects` blames the old one
    new_train = [template for template in fit.values() if template.split == "train"]
    for held_out, near, shared in nearest_train(replace(pool, templates=(*pool.of_split("held_out"), *new_train))):
        if shared >= NEAR_DUPLICATE and held_out.contract == near.contract:
            message = f"shares {shared:.0%} of its words with held-out template {held_out.id}, which must stay unseen"
            yield Defect("near duplicate", row_of[near.id], near.id, message)


def _mended(text: str, field_names: tuple[str, ...]) -> tuple[str, list[Told]]:
    """The text with what can be mended before its placeholders are read; (rule, what was done) for each mend."""
    mends = []
    latex = rf"(\\(?:boxed|text))\{{(?!(?:{'|'.join(map(re.escape, field_names))})\}})([^{{}}]*)\}}"
    for rule, pattern, mend, done in [
        ("line ends", r"\r\n?", "\n", "carriage returns are line breaks now"),
        ("literal newline", LITERAL_NEWLINE.pattern, "\n", "a backslash and an n are a line break now"),
        ("blanks", r"\A\s+|\s+\Z", "", "blanks around the text are gone"),
        ("braces", latex, r"\1{{\2}}", "LaTeX's braces are text, where str.format would read a placeholder"),
    ]:
        text, times = re.subn(pattern, mend, text)
        if times:
            mends.append((rule, done))
    return text, mends


def _translated(text: str, field_names: tuple[str, ...]) -> tuple[str, list[Told]]:
    """A ``str.format`` text as jinja text that renders the same; (rule, message) for each reason why there is none."""
    if not text:
        return text, [("blank", "no text")]
    wrong = []
    if odd := [sign for sign in text if unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\t"]:
        wrong.append(("characters", f"{odd[0]!r} is no character to read; take it out"))
    braces = list(_BRACES.finditer(text))
    if any(brace.group() in ("{", "}") for brace in braces):
        wrong.append(("braces", "a { or } without its other half; write it twice if it is text"))
    names = [brace["name"] for brace in braces if brace["name"] is not None]
    for name in dict.fromkeys(names):
        if name not in field_names:
            wrong.append(("field", f"{'{' + name + '}'!r} is no placeholder of it; {nearest(name, list(field_names))}"))
    jinja = _BRACES.sub(lambda brace: brace.group()[0] if brace["name"] is None else f"{{{{ {brace['name']} }}}}", text)
    if not wrong and len(_JINJA_OPENS.findall(jinja)) != len(names):
        wrong.append(("jinja", "its text has {{, {% or {#, which jinja would read; write it without"))
    return jinja, wrong


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, for people to read."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def write(pool: Pool, file: Path) -> None:
    """Write a pool as YAML, values that are `Template`'s defaults left out; an existing file is replaced as a whole, so
    its comments are lost."""
    defaults = {field.name: field.default for field in fields(Template)}
    templates = [
        {key: value for key, value in asdict(template).items() if value != defaults[key]} for template in pool.templates
    ]
    content = {"fields": list(pool.fields), "templates": templates}
    whole = file.with_suffix(".yaml.part")
    whole.write_text(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120), "utf-8")
    whole.replace(file)
