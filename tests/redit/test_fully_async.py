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

"""verl's fully-async trainer and its reward path, driven without its rollouter, which needs NCCL to move weights."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput, AgentLoopWorker
from verl.experimental.fully_async_policy import fully_async_rollouter
from verl.experimental.fully_async_policy.detach_utils import prepare_single_generation_data

from verl_redit.preflight import ConfigError
from verl_redit.redit.fully_async import step_of
from verl_redit.redit.noise import Key, unit_noise
from verl_redit.redit.reward_manager import ReditRewardManager

CONFIG = OmegaConf.create(
    {
        "actor_rollout_ref": {
            "actor": {"ppo_mini_batch_size": 4},
            "rollout": {"n": 3, "multi_turn": {"enable": False}},
        },
        "async_training": {"require_batches": 2, "trigger_parameter_sync_step": 5},
        "redit": {"std": 0.1},
        "reward": {"reward_manager": {"name": "redit"}},
    }
)


@pytest.mark.parametrize(("number", "step"), [(1, 1), (40, 1), (41, 2), (80, 2), (81, 3)])
def test_as_many_prompts_make_a_step_as_when_the_rollouter_resumes(number, step):
    """On resuming after step s it numbers the next prompt s * 4 * 2 * 5 + 1."""
    assert step_of(f"uid_sample_0_{number}", CONFIG) == step


def test_another_naming_of_prompts_is_refused():
    with pytest.raises(ValueError, match="expected to write uid_sample_<epoch>_<number>"):
        step_of("9f1c", CONFIG)


class Worker:
    """Stands for the agent loop workers; keeps what it is asked to roll out."""

    class generate_sequences:
        @staticmethod
        def remote(prompts):
            Worker.prompts = prompts
            raise InterruptedError


class Tokenizer:
    def decode(self, ids, skip_special_tokens):
        return "7"


def submitted(row: dict, uid: str, config=CONFIG) -> DataProto:
    """The rows of one prompt, as the rollouter prepares and submits them."""
    prompt = {}
    for name, value in row.items():
        prompt[name] = np.empty(1, dtype=object)
        prompt[name][0] = value
    rows = prepare_single_generation_data(prompt, config)
    rows.non_tensor_batch["uid"] = np.array([uid] * len(rows), dtype=object)
    manager = object.__new__(fully_async_rollouter.FullyAsyncAgentLoopManager)
    manager.config, manager.agent_loop_workers = config, [Worker]
    with pytest.raises(InterruptedError):
        asyncio.run(manager.generate_sequences_single(rows))
    return Worker.prompts


def test_runs_without_redit_are_left_alone():
    config = OmegaConf.merge(CONFIG, {"reward": {"reward_manager": {"name": "naive"}}})
    rows = submitted({"raw_prompt": []}, "of another form", config)
    assert set(rows.non_tensor_batch) == {"raw_prompt", "agent_name", "uid"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["redit.std=-1"], "redit.std: -1.0 is not a standard deviation"),
        (["redit.apply_to=tied"], "redit.apply_to: a reward manager sees no groups"),
        (
            ["trainer.v1.trainer_mode=redit_sync", "algorithm.adv_estimator=grpo"],
            "trainer.v1.trainer_mode: the fully-async trainer has no closed loop; set it to sync",
        ),
    ],
)
def test_its_settings_are_checked_before_it_starts(overrides, message):
    from verl.trainer.main_ppo import run_ppo

    folder = Path(fully_async_rollouter.__file__).with_name("config")
    with initialize_config_dir(str(folder), version_base=None):
        config = compose("fully_async_ppo_trainer", overrides=["+redit=gaussian", *overrides])
    with pytest.raises(ConfigError, match=re.escape(message)):
        run_ppo(config, task_runner_class=None)


def test_each_session_of_a_prompt_gets_its_own_keyed_draw():
    row = {
        "data_source": "openai/gsm8k",
        "reward_model": {"ground_truth": "7"},
        "extra_info": {"split": "train", "index": 17},
        "raw_prompt": [{"role": "user", "content": "How many?"}],
        "agent_name": "single_turn_agent",
    }
    rows = submitted(row, "uid_sample_0_41")
    assert rows.non_tensor_batch["session_id"].tolist() == [0, 1, 2]
    assert rows.non_tensor_batch["global_steps"].tolist() == [2, 2, 2]

    async def score(session: int) -> AgentLoopOutput:
        """verl's agent loop worker, from a finished response to its reward."""
        manager = ReditRewardManager(CONFIG, Tokenizer(), lambda **_: 1.0)

        class RewardWorker:
            class compute_score:
                remote = staticmethod(manager.run_single)

        worker = object.__new__(AgentLoopWorker)
        worker.reward_loop_worker_handles, worker.processor = [RewardWorker], None
        worker._compute_multi_modal_inputs = lambda output, ids: {}
        worker._compute_position_ids = lambda ids, mask, *_: ids
        worker._get_mm_processor_kwargs = lambda audios: {}
        output = AgentLoopOutput(prompt_ids=[1, 2], response_ids=[3], response_mask=[1], metrics=AgentLoopMetrics())
        columns = {name: values[session] for name, values in rows.non_tensor_batch.items()}
        await worker._compute_score([output], kwargs=columns)
        return output

    for session in range(3):
        noise = 0.1 * unit_noise("gaussian", Key(0, "openai/gsm8k", 17, 2, session))
        assert asyncio.run(score(session)).reward_score == pytest.approx(1.0 + noise)
