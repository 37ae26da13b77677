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

"""The closed loop on verl's real store: what agent loops put there comes out as both loops need it."""

import pytest
import ray
import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from verl_redit.redit.rows import key_of, keys_of
from verl_redit.rollouts import on_last_token
from verl_redit.trainer import Responses

pytestmark = pytest.mark.e2e
INFO = [{"split": "train", "index": 7}, {"split": "train", "index": "seven"}, {"split": "train"}, {}]


@pytest.fixture
def config(verl_config):
    config = verl_config("+host=cpu", "algorithm.adv_estimator=grpo", "transfer_queue.enable=true")
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    tq.init(config.transfer_queue)
    yield config
    tq.close()
    ray.shutdown()


def row(number: int) -> dict:
    length = number + 1
    return {
        "uid": "question",
        "data_source": "openai/gsm8k",
        "raw_prompt": [{"role": "user", "content": f"How many, {number}?"}],
        "extra_info": INFO[number],
        "global_steps": 3,
        "session_id": number,
        "response_mask": torch.ones(length, dtype=torch.int64),
        "rm_scores": torch.tensor([0.0] * number + [float(number)]),
    }


def test_rows_come_out_as_the_reward_manager_sees_them_and_changes_go_in_and_out(config):
    rows = [row(number) for number in range(4)]
    keys = [f"question_{number}_0" for number in range(4)]
    tq.kv_batch_put(keys=keys, partition_id="train", fields=list_of_dict_to_tensordict(rows), tags=[{}] * 4)
    responses = Responses(KVBatchMeta(partition_id="train", keys=keys, tags=[{}] * 4), config)
    assert responses.rollouts.rewards.tolist() == [0, 1, 2, 3]

    together = keys_of(5, responses.rollouts.columns)
    for number in range(4):
        columns = (together.data_source, together.row, together.step, together.session)
        assert key_of(5, rows[number])[1:5] == tuple(column[number] for column in columns)
    assert len(set(together.row)) == 4

    change = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    expected = on_last_token(responses.scores["rm_scores"], responses.scores["response_mask"], change)
    with responses.rewards_changed([change.numpy()]):
        changed = tq.kv_batch_get(keys=keys, partition_id="train", select_fields=["rm_scores"])["rm_scores"]
        assert [score.tolist() for score in changed.unbind()] == [score.tolist() for score in expected.unbind()]
    after = tq.kv_batch_get(keys=keys, partition_id="train", select_fields=["rm_scores"])["rm_scores"]
    assert [score.tolist() for score in after.unbind()] == [entry["rm_scores"].tolist() for entry in rows]
