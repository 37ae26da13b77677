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

"""Arithmetic word problems in verl's GSM8K schema, marked by verl's own GSM8K scorer."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DATA_SOURCE = "openai/gsm8k"  # what verl routes to its GSM8K scorer
LARGEST_OPERAND = 12

_NAMES = ["Tom", "Ana", "Ben", "Mia", "Sam", "Eva", "Leo", "Zoe"]
_THINGS = ["apples", "books", "coins", "cards", "pens", "shells"]
_MORE = [
    "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
    "{name} buys {a} {things} and then finds {b}. How many {things} does {name} have?",
]
_FEWER = [
    "{name} has {a} {things} and gives {b} away. How many {things} are left?",
    "{name} had {a} {things} but lost {b}. How many {things} does {name} have now?",
]


@dataclass(frozen=True)
class Problem:
    """One question, its calculation and its answer."""

    question: str
    calculation: str
    answer: int

    def solution(self) -> str:
        """The response that the scorer marks 1."""
        return f"{self.calculation} = {self.answer}\n#### {self.answer}"


def problems(count: int, seed: int, split: str) -> list[Problem]:
    """``count`` problems; the same for the same seed and split. Questions may repeat, as the space is small."""
    draw = random.Random(f"{seed}/{split}")
    return [_problem(draw) for _ in range(count)]


def _problem(draw: random.Random) -> Problem:
    a, b = draw.randint(1, LARGEST_OPERAND), draw.randint(1, LARGEST_OPERAND)
    adds = draw.random() < 0.5
    if not adds:
        a, b = max(a, b), min(a, b)
    text = draw.choice(_MORE if adds else _FEWER)
    question = text.format(name=draw.choice(_NAMES), things=draw.choice(_THINGS), a=a, b=b)
    return Problem(question, f"{a} {'+' if adds else '-'} {b}", a + b if adds else a - b)


def demonstration(problem: Problem, draw: random.Random) -> str:
    """A response of mixed quality for the warm start.

    Reinforcement learning brings out what a model already does sometimes; a model warmed up on clean answers alone
    has nothing latent to bring out. So 35 % lack the answer marker and 25 % have a wrong answer.
    """
    answer = problem.answer + (draw.choice([-2, -1, 1, 2]) if draw.random() < 0.25 else 0)
    worked = f"{problem.calculation} = {answer}"
    return worked if draw.random() < 0.35 else f"{worked}\n#### {answer}"


def write_conversations(rows: list[Problem], path: Path) -> None:
    """Write problems with their solutions as a parquet file for verl's supervised trainers."""
    table: list[dict[str, Any]] = [
        {
            "data_source": DATA_SOURCE,
            "messages": [
                {"role": "user", "content": row.question},
                {"role": "assistant", "content": row.solution()},
            ],
            "extra_info": {"index": index, "question": row.question},
        }
        for index, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(table), path)


def write_rows(rows: list[Problem], split: str, path: Path) -> None:
    """Write problems as a parquet file in the schema of verl's GSM8K preprocessing."""
    table: list[dict[str, Any]] = [
        {
            "data_source": DATA_SOURCE,
            "prompt": [{"role": "user", "content": row.question}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(row.answer)},
            "extra_info": {"split": split, "index": index, "question": row.question, "answer": row.solution()},
        }
        for index, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(table), path)
