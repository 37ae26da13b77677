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

"""The outcome of a search: which units to train, on what grounds, in one file that knows when it was changed."""

import hashlib
import importlib.metadata
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from verl_redit.flexora.choice import chooser, refuse_empty
from verl_redit.flexora.config import FlexoraConfig
from verl_redit.flexora.evidence import Evidence, gather
from verl_redit.flexora.layers import exclude_regex
from verl_redit.flexora.parts import digest_of
from verl_redit.flexora.record import Record
from verl_redit.flexora.scores import APPLIED, METHODS

FORMAT = 1
PACKAGES = ["verl-redit", "verl", "torch", "transformers", "peft"]


class BadSelection(ValueError):
    """A selection file that cannot be used; the message names it and the mend."""


@dataclass(frozen=True)
class Unit:
    """A layer, or a module of one.

    Args:
        name: in the model (`verl_redit.flexora.layers`).
        modules: its modules with LoRA, by their names in the model.
        parameters: number of LoRA parameters in it.
        score: higher is better.
        interval: where 95 % of resampled scores lie; None if the method has no steps.
        chosen: whether it is trained.
    """

    name: str
    modules: list[str]
    parameters: int
    score: float
    interval: list[float] | None
    chosen: bool


@dataclass(frozen=True)
class Selection:
    """The units of a model, and which of them to train.

    Args:
        units: all that were searched, from the lowest layer to the highest.
        settings: the config node ``flexora`` of the search.
        model: path, model type and LoRA settings.
        evidence: see `verl_redit.flexora.evidence`; None for a method without steps, or a search of too few batches.
        beats_chance: whether it does; None for a method without steps.
        scored_steps: updates that were scored.
        skipped_steps: updates that were not, see `Record.skipped`.
        rounds: how often each prompt was seen, see `Record.rounds`.
        data_hash: 64 bits of the prompts seen, as hexadecimal text.
        versions: package -> version where it was written.
    """

    units: list[Unit]
    settings: dict[str, Any]
    model: dict[str, Any]
    evidence: Evidence | None
    beats_chance: bool | None
    scored_steps: int
    skipped_steps: int
    rounds: float
    data_hash: str
    versions: dict[str, str]

    @property
    def chosen(self) -> list[Unit]:
        """The units to train."""
        return [unit for unit in self.units if unit.chosen]

    @property
    def summary(self) -> str:
        """What was chosen, and whether it is more than chance, in a sentence."""
        kept = f"{len(self.chosen)} of {len(self.units)} units chosen by {self.settings['method']}"
        if self.beats_chance is None:
            return kept
        if self.evidence is None:
            return f"{kept} from {self.scored_steps} steps, too few batches to judge"
        found = self.evidence
        more = "more" if self.beats_chance else "no more"
        steady = (found.steadiness, found.chance_steadiness)
        return (
            f"{kept} from {self.scored_steps} steps, {more} than chance: for two halves of the steps, the "
            f"{found.measure} is {found.agreement:.2g} (chance up to {found.chance_agreement:.2g})"
            + ("" if None in steady else ", their steadiness {:.2g} (up to {:.2g})".format(*steady))
            + (f". Each prompt was seen {self.rounds:.2f} times, so both share its noise" if self.rounds > 1 else "")
        )

    @property
    def exclude_modules(self) -> str | None:
        """verl's ``model.exclude_modules`` that leaves exactly the chosen modules, beside what was excluded before."""
        if len(self.chosen) == len(self.units):
            return self.model["exclude_modules"]
        names = {unit.name: unit.modules for unit in self.units}
        own = exclude_regex(names, [unit.name for unit in self.chosen])
        before = self.model["exclude_modules"]
        return own if before is None else f"(?:{before})|{own}"

    def write(self, file: Path) -> None:
        """Write it with a digest of its content."""
        content = {"format": FORMAT, **asdict(self)}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**content, "digest": _digest(content)}, indent=1) + "\n")


def load(file: str | Path) -> Selection:
    """Read a selection.

    Raises:
        BadSelection: no such file, not a selection, damaged, changed since it was written, or by another version whose
            selections hold something else.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise BadSelection(f"there is no file {path}; a search writes selection.json to flexora.output")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadSelection(f"{path}: not JSON: {error}; copy it again, or run the search") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadSelection(f"{path} is no layer selection in format {FORMAT}")
    digest = content.pop("digest", None)
    if digest != _digest(content):
        raise BadSelection(
            f"{path} was changed after it was written; choose anew with `verl-redit flexora select`, or state layers "
            "of your own in model.exclude_modules without +flexora"
        )
    try:
        return TypeAdapter(Selection).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadSelection(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; choose anew by `verl-redit flexora select` "
            "from the search's record.jsonl, or run the search again"
        ) from error


def conclude(record: Record, settings: FlexoraConfig) -> Selection:
    """Choose from what a search has measured.

    Args:
        settings: how to choose; method and grain are the search's.

    Raises:
        BadSelection: nothing was scored.
        NoChoice: the rule keeps nothing, or everything.
    """
    history = record.history()
    if not history:
        raise BadSelection(
            f"the search has {len(record.steps)} steps, {record.skipped} of them skipped, and no score "
            "yet; let it run longer (sign compares two steps)"
        )
    method = (APPLIED if settings.apply else METHODS)[settings.method]
    history = method.read(history)
    choose = chooser(settings.rule, settings.k, settings.budget, settings.z, np.array(record.sizes))
    scores = method.score(history)
    kept = choose(scores)
    evidence: Evidence | None = None
    if settings.method == "all":
        kept = np.ones(len(scores), dtype=bool)
    else:
        refuse_empty(kept, settings.rule)
        evidence = gather(history, method.score, choose, settings.seed, method.signed, record.batches)
    intervals = evidence.intervals if evidence else [None] * len(scores)
    units = [
        Unit(name, modules, size, float(score), interval, bool(chosen))
        for (name, modules), size, score, interval, chosen in zip(
            record.units.items(), record.sizes, scores, intervals, kept, strict=True
        )
    ]
    beats_chance = bool(evidence and evidence.beats_chance) if method.measures else None
    return Selection(
        units=units,
        settings=asdict(settings),
        model=record.model,
        evidence=evidence,
        beats_chance=beats_chance,
        scored_steps=len(next(iter(history.values()))),
        skipped_steps=record.skipped,
        rounds=record.rounds,
        data_hash=digest_of(group for entry in record.steps for group in entry["groups"]),
        versions={package: importlib.metadata.version(package) for package in PACKAGES},
    )


def _digest(content: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()
