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

"""PAFT in the closed loop: what the policy is told, and how its state travels."""

import numpy as np
import pytest
from omegaconf import OmegaConf
from torch.utils.data import RandomSampler

from verl_redit.closed_loop import StateMismatch, configured_plugins, load_state, save_state
from verl_redit.paft.closed_loop import PaftPlugin
from verl_redit.paft.config import PaftConfig
from verl_redit.paft.pool import Pool
from verl_redit.paft.sampler import pair_sampler
from verl_redit.paft.selection import Group
from verl_redit.rollouts import Rollouts


@pytest.fixture
def plugin(pool_file, pool):
    """Builds a plugin with its sampler, as the trainer does."""

    def made(pool_file: str = pool_file, pool: Pool = pool, **settings) -> PaftPlugin:
        paft = {"pool": pool_file, "policy": "adaptive", **settings}
        built = PaftPlugin(OmegaConf.create({"paft": paft}))
        built.use_sampler(pair_sampler(pool, PaftConfig(policy=paft["policy"]), 23, True, 1, 0))
        return built

    return made


def rollouts(sessions: list[tuple[int, str, str, float, dict]]) -> Rollouts:
    """A batch of sessions: group, template, item, raw reward, what the scorer returned."""
    columns = {
        "extra_info": [{"template_id": template, "item_id": item} for _, template, item, _, _ in sessions],
        "extra_fields": [{"reward_extra_info": scored} for *_, scored in sessions],
    }
    rewards = np.array([reward for *_, reward, _ in sessions])
    group = np.array([session[0] for session in sessions])
    return Rollouts(rewards, group, lambda *names: {name: columns[name] for name in names}, lambda rewards: rewards)


def test_the_policy_is_told_each_groups_accuracy_and_parse_rate(plugin):
    built = plugin(policy="cycle")
    change = built.reward_change(
        rollouts(
            [
                (1, "train-1", "x/7", 0.9, {"acc": 1.0, "parsed": 1.0}),
                (0, "train-0", "x/3", 0.1, {"acc": 0.0, "parsed": 1.0}),
                (1, "train-1", "x/7", 0.0, {"acc": 0.0, "parsed": 0.0}),
                (0, "train-0", "x/3", 0.1, {"acc": 0.0, "parsed": 1.0}),
            ]
        )
    )
    assert change is None
    assert built.policy.observed == [Group("train-0", "x/3", 0.0, 1.0), Group("train-1", "x/7", 0.5, 0.5)]
    assert built.metrics()["paft/templates"] == 2


def test_a_scorer_that_returns_less_is_taken_at_its_reward(plugin):
    built = plugin(policy="cycle")
    built.reward_change(rollouts([(0, "train-1", "x/7", 0.25, {}), (0, "train-1", "x/7", 0.75, {"parsed": None})]))
    assert built.policy.observed == [Group("train-1", "x/7", 0.5, 1.0)]


def test_weights_do_not_depend_on_the_order_in_which_groups_finish(plugin):
    sessions = [(n, f"train-{n % 3}", f"x/{n % 2}", n / 8, {}) for n in range(8)]
    there, back = plugin(), plugin()
    there.reward_change(rollouts(sessions))
    back.reward_change(rollouts(sessions[::-1]))
    assert there.policy.state_dict() == back.policy.state_dict()


def test_rewards_that_are_no_accuracy_do_not_stop_a_policy_that_does_not_read_them(plugin):
    built = plugin(policy="cycle")
    built.reward_change(rollouts([(0, "train-1", "x/7", 2.5, {"acc": None})]))
    assert built.policy.observed == [Group("train-1", "x/7", 2.5, 1.0)]


@pytest.mark.parametrize("accuracy", [-1.0, 2.0])
def test_an_accuracy_that_is_no_share_is_named(plugin, accuracy):
    with pytest.raises(ValueError, match="row x/7 has accuracy .*; let the scorer return `acc` from 0 to 1"):
        plugin().reward_change(rollouts([(0, "train-1", "x/7", accuracy, {})]))


def test_adaptive_weights_follow_and_are_restored(plugin, tmp_path):
    built, resumed = plugin(), plugin()
    for _ in range(5):
        built.reward_change(
            rollouts([(n, f"train-{n}", "x/1", 0.0, {"acc": float(n > 0), "parsed": 1.0}) for n in range(5)])
        )
    assert built.policy.share[0] > 0.25 > built.policy.share[1]
    save_state([built], tmp_path)
    load_state([resumed], tmp_path)
    assert (resumed.policy.share == built.policy.share).all()


def test_a_state_of_other_settings_is_refused(plugin, tmp_path, write_pool):
    save_state([plugin()], tmp_path)
    with pytest.raises(StateMismatch, match="the checkpoint was written with paft.policy adaptive, this run has cycle"):
        load_state([plugin(policy="cycle")], tmp_path)
    with pytest.raises(StateMismatch, match="paft.adaptive"):
        load_state([plugin(adaptive={"rate": 3.0})], tmp_path)
    other = write_pool({"id": "a", "user": "{{ question }} ####", "split": "train"}, name="other.yaml")
    with pytest.raises(StateMismatch, match="paft.pool content"):
        load_state([plugin(pool_file=other)], tmp_path)


def test_the_state_can_be_checked_before_there_is_a_sampler(plugin, pool_file, tmp_path):
    save_state([plugin()], tmp_path)
    load_state([PaftPlugin(OmegaConf.create({"paft": {"pool": pool_file, "policy": "adaptive"}}))], tmp_path)


def test_another_data_sets_sampler_is_refused(plugin):
    with pytest.raises(TypeError, match="paft: the training data is sampled by RandomSampler"):
        plugin().use_sampler(RandomSampler(range(3)))


def test_it_is_on_if_its_node_is_there(verl_config, pool_file):
    (built,) = configured_plugins(verl_config("+paft=adaptive", f"paft.pool={pool_file}"))
    assert built.settings.policy == "adaptive"
