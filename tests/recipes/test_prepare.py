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
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner
from verl.utils.reward_score import default_compute_score

from recipes import prepare
from recipes.prepare import Dataset

SCRIPT = Path(prepare.__file__)
app = typer.Typer()
app.command()(prepare.main)
GSM8K = {"question": "How many?", "answer": "#### 5"}
GEOMETRY3K = {"problem": "<image>", "answer": "3", "images": [{"bytes": b"png", "path": None}]}
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
        (Dataset.gsm8k, GSM8K, b"{not json", "JSONDecodeError"),
        (Dataset.gsm8k, GSM8K, b'{"question": "\xff"}', "UnicodeDecodeError"),
        (Dataset.gsm8k, GSM8K, {"question": "How many?"}, "KeyError: 'answer'"),
        (Dataset.gsm8k, GSM8K, {**GSM8K, "answer": "5"}, "no number"),
        (Dataset.gsm8k, GSM8K, {**GSM8K, "answer": "#### ."}, "no number"),
        (Dataset.gsm8k, GSM8K, {**GSM8K, "answer": None}, "answer is None, and must be text"),
        (Dataset.gsm8k, GSM8K, {**GSM8K, "question": 7}, "question is 7, and must be text"),
        (Dataset.math, MATH, {**MATH, "solution": "So 2."}, "no \\boxed answer"),
        (Dataset.math, MATH, {**MATH, "solution": "So \\fbox{2}."}, "no \\boxed answer"),
        (Dataset.math, MATH, {**MATH, "solution": "So \\boxed{}."}, "no \\boxed answer"),
        (Dataset.math, MATH, {**MATH, "solution": "So \\boxed\\frac{1}{2}."}, "AssertionError"),
        (Dataset.math, MATH, {**MATH, "level": 1}, "level is 1, and must be text"),
        (Dataset.math, MATH, {**MATH, "problem": None}, "problem is None, and must be text"),
    ],
)  # fmt: skip
def test_an_entry_that_is_not_as_it_should_be_is_named(tmp_path, dataset, good, bad, reason):
    lines = [json.dumps(good).encode(), bad if isinstance(bad, bytes) else json.dumps(bad).encode()]
    (tmp_path / "train.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(ValueError, match="train.jsonl line 2: ") as error:
        prepare.read(dataset, tmp_path, "train")
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"problem": "Find x."}, "0 <image> markers for 1 images"),
        ({"answer": " "}, "answer is ' ', and must be text"),
        ({"images": ["img/1.png"]}, "image 0 has no bytes; take the data set's parquet files"),
        ({"problem": "<image><image>", "images": [*GEOMETRY3K["images"], {"bytes": None, "path": "a.png"}]}, "image 1"),
    ],
)
def test_a_picture_that_verl_could_not_read_is_named(change, reason):
    assert prepare.geometry3k(GEOMETRY3K)["images"] == GEOMETRY3K["images"]
    with pytest.raises(ValueError, match=reason):
        prepare.geometry3k({**GEOMETRY3K, **change})


@pytest.mark.parametrize(
    ("train", "test", "out", "told"),
    [
        (None, None, "out", "neither train.jsonl nor train*.parquet"),
        ([], [GSM8K], "out", "the files of train are empty"),
        ([GSM8K], [GSM8K, {"question": "How many?"}], "out", "test.jsonl line 2: KeyError: 'answer'"),
    ],
)
def test_what_cannot_be_converted_is_said_in_a_line_and_nothing_is_written(tmp_path, train, test, out, told):
    for split, rows in {"train": train, "test": test}.items():
        if rows is not None:
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = CliRunner().invoke(app, ["gsm8k", "--source", str(tmp_path), "--out", str(tmp_path / out)])
    assert said(told, found)
    assert not list(tmp_path.rglob("*.parquet"))


def said(told: str, found) -> bool:
    """Whether a command was refused with this message, which stands in a box where its lines break anywhere."""
    return found.exit_code == 2 and "".join(told.split()) in re.sub(r"[│\s]", "", found.output)


def test_tables_are_not_written_over_and_lines_may_lie_beside_what_is_written(tmp_path):
    command = ["gsm8k", "--source", str(tmp_path), "--out", str(tmp_path)]
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist([GSM8K]), tmp_path / f"{split}.parquet")
    assert said("it would overwrite the source", CliRunner().invoke(app, command))
    assert pq.read_table(tmp_path / "train.parquet").to_pylist() == [GSM8K]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(GSM8K) + "\n")
    assert CliRunner().invoke(app, command).exit_code == 0
    assert "prompt" in pq.read_table(tmp_path / "train.parquet").to_pylist()[0]


def test_a_file_is_no_folder_to_write_to(tmp_path):
    (tmp_path / "file").touch()
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(GSM8K) + "\n")
    command = ["gsm8k", "--source", str(tmp_path), "--out"]
    assert said("is a file", CliRunner().invoke(app, [*command, str(tmp_path / "file")]))
    assert said("Not a directory", CliRunner().invoke(app, [*command, str(tmp_path / "file/below")]))
