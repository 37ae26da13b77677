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

"""What is wrong with a pool, told before anything is rendered: each defect with its row and its mend.

The rules come from defects found in public pools: literal ``\\n``, fields twice or never, ``[describe …]`` left by the
model that wrote the template, duplicates, held-out templates that are copies of train ones, no word about the form of
the answer.
"""

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from jinja2 import TemplateSyntaxError, nodes

from verl_redit.paft.contracts import CONTRACTS
from verl_redit.paft.pool import ENVIRONMENT, MEDIA_MARKERS, SPLITS, TIERS, Pool, PoolError, Template
from verl_redit.paft.pool_file import load
from verl_redit.settings import nearest

MOST_TEMPLATES = 2_000
NEAR_DUPLICATE = 0.8  # share of words in common, fields left out

# all that a template needs: text, {{ field }}, and {% for letter, text in field %}
_ALLOWED = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.For, nodes.Tuple)

# the two characters \n, but not LaTeX commands that begin with them
LITERAL_NEWLINE = re.compile(
    r"\\n(?!(?:abla|eg|eq|eqq|ewline|exists|geq|leq|mid|ot|otag|otin|onumber|parallel|subseteq)\b)"
)
# a LaTeX command with its innermost arguments, or an exponent or index with one
_LATEX = re.compile(r"(?:\\[A-Za-z]+(?:\{[^{}]*\})+|[\^_]\{[^{}]*\})")
_LEFTOVER_FIELD = re.compile(r"\{\s*\w*\s*\}")
_LEFTOVER_NOTE = re.compile(
    r"\[[^\]\n]*\b(?:describe|insert|fill|placeholder|your|todo|specify|add|here)\b[^\]\n]*\]", re.I
)


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong with a template.

    Args:
        rule: short name of what was broken.
        row: where the template stands in its file; empty for the whole pool.
        id: the template's.
        message: what is wrong, and the mend.
    """

    rule: str
    row: str
    id: str
    message: str

    def __str__(self) -> str:
        return f"{self.row} ({self.id}): {self.message}" if self.row else self.message

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Of a table of defects: row, id, rule, what is wrong."""
        return self.row, self.id, self.rule, self.message


@dataclass(frozen=True)
class _Names:
    """What a template does with names."""

    shown: Counter[str]
    looped: Counter[str]
    text: str


def load_checked(name_or_file: str) -> Pool:
    """`load`, and refuse a pool with defects.

    Raises:
        PoolError: listing every defect with its row.
    """
    pool = load(name_or_file)
    if found := list(defects(pool)):
        lines = [f"{pool.name}: {defect}" for defect in found]
        raise PoolError("\n".join(lines + ["`verl-redit pool check` shows them as a table"]))
    return pool


def defects(pool: Pool) -> Iterator[Defect]:
    """Every defect of a pool, in the file's order."""
    if len(pool.templates) > MOST_TEMPLATES:
        yield Defect("size", "", "", f"{len(pool.templates)} templates; a pool has at most {MOST_TEMPLATES}")
        return
    if not any(template.weight > 0 for template in pool.of_split("train")):
        yield Defect("train", "", "", "no train template with a weight above 0, so there is nothing to draw")
    looped = looped_fields(pool.templates)
    for row, template in zip(pool.rows, pool.templates, strict=True):
        for rule, message in (
            *_value_defects(template),
            *text_defects(template),
            *_field_defects(template, pool.fields, looped),
        ):
            yield Defect(rule, row, template.id, message)
    yield from _repeated(pool)


def _value_defects(template: Template) -> Iterator[tuple[str, str]]:
    for key, value, valid in [
        ("split", template.split, SPLITS),
        ("contract", template.contract, list(CONTRACTS)),
        ("tier", template.tier or TIERS[0], TIERS),
    ]:
        if value not in valid:
            yield key, f"{key}: {value!r}; {nearest(value, valid)}"
    if template.split == "held_out" and template.tier is None:
        yield "tier", f"no tier; a held-out template has one of {', '.join(TIERS)}"
    if not template.id.strip():
        yield "id", "a blank id"


def text_defects(template: Template) -> Iterator[tuple[str, str]]:
    """(rule, what is wrong) in a template's texts, whether jinja can read them or not."""
    for text in template.texts:
        if not text.strip():
            yield "blank", "a blank text; write one, or drop system:"
        if found := LITERAL_NEWLINE.search(text):
            yield "literal newline", f"a backslash and an n {_around(text, found)}; break the line instead"
        if found := _LEFTOVER_NOTE.search(text):
            yield "leftover", f"a note that nobody filled in, {found.group()!r}; write the text it stands for"
        if "{#" in text:
            yield "leftover", "{# begins a jinja comment, which is not rendered; drop it"
        for marker in MEDIA_MARKERS:
            if marker in text:
                yield "media", f"{marker} is in the question already and would be there twice; drop it"
    contract = CONTRACTS.get(template.contract)
    if contract and not contract.is_told("\n".join(template.texts)):
        yield "contract", f"it does not tell the model to {contract.rule}, as its contract {contract.name} needs"


def _around(text: str, found: re.Match) -> str:
    return f"in {text[max(0, found.start() - 12) : found.end() + 12]!r}"


def _field_defects(template: Template, fields: tuple[str, ...], looped: set[str]) -> Iterator[tuple[str, str]]:
    try:
        names = _names(template)
    except PoolError as error:
        yield "syntax", str(error)
        return
    used = names.shown + names.looped
    for name in used:
        if name not in fields:
            yield "field", f"{name!r} is no field of this pool; {nearest(name, list(fields))}"
    for field in fields:
        if used[field] != 1:
            times = "never" if not used[field] else f"{used[field]} times"
            yield "field", f"{{{{ {field} }}}} stands in it {times}; it must be there exactly once"
        if field in looped and names.shown[field]:
            yield "field", f"{field!r} holds options; show them with {{% for letter, text in {field} %}}"
    if found := _LEFTOVER_FIELD.search(_without_latex(names.text)):
        yield "leftover", f"{found.group()!r} is no jinja field; write {{{{ field }}}}, or drop it"
    elif names.text.count("{") != names.text.count("}"):
        yield "leftover", "its braces do not match"


def _without_latex(text: str) -> str:
    while (shorter := _LATEX.sub("", text)) != text:
        text = shorter
    return text


def looped_fields(templates: Iterable[Template]) -> set[str]:
    """Fields that some template loops over, so which hold options."""
    found: set[str] = set()
    for template in templates:
        try:
            found |= _names(template).looped.keys()
        except PoolError:
            continue  # `defects` tells what is wrong with it
    return found


@cache
def _names(template: Template) -> _Names:
    """Raises PoolError for text that jinja cannot read, or that does more than show fields and loop over one."""
    shown, looped, text = Counter[str](), Counter[str](), []
    for turn in template.texts:
        try:
            tree = ENVIRONMENT.parse(turn)
        except TemplateSyntaxError as error:
            raise PoolError(f"line {error.lineno} of its text: {error.message}") from error
        for node in [tree, *tree.find_all(nodes.Node)]:
            if not isinstance(node, _ALLOWED):
                raise PoolError(
                    f"jinja's {type(node).__name__} is not allowed; a template has text, {{{{ field }}}} and "
                    "{% for letter, text in field %}"
                )
        in_loops: set[int] = set()
        for loop in tree.find_all(nodes.For):
            targets = [name.name for name in loop.target.find_all(nodes.Name)]
            inside = [name for node in loop.body for name in node.find_all(nodes.Name)]
            if len(targets) != 2 or any([name.name for name in inside].count(target) != 1 for target in targets):
                raise PoolError(
                    f"a loop shows its letter and its text once each: {{% for letter, text in "
                    f"{getattr(loop.iter, 'name', 'options')} %}}{{{{ letter }}}}. {{{{ text }}}}{{% endfor %}}"
                )
            looped[getattr(loop.iter, "name", "?")] += 1
            in_loops |= {id(name) for name in loop.find_all(nodes.Name) if name.name in targets} | {id(loop.iter)}
        shown.update(node.name for node in tree.find_all(nodes.Name) if id(node) not in in_loops)
        text.append("".join(node.data for node in tree.find_all(nodes.TemplateData)))
    return _Names(shown, looped, "\n".join(text))


def _repeated(pool: Pool) -> Iterator[Defect]:
    exact: dict[tuple[str, ...], str] = {}
    normal: dict[str, str] = {}
    for row, template in zip(pool.rows, pool.templates, strict=True):
        # a field's place counts here, so that another frame is another template
        texts, words = tuple(template.texts), "|".join(" ".join(_in_order(text)) for text in template.texts)
        if texts in exact:
            yield Defect("duplicate", row, template.id, f"the same text as {exact[texts]}; drop one")
        elif words in normal:
            message = f"the same as {normal[words]} but for case, spaces and punctuation; drop one"
            yield Defect("duplicate", row, template.id, message)
        exact.setdefault(texts, template.id)
        normal.setdefault(words, template.id)
    for held_out, shares in _shared_words(pool):
        alike = [(shared, near) for shared, near in shares if near.contract == held_out.contract]
        shared, near = max(alike, key=lambda pair: pair[0], default=(0.0, held_out))
        if shared >= NEAR_DUPLICATE:
            row = pool.rows[pool.templates.index(held_out)]
            message = f"shares {shared:.0%} of its words with train template {near.id}, so it is not unseen; rewrite it"
            yield Defect("near duplicate", row, held_out.id, message)


def nearest_train(pool: Pool) -> Iterator[tuple[Template, Template, float]]:
    """For each held-out template the nearest train one, and the share of words that both have (Jaccard index)."""
    for held_out, shares in _shared_words(pool):
        if shares:
            shared, near = max(shares, key=lambda pair: pair[0])
            yield held_out, near, shared


def _shared_words(pool: Pool) -> Iterator[tuple[Template, list[tuple[float, Template]]]]:
    train = [(template, set(_words(template))) for template in pool.of_split("train")]
    for held_out in pool.of_split("held_out"):
        words = set(_words(held_out))
        yield held_out, [(len(words & other) / (len(words | other) or 1), template) for template, other in train]


def _words(template: Template) -> list[str]:
    without_fields = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", " ", "\n".join(template.texts))
    # symbols count: #### and \boxed tell contracts apart
    return re.findall(r"[#\\]*\w+|#+", without_fields.casefold())


def _in_order(text: str) -> list[str]:
    return re.findall(r"\{\{.*?\}\}|[#\\]*\w+|#+", text.casefold())


def lengths(pool: Pool) -> dict[str, tuple[int, float, int]]:
    """Shortest, median and longest text of each split, in characters without the fields' values."""
    sizes = {split: [sum(map(len, template.texts)) for template in pool.of_split(split)] for split in SPLITS}
    return {split: (min(some), statistics.median(some), max(some)) for split, some in sizes.items() if some}
