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

import asyncio
import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
from verl.trainer.ppo.reward import load_reward_manager

from verl_redit.redit.config import ReditConfig
from verl_redit.redit.noise import Key, prompt_digest, unit_noise
from verl_redit.redit.reward_manager import ReditRewardManager, RewardError

PROMPT = [{"role": "user", "content": "How many?"}]
TRAIN = {"split": "train", "index": 17}


class Tokenizer:
    def decode(self, ids, skip_special_tokens):
        return " ".join(str(int(token)) for token in ids)


def sample(extra_info, **columns):
    """One rollout, as verl's agent loop hands it to the reward manager."""
    response = torch.tensor([[5, 6, 7, 0]])
    tensors = {
        "prompts": torch.tensor([[1, 2, 3]]),
        "responses": response,
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1, 0]]),
    }
    row = {
        "data_source": "openai/gsm8k",
        "reward_model": {"ground_truth": "7"},
        "extra_info": extra_info,
        "raw_prompt": PROMPT,
        "uid": "random",
        "global_steps": 3,
        "session_id": 2,
        **columns,
    }
    non_tensors = {name: np.array([value], dtype=object) for name, value in row.items() if value is not None}
    return DataProto(batch=TensorDict(tensors, batch_size=1), non_tensor_batch=non_tensors)


def manager(score=1.0, **settings):
    compute_score = score if callable(score) else lambda **_: score
    config = OmegaConf.create({"redit": settings, "reward": {}, "trainer": {"experiment_name": "test"}})
    return ReditRewardManager(config, Tokenizer(), compute_score)


def run(reward_manager, data):
    return reward_manager.loop.run_until_complete(reward_manager.run_single(data))


@pytest.fixture(autouse=True)
def event_loop():
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()


@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
def test_training_reward_is_the_scorers_plus_the_keyed_draw(distribution):
    result = run(manager(distribution=distribution, std=0.1, reward_range=2.0, seed=5), sample(TRAIN))
    noise = 0.2 * unit_noise(distribution, Key(5, "openai/gsm8k", 17, 3, 2))
    assert result["reward_score"] == 1.0 + noise
    assert result["reward_extra_info"] == {"acc": 1.0, "redit_raw_reward": 1.0, "redit_noise": noise}


def test_numpy_keys_draw_as_plain_ones():
    plain = run(manager(), sample({"split": "train", "index": 17}, global_steps=3, session_id=2))
    numpy = run(manager(), sample({"split": "train", "index": np.int64(17)}, global_steps=np.int64(3)))
    assert plain == numpy


def test_order_and_repetition_do_not_change_draws():
    rows = [sample({"split": "train", "index": index}, session_id=s) for index in range(4) for s in range(3)]
    forward = [run(manager(), row)["reward_score"] for row in rows]
    again_backward = [run(manager(), row)["reward_score"] for row in [*rows, *rows][::-1]]
    assert again_backward[: len(rows)] == again_backward[len(rows) :] == forward[::-1]
    assert len(set(forward)) == len(rows)


@pytest.mark.parametrize(
    ("extra_info", "columns", "settings"),
    [
        ({"split": "test", "index": 1}, {}, {}),
        ({"split": "val", "index": 1}, {}, {}),
        ({"index": 1}, {}, {"unlabelled_rows": "validation"}),
        (TRAIN, {"validate": True}, {}),
        ({"index": 1}, {"validate": True}, {}),
    ],
)
def test_validation_reward_is_the_scorers(extra_info, columns, settings):
    result = run(manager(score=0.25, **settings), sample(extra_info, **columns))
    assert result["reward_score"] == 0.25
    assert result["reward_extra_info"] == {"acc": 0.25, "redit_raw_reward": 0.25, "redit_noise": 0.0}


@pytest.mark.parametrize(
    ("extra_info", "columns", "settings"),
    [
        ({"index": 1}, {}, {"unlabelled_rows": "train"}),
        ({"split": "test", "index": 1}, {"validate": False}, {}),
    ],
)
def test_training_is_told_by_flag_or_setting(extra_info, columns, settings):
    assert run(manager(**settings), sample(extra_info, **columns))["reward_score"] != 1.0


def test_a_row_that_is_neither_training_nor_validation_stops_the_run_and_names_three_ways_to_mend_it():
    with pytest.raises(RewardError) as error:
        run(manager(), sample({"index": 17}))
    for way in ("write 'split'", "redit.unlabelled_rows=train", "forwards `validate`"):
        assert way in str(error.value)


@pytest.mark.parametrize("extra_info", [None, "text"])
def test_a_row_without_extra_info_stops_the_run_unless_rows_are_declared(extra_info):
    with pytest.raises(RewardError, match="neither verl nor the row tells"):
        run(manager(), sample(extra_info))


@pytest.mark.parametrize("column", ["global_steps", "session_id", "data_source", "raw_prompt"])
def test_a_trainer_that_passes_no_key_stops_the_run_rather_than_repeat_a_draw(column):
    with pytest.raises(RewardError, match=f"verl passed no {column}, .* use the V1 trainers"):
        run(manager(), sample(TRAIN, **{column: None}))


def test_validation_needs_no_key():
    """verl's fully-async trainer validates without session ids."""
    result = run(manager(), sample({"split": "test"}, session_id=None, global_steps=None))
    assert result["reward_extra_info"]["redit_noise"] == 0


COMPONENTS = {"score": 2.5, "correctness": 2.0, "format": 0.5}


def test_noise_of_components_is_the_sum_of_their_draws():
    result = run(manager(COMPONENTS, std=0.1, components={"correctness": 2.0, "format": 1.0}), sample(TRAIN))
    key = Key(0, "openai/gsm8k", 17, 3, 2)
    draws = [unit_noise("gaussian", key._replace(component=name)) for name in ("correctness", "format")]
    assert result["reward_extra_info"]["redit_noise"] == pytest.approx(0.1 * (2 * draws[0] + draws[1]))
    assert result["reward_score"] == 2.5 + result["reward_extra_info"]["redit_noise"]


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (1.0, "the scorer returned no component 'format'; .* but it has acc"),
        ({"score": 1.0, "format": None}, "the scorer returned None as 'format'; it must return a number"),
        ({"score": 1.0, "format": math.nan}, "the scorer returned nan as 'format'; it must return a finite number"),
    ],
)
def test_a_missing_component_stops_the_run(score, reason):
    with pytest.raises(RewardError, match=reason):
        run(manager(score, components={"format": 1.0}), sample(TRAIN))


@pytest.mark.parametrize(("std", "split"), [(0.0, "train"), (0.1, "test")])
def test_components_are_asked_for_only_where_they_get_noise(std, split):
    result = run(manager(1.0, std=std, components={"format": 1.0}), sample({"split": split, "index": 1}))
    assert result["reward_score"] == 1.0


def test_the_schedule_follows_the_rows_own_step():
    def noise(step, **schedule):
        data = sample(TRAIN, global_steps=step)
        return run(manager(schedule=schedule), data)["reward_extra_info"]["redit_noise"]

    assert noise(3, shape="factor") == pytest.approx(noise(3) * 0.99**3)
    assert noise(9, shape="linear", total_steps=10) == pytest.approx(noise(9) * 0.1)
    assert noise(11, stop_step=10) == 0


@pytest.mark.parametrize("mode", ["redit_sync", "redit_colocate_async", "redit_separate_async"])
def test_in_the_closed_loop_the_manager_leaves_dithering_to_the_trainer(mode):
    reward_manager = manager(score={"score": 1.0, "acc": 1.0})
    reward_manager.config.trainer.v1 = {"trainer_mode": mode}
    closed = ReditRewardManager(reward_manager.config, Tokenizer(), lambda **_: 1.0)
    assert run(closed, sample({}, session_id=None)) == {"reward_score": 1.0, "reward_extra_info": {"acc": 1.0}}


@pytest.mark.parametrize("index", [None, math.nan, [1]])
def test_a_row_without_a_usable_index_is_keyed_by_its_prompt(index):
    result = run(manager(std=1.0), sample({"split": "train", "index": index}))
    digest = prompt_digest(PROMPT)
    assert result["reward_extra_info"]["redit_noise"] == unit_noise("gaussian", Key(0, "openai/gsm8k", digest, 3, 2))


def failing(**_):
    raise ZeroDivisionError("no luck")


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (failing, "the scorer raised ZeroDivisionError: no luck"),
        (lambda **_: None, "the scorer returned None; it must return a number"),
        (math.nan, "the scorer returned nan; it must return a finite number"),
        (math.inf, "the scorer returned inf; it must return a finite number"),
        ("1.0", "the scorer returned '1.0'; it must return a number"),
        ([1.0, 2.0], "the scorer returned [1.0, 2.0]; it must return a number"),
        ({"acc": 1.0}, "the scorer raised KeyError: 'score' (a dict that it returns must have 'score')"),
        ({"score": None}, "the scorer returned None"),
    ],
)
@pytest.mark.parametrize("std", [0.0, 0.1])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_failing_scorer_stops_the_run_and_names_the_row(score, reason, std, split):
    with pytest.raises(RewardError) as error:
        run(manager(score, std=std), sample({"split": split, "index": 17}))
    place = "data_source='openai/gsm8k', extra_info.index=17, step=3, session=2"
    assert str(error.value).startswith(f"reward manager 'redit' stopped the run at {place}: ")
    assert reason in str(error.value)


def test_a_failing_row_without_an_index_is_named_by_its_prompt():
    with pytest.raises(RewardError, match=r"extra_info\.index=None, step=3, session=2, prompt .*How many\?"):
        run(manager(failing), sample({"split": "train"}))


SCORES = [1.0, 0, True, {"score": 0.5, "acc": 1.0, "format": 0.0}, -2.5]
INNER = ["naive", "dapo", "gdpo"]


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_std_0_returns_what_the_inner_manager_returns(inner, score, split):
    extra_info = {"split": split, "index": 17}
    wrapped = manager(score, std=0.0, inner=inner)
    alone = get_reward_manager_cls(inner)(wrapped.config, Tokenizer(), lambda **_: score)
    assert run(wrapped, sample(dict(extra_info))) == run(alone, sample(dict(extra_info)))


def test_std_0_scores_rows_that_could_not_be_dithered():
    assert run(manager(std=0.0), sample({}, global_steps=None))["reward_score"] == 1.0


@pytest.mark.parametrize("score", SCORES)
def test_extras_are_the_inner_managers_plus_the_same_two_keys_for_every_sample(score):
    train, test = (run(manager(score), sample({"split": split, "index": 17})) for split in ("train", "test"))
    raw = score["score"] if isinstance(score, dict) else score
    inner = score if isinstance(score, dict) else {"acc": score}
    assert (
        list(train["reward_extra_info"])
        == list(test["reward_extra_info"])
        == [*inner, "redit_raw_reward", "redit_noise"]
    )
    assert {name: train["reward_extra_info"][name] for name in inner} == inner
    assert train["reward_extra_info"]["redit_raw_reward"] == raw == test["reward_score"]


def test_an_async_scorer_is_awaited():
    async def score(**_):
        return 1.0

    assert run(manager(score), sample(TRAIN))["reward_extra_info"]["redit_raw_reward"] == 1.0


def test_a_reward_of_dapos_overlong_penalty_is_dithered():
    """Its penalty makes the reward a tensor."""
    config = OmegaConf.create(
        {
            "redit": {"inner": "dapo", "std": 0.1},
            "reward": {
                "reward_kwargs": {
                    "max_resp_len": 4,
                    "overlong_buffer_cfg": {"enable": True, "len": 2, "penalty_factor": 1.0, "log": True},
                }
            },
        }
    )
    reward_manager = ReditRewardManager(config, Tokenizer(), lambda **_: 1.0)
    info = run(reward_manager, sample(TRAIN))["reward_extra_info"]
    assert info["redit_raw_reward"] == 0.5
    assert info["acc"] == 1.0


@pytest.mark.parametrize("result", [None, {"reward_score": 1.0}, {"reward_extra_info": {}}])
def test_what_a_manager_of_the_users_returns_is_checked(result, monkeypatch):
    wrapped = manager()

    async def run_single(data):
        return result

    monkeypatch.setattr(wrapped.inner, "run_single", run_single)
    with pytest.raises(RewardError, match="stopped the run at .* returned None|'reward_score' and a dict"):
        run(wrapped, sample(TRAIN))


def test_keyword_arguments_reach_the_inner_manager():
    config = OmegaConf.create({"redit": {}, "reward": {}})
    reward_manager = ReditRewardManager(
        config, Tokenizer(), lambda **_: 1.0, reward_router_address="host:1", reward_model_tokenizer="tokenizer"
    )
    assert reward_manager.inner.reward_router_address == "host:1"
    assert reward_manager.inner.reward_model_tokenizer == "tokenizer"


def test_verl_builds_it_from_one_token_on_the_command_line(verl_config):
    config = verl_config("+redit=gaussian", "redit.std=0.2")
    reward_manager = load_reward_manager(config, Tokenizer())
    assert isinstance(reward_manager, ReditRewardManager)
    assert reward_manager.settings == ReditConfig(std=0.2)
