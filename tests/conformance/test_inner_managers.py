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

"""The drop-in swap: each of verl's reward managers, alone and wrapped by ``redit`` with std 0, answers alike."""

import asyncio
import copy
import itertools

import numpy as np
import pytest
import ray
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls

from verl_redit.redit.reward_manager import RewardError

MANAGERS = ["naive", "dapo", "gdpo", "rate_limited", "remote"]
SETTINGS = {
    "redit": {"std": 0.0},
    "trainer": {"experiment_name": "test"},
    "reward": {
        "num_workers": 1,
        "timeout": 1.0,
        "max_concurrent": 8,
        "reward_kwargs": {
            "max_resp_len": 4,
            "overlong_buffer_cfg": {"enable": True, "len": 2, "penalty_factor": 1.0, "log": True},
        },
    },
}


class Tokenizer:
    def decode(self, ids, skip_special_tokens):
        return " ".join(str(int(token)) for token in ids)


def scalar(solution_str, **_):
    return float(len(solution_str) % 3)


def whole_number(**_):
    return 1


def truth(**_):
    return True


def several(solution_str, extra_info, **_):
    return {"score": 0.5, "acc": 1.0, "turns": extra_info.get("num_turns"), "text": solution_str}


def what_it_was_given(data_source, ground_truth, extra_info, **_):
    return {"score": -1.0, "given": f"{data_source} {ground_truth} {sorted(map(str, extra_info))}"}


async def later(**_):
    await asyncio.sleep(0)
    return 0.25


async def several_later(**_):
    await asyncio.sleep(0)
    return {"score": 0.75, "acc": 0.0}


async def too_late(**_):
    await asyncio.sleep(3)
    return 1.0


def fails(**_):
    raise ZeroDivisionError("no luck")


async def fails_later(**_):
    raise ZeroDivisionError("no luck")


def without_score(**_):
    return {"acc": 1.0}


SCORERS = [
    scalar, whole_number, truth, several, what_it_was_given, later, several_later, too_late, fails, fails_later,
    without_score,
]  # fmt: skip
FAILING = {fails, fails_later, without_score}
ASYNC = {later, several_later, too_late, fails_later}


def rollout(responses, valid=None, **columns):
    """One session with one row for each response; ``valid`` is the length of the last one."""
    rows, longest = len(responses), max(map(len, responses))
    padded = torch.tensor([response + [0] * (longest - len(response)) for response in responses])
    mask = torch.ones(rows, 2 + longest, dtype=torch.int64)
    if valid is not None:
        mask[-1, 2 + valid :] = 0
    row = {
        "data_source": "openai/gsm8k",
        "reward_model": {"ground_truth": "7"},
        "extra_info": {"split": "train", "index": 17},
        "raw_prompt": [{"role": "user", "content": "How many?"}],
        "global_steps": 3,
        "session_id": 2,
        **columns,
    }
    stacked = {}
    for name, value in row.items():
        stacked[name] = np.empty(rows, dtype=object)
        stacked[name][:] = [copy.deepcopy(value) for _ in range(rows)]
    tensors = {"prompts": torch.ones(rows, 2, dtype=torch.int64), "responses": padded, "attention_mask": mask}
    return DataProto(batch=TensorDict(tensors, batch_size=rows), non_tensor_batch=stacked)


ROLLOUTS = {
    "one response": lambda: rollout([[5, 6]]),
    "one token": lambda: rollout([[5]]),
    "empty": lambda: rollout([[5, 6]], valid=0),
    "overlong": lambda: rollout([[5, 6, 7, 8]]),
    "several outputs": lambda: rollout([[5, 6, 7], [8]]),
    "several turns": lambda: rollout([[5, 6]], __num_turns__=4),
    "tool fields": lambda: rollout(
        [[5, 6]], tool_extra_fields={"split": "tool", "calls": 2}, reward_scores={"tool": 0.1}
    ),
    "validation": lambda: rollout([[5, 6]], extra_info={"split": "test", "index": 3}),
    "unlabelled": lambda: rollout([[5, 6]], extra_info={}),
    "without ids": lambda: rollout([[5, 6]], session_id=None, global_steps=None),
}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """For ``remote``, whose managers each have a worker that asks for a processor while they live."""
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def managers():
    """Builds a manager, alone or wrapped, once for each scorer."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    built = {}

    def build(name, scorer, wrapped):
        if (name, scorer, wrapped) not in built:
            config = OmegaConf.create(copy.deepcopy(SETTINGS))
            config.redit.inner = name
            cls = get_reward_manager_cls("redit" if wrapped else name)
            built[name, scorer, wrapped] = cls(config, Tokenizer(), scorer)
        return built[name, scorer, wrapped]

    yield build
    loop.close()


def answer(manager, data):
    try:
        return manager.loop.run_until_complete(manager.run_single(data))
    except Exception as error:
        return error


CASES = [
    (name, scorer)
    for name, scorer in itertools.product(MANAGERS, SCORERS)
    if not (name == "remote" and scorer in ASYNC)  # which it refuses
    and not (name != "rate_limited" and scorer is too_late)  # which has no limit
]


@pytest.mark.parametrize(("name", "scorer"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_wrapped_and_alone_answer_alike(managers, name, scorer):
    for case, make in ROLLOUTS.items():
        seen = [make(), make()]
        alone, wrapped = (
            answer(managers(name, scorer, wrapped), data) for wrapped, data in zip((False, True), seen, strict=True)
        )
        # rate_limited makes errors of its scorer rewards of 0
        assert isinstance(alone, Exception) is (scorer in FAILING and name != "rate_limited"), (case, alone)
        if isinstance(alone, Exception):
            assert isinstance(wrapped, RewardError), case
            assert type(alone).__name__ in str(wrapped) and "data_source='openai/gsm8k'" in str(wrapped), case
        else:
            assert type(alone["reward_score"]) is type(wrapped["reward_score"]), case
            assert alone == wrapped, case
        left = [data.non_tensor_batch["extra_info"].tolist() for data in seen]
        assert left[0] == left[1], case


def test_remote_refuses_async_scorers_wrapped_or_not(managers):
    for wrapped in (False, True):
        with pytest.raises(AssertionError, match="Async reward score is not supported"):
            managers("remote", later, wrapped)


def test_the_matrix_reaches_time_outs_and_penalties(managers):
    """Two cases that must not pass by being empty."""
    late = answer(managers("rate_limited", too_late, True), ROLLOUTS["one response"]())
    assert late["reward_score"] == 0.0 and late["reward_extra_info"]["timeout"]
    overlong = answer(managers("dapo", whole_number, True), ROLLOUTS["overlong"]())
    assert float(overlong["reward_score"]) == 0.0 and overlong["reward_extra_info"]["overlong"]
