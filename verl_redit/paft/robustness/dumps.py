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

"""verl's validation dumps, read as a grid of items and templates."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from verl_redit.paft.pool import TIERS
from verl_redit.paft.robustness.statistics import Outcomes, shortened

TEXTS = ("output", "template_id", "item_id", "tier")
MEND = "validate with +paft=... and its grid (paft.validation=grid)"


class DumpError(ValueError):
    """A dump that cannot be used; the message names the run or file, the line and the mend."""


@dataclass(frozen=True)
class Run:
    """The last validation of a run, or the one that was asked for.

    Args:
        name: for tables and pictures.
        file: the dump.
        step: training step of the dump.
        samples: sampled responses of each item under each template.
        outcomes: what came out.
    """

    name: str
    file: Path
    step: int
    samples: int
    outcomes: Outcomes


def read_runs(folders: list[Path], step: int | None, measure_lengths: Callable[[list[str]], list[int]]) -> list[Run]:
    """Read one dump of each run.

    Args:
        folders: run folders with verl's dumps in ``validation``, or the dumps' own folders. Runs are named by them,
            with as much of the path as makes the names unique.
        step: which dump; None for each run's last.
        measure_lengths: the length of each response text.

    Raises:
        DumpError: no dumps, none of this step, or not the dump of a complete grid.
    """
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise DumpError("a folder is named twice; name each run once")
    parts = next(parts for parts in count(1) if len({path.parts[-parts:] for path in paths}) == len(paths))
    return [_read_run(str(Path(*path.parts[-parts:])), path, step, measure_lengths) for path in paths]


def token_counter(folder: Path) -> Callable[[list[str]], list[int]]:
    """Counts a text's tokens. Dumps hold text without special tokens, so the model may have written a few more.

    Raises:
        DumpError: the folder holds no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DumpError(f"{folder}: no tokenizer ({reason}); name the folder of the run's model") from error
    return lambda texts: [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def count_characters(texts: list[str]) -> list[int]:
    """The length of each text in characters."""
    return [len(text) for text in texts]


def _read_run(name: str, folder: Path, step: int | None, measure_lengths: Callable[[list[str]], list[int]]) -> Run:
    dumps = folder / "validation" if (folder / "validation").is_dir() else folder
    steps = {int(file.stem): file for file in dumps.glob("*.jsonl") if re.fullmatch("[0-9]+", file.stem)}
    if not steps:
        raise DumpError(
            f"{dumps}: no dump (<step>.jsonl); name another folder, or run with trainer.validation_data_dir={dumps}"
        )
    chosen = max(steps) if step is None else step
    if chosen not in steps:
        raise DumpError(f"run {name}: no dump of step {step}; it has {', '.join(map(str, sorted(steps)))}")
    file = steps[chosen]
    with file.open("rb") as lines:
        rows = pd.DataFrame([_row(line, f"{file}, line {number}") for number, line in enumerate(lines, start=1)])
    if rows.empty:
        raise DumpError(f"{file} is empty; the run is still writing it, or died while it did: choose another --step")
    rows["length"] = measure_lengths(list(rows.pop("output")))
    samples, outcomes = _outcomes(rows, f"run {name}, step {chosen}")
    return Run(name, file, chosen, samples, outcomes)


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        if not isinstance(entry, dict):
            raise TypeError(f"it is {type(entry).__name__}")
    except (ValueError, TypeError) as error:
        raise DumpError(
            f"{where}: not a whole JSON object ({error}); the run is still writing the file, or died while it did: "
            "choose another --step, or validate again"
        ) from error
    if missing := [key for key in ("uid", *TEXTS, "acc", "parsed") if key not in entry]:
        raise DumpError(f"{where}: no {', '.join(missing)}; {MEND}")
    if entry["acc"] is None:
        raise DumpError(f"{where}: acc is null, so {entry['uid']} was not scored; mend the scorer and validate again")
    for key in ("acc", "parsed"):
        value = entry[key]
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
            raise DumpError(f"{where}: {key} is {value!r}; let the scorer return a number from 0 to 1")
    for key in TEXTS:
        if not isinstance(entry[key], str):
            raise DumpError(f"{where}: {key} is {entry[key]!r}, not text; {MEND}")
    for key in ("template_id", "item_id"):
        if not entry[key]:
            raise DumpError(f"{where}: {key} is blank, as on prompts without a template; {MEND}")
    session = re.fullmatch("(.+_[0-9]+)_[0-9]+", str(entry["uid"]))
    if not session:
        raise DumpError(f"{where}: uid {entry['uid']!r} is no <prompt>_<session>_<output>; set trainer.use_v1=true")
    parsed = math.nan if entry["parsed"] is None else float(entry["parsed"])
    texts = {key: entry[key] for key in TEXTS}
    return {**texts, "session": session[1], "acc": float(entry["acc"]), "parsed": parsed}


def _outcomes(rows: pd.DataFrame, where: str) -> tuple[int, Outcomes]:
    """Samples of each cell, and what came out. A session may have several outputs: their lengths add up, and its score
    stands beside each of them."""
    tiers = rows.groupby("template_id")["tier"].unique()
    for template, its_tiers in tiers.items():
        if len(its_tiers) > 1:
            raise DumpError(f"{where}: template {template} has the tiers {', '.join(map(repr, its_tiers))}; {MEND}")
    rows["wrong_but_parsed"] = rows["parsed"] * (1 - rows["acc"])
    scores = ["template_id", "item_id", "acc", "parsed", "wrong_but_parsed"]
    sessions = rows.groupby("session").agg(dict.fromkeys(scores, "last") | {"length": "sum"})
    cells = sessions.groupby(["item_id", "template_id"])
    counts = cells.size().unstack(fill_value=0)
    samples = int(counts.to_numpy().max())
    if short := [
        f"template {template}, item {item} ({found} of {samples})"
        for (item, template), found in counts.stack().items()
        if found < samples
    ]:
        raise DumpError(
            f"{where}: {len(short)} of {counts.size} cells lack samples: {shortened(short)}. verl leaves sessions that "
            "failed out of its dumps: find the reason in the run's log, mend it and validate again"
        )
    if min(counts.shape) < 2:
        raise DumpError(
            f"{where}: items × templates: {counts.shape[0]} × {counts.shape[1]}; robustness needs two or more of each. "
            f"{MEND.capitalize()}"
        )
    ids = sorted(counts.columns, key=lambda template: (_rank(tiers[template][0]), template))

    def matrix(column: str) -> np.ndarray:
        # with min_count, a cell with an unknown value is NaN
        return (cells[column].sum(min_count=samples) / samples).unstack()[ids].to_numpy(dtype=np.float64)

    return samples, Outcomes(
        items=tuple(counts.index),
        templates=tuple(ids),
        tiers=tuple(tiers[template][0] for template in ids),
        accuracy=matrix("acc"),
        parsed=matrix("parsed"),
        wrong_but_parsed=matrix("wrong_but_parsed"),
        length=matrix("length"),
    )


def _rank(tier: str) -> tuple[int, str]:
    """The pool format's order of tiers, from near to far."""
    return (TIERS.index(tier) if tier in TIERS else len(TIERS), tier)
