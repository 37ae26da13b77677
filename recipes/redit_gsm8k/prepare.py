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

"""GSM8K's JSONL files to verl's parquet schema, from local files: no network.

    python recipes/redit_gsm8k/prepare.py --source DIR --out DIR

DIR holds ``train.jsonl`` and ``test.jsonl`` as published with "Training Verifiers to Solve Math Word Problems"
(fields ``question`` and ``answer``, the final answer after ``####``). The prompt is that of verl's own GSM8K
preprocessing, so that verl's scorer and published numbers apply.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from verl.utils.reward_score.gsm8k import extract_solution

INSTRUCTION = 'Let\'s think step by step and output the final answer after "####".'


def row(question: str, answer: str, split: str, index: int) -> dict[str, Any]:
    """One row of verl's schema; ValueError if the answer has no final number after ``####``."""
    final = extract_solution(answer)
    if final is None:
        raise ValueError("the answer has no number after ####")
    return {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"{question} {INSTRUCTION}"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": final},
        "extra_info": {"split": split, "index": index, "question": question, "answer": answer},
    }


def read(path: Path, split: str) -> list[dict[str, Any]]:
    """All rows of one file; ValueError naming the file and the line where one is not as it should be."""
    rows = []
    for index, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        try:
            entry = json.loads(line)
            rows.append(row(entry["question"], entry["answer"], split, index))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} line {index + 1}: {type(error).__name__}: {error}") from error
    return rows


def main(
    source: Annotated[Path, typer.Option(help="Folder with train.jsonl and test.jsonl.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option(help="Folder for train.parquet and test.parquet.")],
) -> None:
    """Convert GSM8K to verl's parquet schema."""
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        rows = read(source / f"{split}.jsonl", split)
        pq.write_table(pa.Table.from_pylist(rows), out / f"{split}.parquet")
        print(f"{out / split}.parquet: {len(rows)} rows")


if __name__ == "__main__":
    typer.run(main)
