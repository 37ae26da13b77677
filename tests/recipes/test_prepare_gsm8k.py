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

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from verl.utils.reward_score import default_compute_score

SCRIPT = Path(__file__).parents[2] / "recipes" / "redit_gsm8k" / "prepare.py"
spec = importlib.util.spec_from_file_location("prepare_gsm8k", SCRIPT)
prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare)


def test_the_real_files_convert_and_verls_scorer_accepts_every_published_answer(gsm8k_source, tmp_path):
    subprocess.run([sys.executable, SCRIPT, "--source", gsm8k_source, "--out", tmp_path], check=True)
    for split, count in (("train", 7473), ("test", 1319)):
        rows = pq.read_table(tmp_path / f"{split}.parquet").to_pylist()
        assert len(rows) == count
        for index, row in enumerate(rows):
            info = row["extra_info"]
            assert (info["split"], info["index"]) == (split, index)
            assert row["prompt"][0]["content"].startswith(info["question"])
            assert default_compute_score(row["data_source"], info["answer"], row["reward_model"]["ground_truth"]) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", "JSONDecodeError"),
        (json.dumps({"question": "How many?"}), "KeyError: 'answer'"),
        (json.dumps({"question": "How many?", "answer": "five"}), "the answer has no number after ####"),
    ],
)
def test_a_line_that_is_not_as_it_should_be_is_named(tmp_path, line, reason):
    good = json.dumps({"question": "How many?", "answer": "#### 5"})
    path = tmp_path / "train.jsonl"
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(ValueError, match="train.jsonl line 2: ") as error:
        prepare.read(path, "train")
    assert reason in str(error.value)
