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

"""As natural.py, by reinforcement learning: how well does each method rank layers by the reward they are worth?

    VERL_PLATFORM=cpu python recipes/flexora_study/natural_rl.py --out DIR

The same model is trained by GRPO through `verl.trainer.main_ppo`, with LoRA on all layers. A layer's worth is the fall
of the mean reward on test problems when its B is set to zero; answers are sampled at temperature 1, from the same
generator for every layer. Each method searches in a run of its own, with another seed and for half as many steps, as a
search that a run is to follow would. What is done is not done again.
"""

import copy
import shutil
from pathlib import Path
from typing import Annotated

import typer
from helps import Grpo
from natural import OTHER_SEED, RANK, compare, leave_one_out, scores, warmed
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from verl_redit.demo import model as demo
from verl_redit.demo import task
from verl_redit.demo.workspace import keep_to
from verl_redit.flexora.export import export
from verl_redit.flexora.scores import METHODS
from verl_redit.flexora.selection import load

TESTED = 2048


def worth(model: Path, folder: Path, seed: int, steps: int) -> list[float]:
    """Fall of the mean reward, from 0 to 1, when a layer is left out of the trained adapter."""
    shutil.rmtree(folder, ignore_errors=True)
    Grpo().train(model, folder, seed, steps, RANK, [f"trainer.save_freq={steps}"])
    export(folder / f"checkpoints/global_step_{steps}/actor", folder / "adapter", str(model))
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), folder / "adapter")
    return leave_one_out(adapted, lambda: -reward(adapted, model, seed))


def reward(adapted: PeftModel, model: Path, seed: int) -> float:
    """Mean over the test problems of verl's own reward."""
    merged = copy.deepcopy(adapted).merge_and_unload()  # answers faster
    problems = task.problems(TESTED, 0, "test")
    return demo.sampled_accuracy(merged, AutoTokenizer.from_pretrained(model), problems, seed)


def searched(model: Path, folder: Path, method: str, seed: int, steps: int) -> list[float]:
    """Each layer's score."""
    if not METHODS[method].measures:
        return scores(model, method, seed, steps)
    shutil.rmtree(folder, ignore_errors=True)
    node = ["+flexora=search", f"flexora.method={method}", f"flexora.search_steps={steps}", f"flexora.seed={seed}"]
    Grpo().train(model, folder, seed + OTHER_SEED, steps, RANK, node)
    return [unit.score for unit in load(folder / "checkpoints/flexora/selection.json").units]


def main(
    out: Annotated[Path, typer.Option(help="Folder for the model and the runs.")] = Path("flexora-natural-rl"),
    seeds: Annotated[int, typer.Option(help="Runs of each method.", min=2)] = 5,
    steps: Annotated[int, typer.Option(help="GRPO steps of the run on all layers.")] = 24,
    warm_steps: Annotated[int, typer.Option(help="Batches of the warm start.")] = 300,
) -> None:
    """Measure what layers are worth, search with every method, and print the table."""
    keep_to(out, steps=steps, warm_steps=warm_steps)
    model = warmed(out.resolve() / f"model-{warm_steps}", warm_steps)
    folder = out.resolve() / f"{steps}-steps"
    compare(
        folder,
        seeds,
        lambda seed: worth(model, folder / f"worth-{seed}", seed, steps),
        lambda method, seed: searched(model, folder / f"{method}-{seed}", method, seed, steps // 2),
    )


if __name__ == "__main__":
    typer.run(main)
