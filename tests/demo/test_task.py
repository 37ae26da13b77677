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

import random

import pyarrow.parquet as pq
from verl.utils.reward_score import default_compute_score

from verl_redit.demo.task import DATA_SOURCE, demonstration, problems, write_rows


def test_verls_scorer_marks_solutions_1_and_their_unmarked_or_wrong_forms_0():
    for problem in problems(200, 0, "train"):
        assert default_compute_score(DATA_SOURCE, problem.solution(), str(problem.answer)) == 1
        assert default_compute_score(DATA_SOURCE, problem.solution().replace("####", ""), str(problem.answer)) == 0
        assert default_compute_score(DATA_SOURCE, problem.solution(), str(problem.answer + 1)) == 0


def test_problems_depend_on_seed_and_split_only():
    assert problems(20, 0, "train") == problems(20, 0, "train")
    assert problems(20, 0, "train") != problems(20, 1, "train")
    assert problems(20, 0, "train") != problems(20, 0, "test")


def test_half_of_the_demonstrations_are_right():
    draw = random.Random(0)
    rows = problems(2000, 0, "train")
    right = [default_compute_score(DATA_SOURCE, demonstration(row, draw), str(row.answer)) for row in rows]
    assert 0.45 < sum(right) / len(right) < 0.53  # 0.65 x 0.75


def test_rows_have_verls_gsm8k_schema(tmp_path):
    rows = problems(3, 0, "test")
    write_rows(rows, "test", tmp_path / "test.parquet")
    for index, (problem, row) in enumerate(
        zip(rows, pq.read_table(tmp_path / "test.parquet").to_pylist(), strict=True)
    ):
        assert row["data_source"] == "openai/gsm8k"
        assert row["prompt"] == [{"role": "user", "content": problem.question}]
        assert row["reward_model"] == {"style": "rule", "ground_truth": str(problem.answer)}
        assert (row["extra_info"]["split"], row["extra_info"]["index"]) == ("test", index)
