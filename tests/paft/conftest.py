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

"""A small pool, rows in verl's schema and a tokenizer."""

from pathlib import Path

import pytest
import yaml

from verl_redit.demo import task
from verl_redit.demo.model import build_tokenizer
from verl_redit.paft import pool_file as pools
from verl_redit.paft.pool import Pool

TRAIN, HELD_OUT = 5, 3


def entry(id: str, user: str, split: str = "train", **values) -> dict:
    """One template as a pool file holds it."""
    return {"id": id, "user": user, "split": split, **values}


@pytest.fixture
def write_pool(tmp_path):
    """Writes a pool file; returns its path."""

    def write(*templates: dict, name: str = "pool.yaml", **shared) -> str:
        file = tmp_path / name
        file.write_text(yaml.safe_dump({"contract": "hash4", **shared, "templates": list(templates)}, sort_keys=False))
        return str(file)

    return write


@pytest.fixture
def pool_file(write_pool) -> str:
    """Five train and three held-out templates, none like another."""
    words = ["Solve", "Work out", "Reply to", "Reckon", "Find", "Compute", "Answer", "Determine"]
    frames = [
        "{{{{ question }}}} {} this and end with ####",
        "{}: {{{{ question }}}}\nLast line: #### and the number",
        "Task for a clerk. {} it carefully.\n\n{{{{ question }}}}\n\n#### goes before your result",
    ]
    templates = [
        entry(f"train-{number}", frames[number % 3].format(words[number]), tier=["paraphrase", "frame"][number % 2])
        for number in range(TRAIN)
    ]
    templates += [
        entry(f"held-{number}", f"A riddle ({words[TRAIN + number]}):\n{{{{ question }}}}\nWrite #### {'x' * number}",
              split="held_out", tier="frame")
        for number in range(HELD_OUT)
    ]  # fmt: skip
    return write_pool(*templates)


@pytest.fixture
def pool(pool_file) -> Pool:
    return pools.load(pool_file)


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer([problem.question for problem in task.problems(64, 0, "train")])


@pytest.fixture
def parquet(tmp_path) -> str:
    """23 rows in the schema of verl's GSM8K preprocessing."""
    file: Path = tmp_path / "rows.parquet"
    task.write_rows(task.problems(23, 0, "train"), "train", file)
    return str(file)
