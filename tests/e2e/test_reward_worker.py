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

"""A reward worker that dies while it scores: Ray starts it anew, retried samples get their own draws again.

verl 0.9.1 starts its reward workers without retries; the test asks Ray for them."""

import numpy as np
import pytest
import ray
import torch
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

from verl_redit.redit.noise import Key, unit_noise

pytestmark = pytest.mark.e2e

SCORER = """
import os, pathlib

def compute_score(extra_info, **_):
    died = pathlib.Path({died!r})
    if extra_info["index"] == 2 and not died.exists():
        died.touch()
        os._exit(1)
    return 1.0
"""


@pytest.fixture
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def rollout(index: int) -> DataProto:
    row = {
        "data_source": "openai/gsm8k",
        "reward_model": {"ground_truth": "7"},
        "extra_info": {"split": "train", "index": index},
        "raw_prompt": [{"role": "user", "content": "How many?"}],
        "global_steps": 3,
        "session_id": 1,
    }
    tensors = {name: torch.ones(1, 2, dtype=torch.int64) for name in ("prompts", "responses")}
    tensors["attention_mask"] = torch.ones(1, 4, dtype=torch.int64)
    columns = {name: np.array([value], dtype=object) for name, value in row.items()}
    return DataProto(batch=TensorDict(tensors, batch_size=1), non_tensor_batch=columns)


def test_samples_that_are_scored_again_get_the_same_noise(cluster, workspace, verl_config, tmp_path):
    scorer, died = tmp_path / "scorer.py", tmp_path / "died"
    scorer.write_text(SCORER.format(died=str(died)))
    config = verl_config(
        "+redit=gaussian", "redit.std=0.1", f"actor_rollout_ref.model.path={workspace / 'model'}",
        f"reward.custom_reward_function.path={scorer}",
    )  # fmt: skip
    kept = ray.put(config)  # Ray may free an argument that only a restarted actor needs again
    worker = ray.remote(RewardLoopWorker).options(max_restarts=1, max_task_retries=1).remote(kept)
    results = ray.get([worker.compute_score.remote(rollout(index)) for index in range(4)])
    assert died.exists()
    noise = [result["reward_extra_info"]["redit_noise"] for result in results]
    assert noise == [0.1 * unit_noise("gaussian", Key(0, "openai/gsm8k", index, 3, 1)) for index in range(4)]
