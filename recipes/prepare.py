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

"""GSM8K, MATH or Geometry3K to verl's parquet schemas, from local files: no network.

    python recipes/prepare.py gsm8k --source DIR --out DIR
    python recipes/prepare.py math --source DIR --out DIR
    python recipes/prepare.py geometry3k --source DIR --out DIR

DIR holds ``train.jsonl`` and ``test.jsonl``, or parquet files whose names begin with ``train`` and ``test``, as these
data sets are published: GSM8K with ``question`` and ``answer`` (the final number after ``####``), MATH with
``problem``, ``solution`` (the final answer boxed), ``level`` and ``type``, Geometry3K with ``problem``, ``answer`` and
``images``. Prompts are those of verl's own preprocessing, so that verl's scorers and published numbers apply; the raw
question is in ``extra_info``. GSM8K and MATH, which have worked solutions, also come as conversations for verl's
supervised trainers (``train_conversations.parquet``).
"""

import json
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from verl.utils.reward_score.gsm8k import extract_solution
from verl.utils.reward_score.math_reward import last_boxed_only_string, remove_boxed

GSM8K_INSTRUCTION = 'Let\'s think step by step and output the final answer after "####".'
MATH_INSTRUCTION = "Let's think step by step and output the final answer within \\boxed{}."
GEOMETRY3K_INSTRUCTION = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. "
    "The reasoning process MUST BE enclosed within <think> </think> tags. "
    "The final answer MUST BE put in \\boxed{}."
)


def gsm8k(entry: dict[str, Any]) -> dict[str, Any]:
    """One row without its place; ValueError if the answer has no final number after ``####``."""
    question, answer = _text(entry, "question"), _text(entry, "answer")
    final = extract_solution(answer)
    if final is None or not any(map(str.isdigit, final)):
        raise ValueError("the answer has no number after ####")
    return _row("openai/gsm8k", f"{question} {GSM8K_INSTRUCTION}", final, question, answer)


def math(entry: dict[str, Any]) -> dict[str, Any]:
    """One row without its place; ValueError if the solution has no boxed answer."""
    problem, solution = _text(entry, "problem"), _text(entry, "solution")
    boxed = last_boxed_only_string(solution) or ""  # an \fbox too, which verl cannot open
    if not boxed.startswith("\\boxed") or not remove_boxed(boxed).strip():
        raise ValueError("the solution has no \\boxed answer")
    source, prompt = "DigitalLearningGmbH/MATH-lighteval", f"{problem} {MATH_INSTRUCTION}"
    row = _row(source, prompt, remove_boxed(boxed), problem, solution)
    row["extra_info"] |= {"level": _text(entry, "level"), "type": _text(entry, "type")}
    return row


def geometry3k(entry: dict[str, Any]) -> dict[str, Any]:
    """One row without its place; ValueError unless the problem has a marker for each image, which has its bytes."""
    problem, answer = _text(entry, "problem"), _text(entry, "answer")
    markers, images = problem.count("<image>"), len(entry["images"])
    if markers != images or not images:
        raise ValueError(f"the problem has {markers} <image> markers for {images} images")
    for number, image in enumerate(entry["images"]):
        if not (isinstance(image, dict) and isinstance(image.get("bytes"), bytes)):
            raise ValueError(f"image {number} has no bytes; take the data set's parquet files")
    row = _row("hiyouga/geometry3k", f"{problem} {GEOMETRY3K_INSTRUCTION}", answer, problem, answer)
    return {**row, "images": entry["images"]}


def _text(entry: dict[str, Any], key: str) -> str:
    text = entry[key]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{key} is {text!r}, and must be text")
    return text


def _row(data_source: str, prompt: str, truth: str, question: str, answer: str) -> dict[str, Any]:
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": prompt}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"question": question, "answer": answer},
    }


class Dataset(str, Enum):
    """A data set that can be read."""

    gsm8k = "gsm8k"
    math = "math"
    geometry3k = "geometry3k"


ROWS: dict[Dataset, Callable[[dict[str, Any]], dict[str, Any]]] = {
    Dataset.gsm8k: gsm8k,
    Dataset.math: math,
    Dataset.geometry3k: geometry3k,
}


def entries(source: Path, split: str) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """What a split's files hold: where an entry is, and how to read it.

    Raises:
        ValueError: the folder has no file of this split.
    """
    lines, tables = source / f"{split}.jsonl", sorted(source.glob(f"{split}*.parquet"))
    if lines.is_file():
        with lines.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield f"{lines} line {number}", partial(json.loads, line)
    elif tables:
        for table in tables:
            for number, entry in enumerate(pq.read_table(table).to_pylist()):
                yield f"{table} row {number}", partial(dict, entry)
    else:
        raise ValueError(f"{source} has neither {split}.jsonl nor {split}*.parquet; name the data set's folder")


def read(dataset: Dataset, source: Path, split: str) -> list[dict[str, Any]]:
    """All rows of a split; ValueError if there are none, or naming the file and the line or row of a bad one."""
    rows = []
    for index, (place, entry) in enumerate(entries(source, split)):
        try:
            row = ROWS[dataset](entry())
        except (ValueError, KeyError, TypeError, AssertionError) as error:  # verl asserts that a box has braces
            raise ValueError(f"{place}: {type(error).__name__}: {error}") from error
        row["extra_info"] = {"split": split, "index": index, **row["extra_info"]}
        rows.append(row)
    if not rows:
        raise ValueError(f"{source}: the files of {split} are empty")
    return rows


def conversation(row: dict[str, Any]) -> dict[str, Any]:
    """A row for verl's supervised trainers: its prompt, answered by its worked solution."""
    reply = {"role": "assistant", "content": row["extra_info"]["answer"]}
    return {"data_source": row["data_source"], "messages": [*row["prompt"], reply], "extra_info": row["extra_info"]}


def main(
    dataset: Annotated[Dataset, typer.Argument(help="What the files are.")],
    source: Annotated[Path, typer.Option(help="Folder with the data set's files.", exists=True, file_okay=False)],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for train.parquet, test.parquet and conversations.")
    ],
) -> None:
    """Convert a data set to verl's parquet schemas."""
    try:
        splits = {split: read(dataset, source, split) for split in ("train", "test")}
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--source") from error
    lines = all((source / f"{split}.jsonl").is_file() for split in splits)
    if out.resolve() == source.resolve() and not lines:
        raise typer.BadParameter("it would overwrite the source; name another folder", param_hint="--out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--out") from error
    for split, rows in splits.items():
        written = {split: rows}
        if dataset != Dataset.geometry3k:
            written[f"{split}_conversations"] = [conversation(row) for row in rows]
        for name, table in written.items():
            pq.write_table(pa.Table.from_pylist(table), out / f"{name}.parquet")
            print(f"{out / name}.parquet: {len(rows)} rows")


if __name__ == "__main__":
    typer.run(main)
