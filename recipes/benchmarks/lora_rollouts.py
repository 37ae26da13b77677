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

"""What vLLM's rollouts gain from LoRA on fewer layers, on the CPU host.

    VERL_PLATFORM=cpu OMP_NUM_THREADS=1 VLLM_LOGGING_LEVEL=ERROR python recipes/benchmarks/lora_rollouts.py

A random model of twelve layers answers the demo's problems, with one adapter and one engine in an arm, as verl has.
vLLM wraps every linear module for LoRA, whatever the adapter is on; ``flexora.restrict_rollouts`` has it wrap those
of the adapter alone. Each restricted arm must first give the tokens of the one that is not.

Reported: tokens a second with LoRA on all layers, and of each arm over those of the same round (median and the middle
80 % of rounds). One thread, because two that wait for each other measure what else the machine does.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import torch
import typer
import verl  # noqa: F401  loads the plugin
from flexora import FEWER, LAYERS, RANK, prepared, regex_of
from peft import LoraConfig, get_peft_model
from prompt_pool import middle
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from verl_redit.demo import model as demo
from verl_redit.demo import task
from verl_redit.flexora.rollout import wrapped_modules

PROBLEMS, ROLLOUTS, TOKENS = 16, 4, 32
ALL = "LoRA on all layers"
MODULES = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]


class Arm:
    """An engine, and an adapter with random factors on all layers but some.

    Args:
        without: the layers that have no LoRA; None for no adapter and an engine that takes none.
        restricted: vLLM wraps the other layers alone.
    """

    def __init__(self, model: Path, without: Iterable[int] | None, restricted: bool = False):
        modules = [f"model.layers.{n}.{name}" for n in range(LAYERS) if n not in (without or ()) for name in MODULES]
        self.request = None if without is None else LoRARequest("adapter", 1, str(adapter(model, without)))
        self.engine = LLM(
            str(model), dtype="float32", enforce_eager=True, max_model_len=256, kv_cache_memory_bytes=2**27,
            distributed_executor_backend="uni", enable_lora=without is not None, max_lora_rank=RANK,
            lora_target_modules=wrapped_modules(modules) if restricted else None,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(model)
        problems = task.problems(PROBLEMS, 0, "train")
        self.prompts = [demo.encode(tokenizer, demo.bare(row), "")[0] for row in problems]

    def answers(self, temperature: float, rollouts: int) -> list[list[int]]:
        """Token ids of each prompt's rollouts."""
        settings = SamplingParams(n=rollouts, temperature=temperature, max_tokens=TOKENS, ignore_eos=True)
        outputs = self.engine.generate(self.prompts, settings, lora_request=self.request, use_tqdm=False)
        return [list(answer.token_ids) for output in outputs for answer in output.outputs]

    def tokens_a_second(self) -> float:
        self.engine.reset_prefix_cache()  # as after a weight sync
        began = time.perf_counter()
        tokens = sum(map(len, self.answers(1.0, ROLLOUTS)))
        return tokens / (time.perf_counter() - began)


def adapter(model: Path, without: Iterable[int]) -> Path:
    """A PEFT adapter in a new folder beside the model."""
    folder = Path(tempfile.mkdtemp(dir=model.parent))
    torch.manual_seed(0)
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", exclude_modules=regex_of(without),
        init_lora_weights=False, task_type="CAUSAL_LM",
    )  # fmt: skip
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(str(folder))
    return folder


def main(rounds: Annotated[int, typer.Option(min=10, help="Rounds of each arm.")] = 30) -> None:
    """Measure and print JSON."""
    # engines in this process, and its thread on any core
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with tempfile.TemporaryDirectory() as scratch:
        model = prepared(Path(scratch) / "model")
        arms = {ALL: Arm(model, ()), "no LoRA": Arm(model, None)}
        for name, layers in FEWER.items():
            told = f"LoRA on {name}"
            arms |= {told: Arm(model, layers), f"{told}, and vLLM restricted to it": Arm(model, layers, True)}
            first, second = (arm.answers(0.0, 1) for arm in list(arms.values())[-2:])
            if first != second:
                raise RuntimeError(f"{told}: vLLM answers otherwise when it is restricted")
        speeds: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(rounds + 1):
            for name in list(arms) if number % 2 == 0 else list(arms)[::-1]:
                speeds[name].append(arms[name].tokens_a_second())
    kept = {name: values[1:] for name, values in speeds.items()}  # the first round warms up
    ratios = {
        f"{name}, over {ALL}": middle([own / of_all for own, of_all in zip(values, kept[ALL], strict=True)])
        for name, values in kept.items()
        if name != ALL
    }
    print(json.dumps({f"tokens a second, {ALL}": middle(kept[ALL]), **ratios}, indent=1))


if __name__ == "__main__":
    typer.run(main)
