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

"""What a prompt pool costs: rendering, the data set against verl's own, and a large product of rows and templates.

    python recipes/benchmarks/prompt_pool.py

Reported: microseconds to render one row (median, and 80 % of rounds), items a second over those of verl's data set
(rounds alternate; median of the ratios, and 80 % of them), and for 1,000,000 rows × 500 templates the microseconds of
a draw and the memory that the sampler takes.
"""

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import psutil
import typer
import verl  # noqa: F401  loads the plugin
from hydra import compose, initialize_config_module
from verl.trainer.ppo.utils import create_rl_dataset, create_rl_sampler

from verl_redit.demo import model, task
from verl_redit.paft.config import PaftConfig
from verl_redit.paft.messages import rendered
from verl_redit.paft.pool import Pool, Template
from verl_redit.paft.pool_file import load
from verl_redit.paft.sampler import pair_sampler

MANY_ROWS, MANY_TEMPLATES = 1_000_000, 500


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def middle(values: list[float]) -> list[float]:
    """Median, and the ends of the middle 80 %."""
    tenths = statistics.quantiles(values, n=10)
    return [round(number, 3) for number in (statistics.median(values), tenths[0], tenths[-1])]


def rendering(rounds: int) -> list[float]:
    """Microseconds a row, over the templates of a bundled pool."""
    problems = task.problems(200, 0, "train")
    templates = itertools.cycle(load("gsm8k").templates)

    def work() -> None:
        for problem in problems:
            messages = [{"role": "user", "content": problem.question}]
            rendered(messages, next(templates), {"question": problem.question})

    work()
    return middle([1e6 * seconds(work) / len(problems) for _ in range(rounds)])


def throughput(rounds: int, rows: int) -> list[float]:
    """Items a second, over those of verl's data set."""
    problems = task.problems(rows, 0, "train")
    tokenizer = model.build_tokenizer([problem.question for problem in problems[:64]])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.parquet"
        task.write_rows(problems, "train", file)
        with initialize_config_module("verl.trainer.config", version_base=None):
            configs = [
                compose("ppo_trainer", overrides=["data.max_prompt_length=640", f"+data.cache_dir={folder}", *group])
                for group in ([], ["+paft=cycle"])
            ]
        work = []
        for config in configs:
            dataset = create_rl_dataset(str(file), config.data, tokenizer, None)
            items = list(create_rl_sampler(config.data, dataset))
            work.append(lambda dataset=dataset, items=items: [dataset[item] for item in items])
        return middle([seconds(work[0]) / seconds(work[1]) for _ in range(rounds)])


def large_product() -> tuple[float, float]:
    """Microseconds of a draw, and megabytes that the sampler has taken at the end of an epoch."""
    templates = [Template(f"t{n}", f"{n} {{{{ question }}}}", "train", "own") for n in range(MANY_TEMPLATES)]
    pool = Pool("large", ("question",), tuple(templates), ("",) * MANY_TEMPLATES)
    before = psutil.Process().memory_info().rss
    sampler = pair_sampler(pool, PaftConfig(), MANY_ROWS, shuffle=True, replicas=1, rank=0)

    def epoch() -> None:
        for _ in sampler:
            pass

    took = seconds(epoch)
    return round(1e6 * took / MANY_ROWS, 2), round((psutil.Process().memory_info().rss - before) / 2**20, 1)


def main(
    rounds: Annotated[int, typer.Option(min=10, help="Rounds of each measure.")] = 30,
    rows: Annotated[int, typer.Option(help="Rows of the data sets.")] = 2000,
) -> None:
    """Measure and print JSON."""
    draw, memory = large_product()
    print(
        json.dumps(
            {
                "render, us a row": rendering(rounds),
                "items a second over verl's data set": throughput(rounds, rows),
                f"a draw of {MANY_ROWS} x {MANY_TEMPLATES}, us": draw,
                "its memory, MB": memory,
            }
        )
    )


if __name__ == "__main__":
    typer.run(main)
