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

"""What the dithered reward manager costs for each sample, against its inner manager alone.

    python recipes/benchmarks/reward_manager.py

Both score the same rollouts in turn, in rounds; the figure is the median over rounds of the difference per sample.
"""

import asyncio
import statistics
import time
from typing import Annotated, Any

import numpy as np
import torch
import typer
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls, register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase


class Tokenizer:
    """Decoding is not what is measured."""

    def decode(self, ids, skip_special_tokens):
        return "#### 5"


def rollouts(count: int) -> list[DataProto]:
    """Rollouts as verl's agent loop hands them to a reward manager."""
    tensors = {
        "prompts": torch.ones(1, 64, dtype=torch.long),
        "responses": torch.ones(1, 64, dtype=torch.long),
        "attention_mask": torch.ones(1, 128, dtype=torch.long),
    }
    rows = []
    for index in range(count):
        row = {
            "data_source": "openai/gsm8k",
            "reward_model": {"ground_truth": "5"},
            "extra_info": {"split": "train", "index": index},
            "raw_prompt": [{"role": "user", "content": "How many?"}],
            "global_steps": 1,
            "session_id": index % 8,
        }
        columns = {name: np.array([value], dtype=object) for name, value in row.items()}
        rows.append(DataProto(batch=TensorDict(tensors, batch_size=1), non_tensor_batch=columns))
    return rows


async def seconds(manager, data: list[DataProto]) -> float:
    """Time to score all rollouts one after the other."""
    start = time.perf_counter()
    for sample in data:
        await manager.run_single(sample)
    return time.perf_counter() - start


@register("constant")
class ConstantRewardManager(RewardManagerBase):
    """An inner manager that costs next to nothing, so that what is added to it stands out."""

    async def run_single(self, data: DataProto) -> dict:
        return {"reward_score": 1.0, "reward_extra_info": {"acc": 1.0}}


async def compare(inner: str, samples: int, rounds: int) -> None:
    async def score(**_):
        return 1.0

    config = OmegaConf.create({"redit": {"inner": inner}, "reward": {}})
    tokenizer: Any = Tokenizer()
    alone, dithered = (get_reward_manager_cls(name)(config, tokenizer, score) for name in (inner, "redit"))
    data = rollouts(samples)
    await seconds(alone, data), await seconds(dithered, data)  # warm-up
    pairs = [(await seconds(alone, data), await seconds(dithered, data)) for _ in range(rounds)]
    microseconds = statistics.median(pair[0] for pair in pairs) / samples * 1e6
    added = sorted((with_noise - without) / samples * 1e6 for without, with_noise in pairs)
    low, high = added[len(added) // 10], added[-1 - len(added) // 10]
    print(
        f"{inner} alone {microseconds:.1f} us a sample; "
        f"redit adds {statistics.median(added):.1f} us (80% of rounds {low:.1f} to {high:.1f})"
    )


def main(
    samples: Annotated[int, typer.Option(help="Rollouts in a round.")] = 500,
    rounds: Annotated[int, typer.Option(help="Rounds of each.")] = 40,
) -> None:
    """Measure the cost of dithering one sample."""
    for inner in ("naive", "constant"):
        asyncio.run(compare(inner, samples, rounds))


if __name__ == "__main__":
    typer.run(main)
