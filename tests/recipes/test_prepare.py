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

"""Local files become verl's rows, verl's scorers take every published answer, and a bad entry is named."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from verl.utils.reward_score import default_compute_score

from recipes import prepare
from recipes.prepare import Dataset

SCRIPT = Path(prepare.__file__)
MATH = {"problem": "Find $x$.", "solution": "So \\boxed{\\frac{1}{2}}.", "level": "Level 1", "type": "Algebra"}


def convert(dataset: str, source: Path, out: Path) -> None:
    subprocess.run([sys.executable, SCRIPT, dataset, "--source", source, "--out", out], check=True)


def test_the_real_files_convert_and_verls_scorer_accepts_every_published_answer(gsm8k_source, tmp_path):
    convert("gsm8k", gsm8k_source, tmp_path)
    for split, count in (("train", 7473), ("test", 1319)):
        rows = pq.read_table(tmp_path / f"{split}.parquet").to_pylist()
        assert len(rows) == count
        for index, row in enumerate(rows):
            info = row["extra_info"]
            assert (info["split"], info["index"]) == (split, index)
            assert row["prompt"][0]["content"].startswith(info["question"])
            assert default_compute_score(row["data_source"], info["answer"], row["reward_model"]["ground_truth"]) == 1
        for row, taught in zip(
            rows, pq.read_table(tmp_path / f"{split}_conversations.parquet").to_pylist(), strict=True
        ):
            assert taught["messages"][:-1] == row["prompt"] and taught["extra_info"] == row["extra_info"]
            assert taught["messages"][-1] == {"role": "assistant", "content": row["extra_info"]["answer"]}


def test_math_from_lines_and_from_tables(tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps(MATH) + "\n")
    for part in range(2):
        pq.write_table(pa.Table.from_pylist([MATH]), tmp_path / f"test-0000{part}-of-00002.parquet")
    [row], rows = prepare.read(Dataset.math, tmp_path, "train"), prepare.read(Dataset.math, tmp_path, "test")
    assert [row["extra_info"]["index"] for row in rows] == [0, 1]
    assert row["reward_model"]["ground_truth"] == "\\frac{1}{2}" and row["extra_info"]["level"] == "Level 1"
    assert default_compute_score(row["data_source"], MATH["solution"], row["reward_model"]["ground_truth"]) == 1
    assert default_compute_score(row["data_source"], "\\boxed{2}", row["reward_model"]["ground_truth"]) == 0


def test_geometry3k_keeps_its_images_through_the_file(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(picture, "PNG")
    entry = {"problem": "<image>Find $x$.", "answer": "3", "images": [{"bytes": picture.getvalue(), "path": None}]}
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist([entry]), tmp_path / f"{split}-00000-of-00001.parquet")
    convert("geometry3k", tmp_path, tmp_path / "out")
    [row] = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert row["prompt"][0]["content"].startswith("<image>Find $x$. You FIRST")
    assert row["extra_info"]["question"] == entry["problem"] and row["reward_model"]["ground_truth"] == "3"
    assert Image.open(io.BytesIO(row["images"][0]["bytes"])).size == (4, 4)
    assert not (tmp_path / "out" / "train_conversations.parquet").exists()  # there are no solutions to teach


@pytest.mark.parametrize(
    ("dataset", "good", "bad", "reason"),
    [
        (Dataset.gsm8k, {"question": "How many?", "answer": "#### 5"}, "{not json", "JSONDecodeError"),
        (Dataset.gsm8k, {"question": "How many?", "answer": "#### 5"}, {"question": "How many?"}, "KeyError: 'answer'"),
        (Dataset.gsm8k, {"question": "How many?", "answer": "#### 5"}, {"question": "?", "answer": "5"}, "no number"),
        (Dataset.math, MATH, {**MATH, "solution": "So 2."}, "no \\boxed answer"),
        (Dataset.geometry3k, {"problem": "<image>", "answer": "3", "images": [1]},
         {"problem": "Find x.", "answer": "3", "images": [1]}, "0 <image> markers for 1 images"),
    ],
)  # fmt: skip
def test_an_entry_that_is_not_as_it_should_be_is_named(tmp_path, dataset, good, bad, reason):
    lines = [json.dumps(good), bad if isinstance(bad, str) else json.dumps(bad)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="train.jsonl line 2: ") as error:
        prepare.read(dataset, tmp_path, "train")
    assert reason in str(error.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither train.jsonl nor train\\*.parquet"):
        prepare.read(Dataset.gsm8k, tmp_path, "train")
