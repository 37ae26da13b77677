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

"""The demo's model and data: made once, used again for the same sizes and prompts."""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from verl_redit.demo import report, task
from verl_redit.paft.pool import Template, render

TEST_PROBLEMS = 128
VOCABULARY = 448


@dataclass(frozen=True)
class Sizes:
    """How large the demo is; every field is an option of the command."""

    steps: int
    prompts: int
    rollouts: int
    ranks: int
    seed: int
    warm_steps: int
    problems: int

    def setup(self) -> dict[str, int]:
        """What the model and the data depend on."""
        return {name: getattr(self, name) for name in ("seed", "warm_steps", "problems")}


def keep_to(folder: Path, **settings: int | str) -> None:
    """Make a folder for runs with these settings and no others, so that a study that goes on mixes none.

    Raises:
        BadParameter: it holds runs with other ones, or things of which that is not known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    if not file.is_file() and any(folder.iterdir()):
        raise typer.BadParameter(f"{folder} is not empty, and has no settings.json of a study; give another --out")
    kept = json.loads(file.read_text()) if file.is_file() else settings
    for name in sorted(kept.keys() | settings.keys()):
        if kept.get(name) != settings.get(name):
            raise typer.BadParameter(
                f"{folder} has runs with {name} {kept.get(name)}, these have {settings.get(name)}; give another --out"
            )
    file.write_text(json.dumps(settings))


def write_whole(file: Path, text: str) -> None:
    """Write a file whole or not at all, so that what was cut off is not taken for an outcome."""
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(text)
    part.rename(file)


def prepare(
    out: Path, sizes: Sizes, console: Console, templates: Sequence[Template] = (), vocabulary: int = VOCABULARY
) -> float:
    """Make the data and the warm-started model, or find them; returns the model's accuracy on the test set.

    Args:
        templates: the prompts of the warm start and of that accuracy; without any, the bare questions.
        vocabulary: of the tokenizer.
    """
    texts = [[template.system, template.user] for template in templates]
    done, setup = out / "setup.json", {**sizes.setup(), "templates": texts, "vocabulary": vocabulary}
    if done.is_file() and (found := json.loads(done.read_text())).get("setup") == setup:
        console.print(f"using the model and the data in {out}, accuracy {found['accuracy']:.0%}")
        return found["accuracy"]
    done.unlink(missing_ok=True)  # what it describes is about to be replaced
    with console.status("importing torch and transformers"):
        from verl_redit.demo import model

    training = task.problems(sizes.problems, sizes.seed, "train")
    test = task.problems(TEST_PROBLEMS, sizes.seed, "test")

    def ask(problem: task.Problem, draw: random.Random) -> list[dict[str, str]]:
        return render(draw.choice(templates), {"question": problem.question}) if templates else model.bare(problem)

    words = [turn["content"] for template in templates for turn in render(template, {"question": ""})]
    solved = [f"{problem.question}\n{problem.solution()}" for problem in training]
    tokenizer = model.build_tokenizer([*words, *solved], vocabulary)
    with report.progress_bar(console) as progress:
        bar = progress.add_task("warm start", total=sizes.warm_steps)
        weights = model.warm_start(
            training,
            tokenizer,
            sizes.seed,
            sizes.warm_steps,
            lambda step, loss: progress.update(bar, completed=step, description=f"warm start, loss {loss:.2f}"),
            ask,
        )
    accuracy = model.sampled_accuracy(weights, tokenizer, test, sizes.seed, ask)
    console.print(f"the model answers {accuracy:.0%} of {len(test)} test problems, under the prompts of its warm start")
    model.save(weights, tokenizer, out / "model")
    task.write_rows(training, "train", out / "train.parquet")
    task.write_rows(test, "test", out / "test.parquet")
    done.write_text(json.dumps({"setup": setup, "accuracy": accuracy}))
    return accuracy
