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

"""What a search has measured, step by step: a file of JSON lines that grows while the run goes on."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from verl_redit.flexora.parts import digest_of
from verl_redit.flexora.scores import METHODS, History

FORMAT = 1
BEGIN_ANEW = "begin a new run (trainer.resume_mode=disable, and another trainer.default_local_dir)"
# settings that decide what a step measures, and what is chosen from it
MEASURING = ["method", "grain", "held_out", "inner_steps", "apply", "seed"]
CHOOSING = ["mode", "search_steps", "rule", "k", "budget", "z", "switch"]


class BadRecord(ValueError):
    """A record that cannot be read; the message names file and line."""


@dataclass
class Record:
    """A search's history.

    Args:
        settings: the config node ``flexora``.
        units: unit -> its modules, in the order of the statistics.
        sizes: LoRA parameters of each unit.
        model: what the layers belong to: path, model type, LoRA settings.
        steps: one entry for each step: its number, its prompt groups, and statistics, or why it was skipped.
    """

    settings: dict[str, Any]
    units: dict[str, list[str]]
    sizes: list[int]
    model: dict[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)

    def add(self, groups: Iterable[str], statistics: dict[str, np.ndarray], skipped: str | None = None) -> None:
        """Take over one step; one with a number that is not finite is skipped, and says where it was.

        Args:
            groups: of its rows, by name; an empty one is of rows that fill up a batch.
            skipped: another reason to skip it.
        """
        entry: dict[str, Any] = {"step": len(self.steps) + 1, "groups": sorted(set(groups) - {""})}
        if skipped:
            entry["skipped"] = skipped
        for name, values in statistics.items():
            if not np.isfinite(values).all():
                unit = list(self.units)[int(np.argmin(np.isfinite(values)))]
                entry["skipped"] = f"{name} of {unit} is not finite"
        if not statistics:
            entry.setdefault("skipped", "there is no earlier step to compare with")
        if "skipped" not in entry:
            entry["statistics"] = {name: values.tolist() for name, values in statistics.items()}
        self.steps.append(entry)

    def history(self) -> History:
        """The statistics of the steps that were not skipped."""
        rows = defaultdict(list)
        for entry in self.steps:
            for name, values in entry.get("statistics", {}).items():
                rows[name].append(values)
        return {name: np.array(values) for name, values in rows.items()}

    @property
    def batches(self) -> list[str]:
        """A name of the prompt groups of each step in `history`."""
        return [digest_of(entry["groups"]) for entry in self.steps if entry.get("statistics")]

    @property
    def rounds(self) -> float:
        """How often each prompt was seen in `history`, on average; mini-batches that PPO epochs repeat count once."""
        batches = {tuple(entry["groups"]) for entry in self.steps if entry.get("statistics")}
        return sum(map(len, batches)) / max(len(set().union(*batches)), 1)

    @property
    def skipped(self) -> int:
        """Steps that were not scored: gradients that were not finite, one prompt group alone, or none to compare with
        (``sign``: the first of each start)."""
        return sum("skipped" in entry for entry in self.steps)

    @property
    def followed(self) -> bool:
        """Whether the run that wrote it has chosen, and gone on with the choice."""
        needed = self.settings["search_steps"] if METHODS[self.settings["method"]].measures else 1
        return self.settings["mode"] == "one_run" and len(self.steps) >= needed

    def resume(self, file: Path) -> bool:
        """Go on from what a checkpoint holds; returns whether its adapter has `followed` a choice.

        Raises:
            BadRecord: it holds no search, or one with other settings.
        """
        try:
            saved = read(file)
        except BadRecord as error:
            told = not_kept(file) or f"is no checkpoint of a search ({error}); {BEGIN_ANEW}"
            raise BadRecord(f"flexora: {file.parent} {told}") from error
        if names := self._differences(saved):
            raise BadRecord(
                f"flexora: {file.parent} was written with other settings ({', '.join(names)}); set them back, or "
                f"{BEGIN_ANEW}"
            )
        self.steps = saved.steps
        return saved.followed

    def refuse_other(self, file: Path) -> None:
        """Raise FileExistsError if a file is there that is not of this search."""
        if not file.exists():
            return
        try:
            names = self._different(read(file), MEASURING)
            found = f"of a search with other settings ({', '.join(names)})" if names else None
        except BadRecord as error:
            found = f"not this search's ({error})"
        if found:
            raise FileExistsError(f"{file} is {found}; set flexora.output to another folder, or remove it")

    def _differences(self, other: "Record") -> list[str]:
        """Settings that must be those of the other record for a run to go on from it, and are not."""
        # a method without steps has chosen from the start
        if other.followed or not METHODS[other.settings["method"]].measures:
            return self._different(other, MEASURING + CHOOSING)
        # gates that act are in B once a search has ended, and in the forward pass before
        ends = min(settings["search_steps"] for settings in (self.settings, other.settings))
        has_ended = other.settings["apply"] and len(other.steps) >= ends
        return self._different(other, [*MEASURING, "search_steps"] if has_ended else MEASURING)

    def _different(self, other: "Record", keys: list[str]) -> list[str]:
        names = [key for key in keys if self.settings[key] != other.settings.get(key)]
        return names + ["layers"] * ((self.units, self.sizes) != (other.units, other.sizes))

    @property
    def header(self) -> dict[str, Any]:
        """The first line of the file."""
        return {
            "format": FORMAT,
            "settings": self.settings,
            "units": self.units,
            "sizes": self.sizes,
            "model": self.model,
        }

    def write_last(self, file: Path) -> bool:
        """Add the last step to the file, with the first one as `replace`; returns whether it was this search's."""
        if len(self.steps) == 1:
            return self.replace(file)
        with file.open("a") as lines:
            lines.write(json.dumps(self.steps[-1]) + "\n")
        return True

    def replace(self, file: Path) -> bool:
        """Write all of it, and move a file with something else in it aside; returns whether it was this search's."""
        ours = file.exists() and self._text.startswith(file.read_text())
        if not ours:
            move_aside(file)
        self.write(file)
        return ours

    def write(self, file: Path) -> None:
        """Write all of it."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self._text)

    @property
    def _text(self) -> str:
        return "".join(json.dumps(line) + "\n" for line in [self.header, *self.steps])


def move_aside(file: Path) -> None:
    """Give a file, if there is one, the next free number before its suffix."""
    if file.exists():
        asides = (file.with_suffix(f".{number}{file.suffix}") for number in count(1))
        file.rename(next(aside for aside in asides if not aside.exists()))


def checkpointed(checkpoint: Path, ranks: int, rank: int) -> Path:
    """Where a rank keeps the record in a checkpoint of verl's: beside its shard, as machines need not share a disk."""
    return checkpoint / f"flexora_world_size_{ranks}_rank_{rank}.jsonl"


def not_kept(file: Path) -> str | None:
    """Why a checkpoint has no such file of `checkpointed`, if it has those of another number of ranks."""
    others = sorted(file.parent.glob(f"flexora_world_size_*_rank_*{file.suffix}"))
    if file.is_file() or not others:
        return None
    return f"was written by another number of ranks ({others[0].name}), and this run needs {file.name}; use as many"


def read(file: str | Path) -> Record:
    """Read a record; a last line that was cut off as the run died is left out.

    Raises:
        BadRecord: no such file, or not the record of a search.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise BadRecord(f"there is no file {path}; a search writes record.jsonl to flexora.output")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BadRecord(f"{path}: byte {error.start} is not UTF-8, so it is no record of a layer search") from error
    entries: list[Any] = []
    for number, line in enumerate(lines, start=1):
        try:
            entries += [json.loads(line)] if line else []
        except ValueError as error:
            if not entries:
                break
            if number < len(lines):  # a whole line ends in a line break
                raise BadRecord(f"{path}: line {number} is damaged: {error}") from error
    header = entries[0] if entries and isinstance(entries[0], dict) else {}
    if header.get("format") != FORMAT or not {"settings", "units", "sizes", "model"} <= header.keys():
        raise BadRecord(f"{path} is no record of a layer search in format {FORMAT} (record.jsonl)")
    for number, entry in enumerate(entries[1:], start=2):
        if not isinstance(entry, dict):
            raise BadRecord(f"{path}: line {number} is no step of a search")
        if not isinstance(entry.get("groups"), list):
            raise BadRecord(f"{path}: line {number} names no prompt groups; run the search again")
        if any(len(values) != len(header["units"]) for values in entry.get("statistics", {}).values()):
            raise BadRecord(f"{path}: line {number} has not one number for each of {len(header['units'])} units")
    return Record(header["settings"], header["units"], header["sizes"], header["model"], entries[1:])
