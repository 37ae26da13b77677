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

"""Reads the logs of verl's ``file`` logger: lines of ``{"step": K, "data": {metric: value}}``."""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any


class LogError(ValueError):
    """Logs that cannot be compared; the message names the file, the line and the mend."""


@dataclass(frozen=True)
class Run:
    """One log.

    Args:
        file: where it is.
        steps: step -> metric -> value; a step that was logged twice has the later values.
        notes: what a reader must know of it.
    """

    file: Path
    steps: dict[int, dict[str, float]]
    notes: list[str] = field(default_factory=list)


def read_arms(folders: list[Path]) -> dict[str, list[Run]]:
    """The runs of each arm, named after its folder; each log below a folder is one run, and a log is an arm of its own.

    ``NAME.jsonl.1``, ``NAME.jsonl.2``, … beside ``NAME.jsonl`` are what earlier starts of the same run have logged.

    Raises:
        LogError: a folder without a log, a line that is not verl's, two arms of one name, or runs of different tasks.
    """
    arms: dict[str, list[Run]] = {}
    for folder in folders:
        name = folder.resolve().name if folder.is_dir() else folder.stem
        if name in arms:
            raise LogError(f"{folder}: there is an arm named {name} already; give folders with different names")
        arms[name] = _read_arm(folder)
    _require_one_task(arms)
    return arms


def _read_arm(folder: Path) -> list[Run]:
    logs = sorted(_logs_below(folder)) if folder.is_dir() else [folder]
    starts = [of_run for of_run in map(_starts, logs) if of_run and _is_log(of_run[-1])]
    found = [_joined([read_run(start) for start in of_run]) for of_run in starts]
    runs = [run for run in found if run.steps]
    if not runs:
        raise LogError(
            f"{folder}: no log of verl's file logger with a whole line in it; set trainer.logger=[console,file], and "
            f"VERL_FILE_LOGGER_PATH to a .jsonl file in that folder"
        )
    runs[0].notes.extend(f"{run.file} beside it has no whole line and is left out" for run in found if not run.steps)
    return runs


def _logs_below(folder: Path) -> set[Path]:
    """Each run's log; of one that is about to go on there may be earlier starts' alone."""
    earlier = {other.with_suffix("") for other in folder.rglob("*.jsonl.*") if other.suffix[1:].isdigit()}
    return {*folder.rglob("*.jsonl"), *earlier}


def _starts(log: Path) -> list[Path]:
    """The logs of a run's starts, the last one's at the end."""
    beside = filter(Path.is_file, log.parent.glob(f"{escape(log.name)}.*"))
    earlier = [other for other in beside if other.suffix[1:].isdigit()]
    return [*sorted(earlier, key=lambda other: int(other.suffix[1:])), *([log] if log.is_file() else [])]


def _joined(starts: list[Run]) -> Run:
    """One run from what each of its starts has logged: a later start tells what happened after its first step. At that
    one, verl validates what it has loaded."""
    steps: dict[int, dict[str, float]] = {}
    for start in starts:
        first = min(start.steps, default=math.inf)
        before = {step: data for step, data in steps.items() if step <= first}
        steps = before | {step: {**before.get(step, {}), **data} for step, data in start.steps.items()}
    return Run(starts[-1].file, steps, [note for start in starts for note in start.notes])


def _is_log(file: Path) -> bool:
    """Whether the first line is verl's, or there is none: dumps of rollouts and validations are .jsonl as well."""
    with file.open("rb") as lines:
        first = lines.readline()
    if not first:
        return True
    try:
        entry = json.loads(first)
    except ValueError:
        return first.startswith(b'{"step":')
    return isinstance(entry, dict) and entry.keys() == {"step", "data"}


def read_run(file: Path) -> Run:
    """One log; a last line that was cut off is left out, with a note."""
    steps: dict[int, dict[str, float]] = {}
    not_finite: Counter[str] = Counter()
    notes = []
    *whole, rest = file.read_bytes().split(b"\n")
    for number, line in enumerate(whole, start=1):
        step, data = _entry(line, f"{file} line {number}")
        numbers = {name: _float(value) for name, value in data.items() if _is_number(value)}
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        not_finite.update(numbers.keys() - finite.keys())
        steps[step] = {**steps.get(step, {}), **finite}
    if rest:
        notes.append("its last line was cut off and is left out")
    notes += [f"{name} is not finite at {count} steps, which are left out of it" for name, count in not_finite.items()]
    return Run(file, steps, notes)


def _entry(line: bytes, place: str) -> tuple[int, dict[str, Any]]:
    try:
        entry = json.loads(line)
        return int(entry["step"]), dict(entry["data"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise LogError(
            f"{place}: not a line of verl's file logger ({type(error).__name__}: {error}); remove it, or the file"
        ) from error


def _is_number(value: Any) -> bool:
    """What verl writes for a number; null is what it writes for one that is not finite."""
    return value is None or isinstance(value, (int, float)) and not isinstance(value, bool)


def _float(value: float | None) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _require_one_task(arms: dict[str, list[Run]]) -> None:
    """Raise LogError unless all runs that validate do so on the same data sources, be it template by template."""
    seen = {
        str(run.file): sources
        for runs in arms.values()
        for run in runs
        if (sources := {data_source(name) for name in metrics_of([run]) if is_validation(name)})
    }
    for file, sources in seen.items():
        first, wanted = next(iter(seen.items()))
        if not any(_same(source, other) for source in sources for other in wanted):
            raise LogError(
                f"runs of different tasks: {first} validates on {', '.join(sorted(wanted)[:3])}, {file} on "
                f"{', '.join(sorted(sources)[:3])}; compare runs with the same validation data"
            )


def _same(source: str, other: str) -> bool:
    """Whether one data source is the other, or a template of it."""
    return source == other or source.startswith(f"{other}/") or other.startswith(f"{source}/")


def is_validation(metric: str) -> bool:
    """Whether verl logs it for a validation's accuracy: ``val-core/<data source>/<what>/mean@<samples>``."""
    return metric.startswith("val-core/") and metric.rsplit("/", 1)[-1].startswith("mean@")


def data_source(validation: str) -> str:
    """The data source, perhaps with a template, of a validation's metric."""
    return validation.split("/", 1)[1].rsplit("/", 2)[0]


def metrics_of(runs: list[Run]) -> set[str]:
    """All metrics that occur."""
    return {name for run in runs for data in run.steps.values() for name in data}
