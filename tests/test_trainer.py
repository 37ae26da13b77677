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

"""The closed loop around verl's own `_compute_advantage`, with its store replaced by a dictionary."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
import transfer_queue
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerSync, get_trainer_cls
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from verl_redit.closed_loop import MODES, Plugin
from verl_redit.redit.noise import Key, unit_noise
from verl_redit.trainer import GroupFilter

QUESTIONS = ["a", "b"]


def response(question, session, reward, mask, padding=False, entropy=0.5):
    scores = torch.zeros(len(mask))
    scores[-1] = reward
    return {
        "uid": question,
        "response_mask": torch.tensor(mask),
        "rm_scores": scores,
        "entropy": torch.full((len(mask),), entropy),
        "old_log_probs": torch.zeros(len(mask)),
        "rollout_log_probs": torch.zeros(len(mask)),
        "data_source": "test",
        "raw_prompt": [{"role": "user", "content": question}],
        "extra_info": {"index": QUESTIONS.index(question) if question in QUESTIONS else 99},
        "global_steps": 4,
        "session_id": session,
    }


@pytest.fixture
def batch(store):
    """A tied group, a mixed one (a session with two outputs, one response that ends in a tool's tokens), padding."""
    store.update(
        {
            "a_0_0": response("a", 0, 1.0, [1, 1]),
            "a_1_0": response("a", 1, 1.0, [1]),
            "a_2_0": response("a", 2, 1.0, [1, 1, 1]),
            "b_0_0": response("b", 0, 1.0, [1, 1]),
            "b_0_1": response("b", 0, 1.0, [1, 0, 1, 1]),
            "b_1_0": response("b", 1, 0.0, [1, 1, 0, 0]),
            "b_2_0": response("b", 2, 0.0, [0, 0]),
            "pad_0_0": response("pad", 0, 0.0, [0]),
        }
    )
    tags = [{"is_padding": key.startswith("pad")} for key in store]
    return KVBatchMeta(partition_id="train", keys=list(store), tags=tags)


class Answers(Plugin):
    """Keeps what it was shown and answers with what it was told to."""

    name = "answers"

    def __init__(self, change=None, advantage=None, divides=False):
        self.change, self.advantage, self.divides = change, advantage, divides

    def reward_change(self, rollouts):
        self.rollouts = rollouts
        return self.change

    def advantages(self, rollouts, tokens):
        self.tokens = tokens
        return tokens.advantages if self.advantage is None else torch.full_like(tokens.advantages, self.advantage)


def trainer(verl_config, mode="redit_sync", plugins=None, *overrides):
    """A trainer that has a config and plugins, and nothing else."""
    cls = get_trainer_cls(mode)
    made = object.__new__(cls)
    made.config = verl_config("algorithm.adv_estimator=grpo", f"trainer.v1.trainer_mode={mode}", *overrides)
    made.plugins = plugins if plugins is not None else []
    return made


def redit(verl_config, *overrides):
    from verl_redit.closed_loop import configured_plugins

    made = trainer(verl_config, "redit_sync", [], "+redit=gaussian", *overrides)
    made.plugins = configured_plugins(made.config)
    return made


def stored(store, field):
    return {key: row[field].tolist() for key, row in store.items()}


def test_each_of_verls_modes_has_a_closed_loop_that_verl_takes_for_the_stock_one(verl_config):
    for mode, stock in MODES.items():
        made = trainer(verl_config, mode)
        assert isinstance(made, get_trainer_cls(stock))
        made.trainer_mode = mode  # what verl's constructor does
        assert made.trainer_mode == stock
        assert made.config.trainer.v1.trainer_mode == mode


def test_without_plugins_and_with_std_0_advantages_are_stock_bit_for_bit(verl_config, store, batch):
    PPOTrainerSync._compute_advantage(trainer(verl_config), batch, {})
    stock = stored(store, "advantages")
    for made in (trainer(verl_config), redit(verl_config, "redit.std=0")):
        for row in store.values():
            del row["advantages"], row["returns"]
        made._compute_advantage(batch, {})
        assert stored(store, "advantages") == stored(store, "returns") == stock


def test_plugins_see_sessions_without_padding_and_with_raw_rewards(verl_config, store, batch):
    plugin = Answers()
    trainer(verl_config, "redit_sync", [plugin])._compute_advantage(batch, {})
    assert plugin.rollouts.rewards.tolist() == [1, 1, 1, 1, 0, 0]
    assert plugin.rollouts.group.tolist() == [0, 0, 0, 1, 1, 1]
    columns = plugin.rollouts.columns("session_id", "data_source", "extra_info")
    assert columns["session_id"] == [0, 1, 2, 0, 1, 2]
    assert columns["data_source"] == ["test"] * 6
    assert columns["extra_info"][4] == {"index": 1}
    assert plugin.tokens.session.tolist() == [0, 1, 2, 3, 3, 4, 5]
    assert plugin.tokens.final.tolist() == [0, 1, 2, 4, 5, 6]
    stock = [float(store[key]["advantages"][0]) for key in ("a_0_0", "b_0_1", "b_1_0")]
    assert plugin.rollouts.estimate(plugin.rollouts.rewards)[[0, 3, 4]] == pytest.approx(stock, rel=1e-5)
    assert plugin.tokens.entropy()[0].tolist() == [0.5, 0.5, 0, 0]


def test_the_estimator_sees_changed_rewards_on_the_last_token_of_the_policy_and_the_store_keeps_raw_ones(
    verl_config, store, batch, monkeypatch
):
    seen = {}
    plugins = [Answers(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])), Answers(np.full(6, 1.0)), Answers()]
    made = trainer(verl_config, "redit_sync", plugins)
    verls = PPOTrainerSync._compute_advantage
    monkeypatch.setattr(
        PPOTrainerSync, "_compute_advantage",
        lambda self, batch, metrics: seen.update(stored(store, "rm_scores")) or verls(self, batch, metrics),
    )  # fmt: skip
    before = stored(store, "rm_scores")
    made._compute_advantage(batch, {})
    expected = {
        "a_0_0": [0, 2.1],
        "a_1_0": [2.2],
        "a_2_0": [0, 0, 2.3],
        "b_0_0": [0, 2.4],
        "b_0_1": [0, 0, 0, 2.4],
        "b_1_0": [0, 1.5, 0, 0],
        "b_2_0": [0, 1.6],
        "pad_0_0": [0],
    }
    assert {key: pytest.approx(values) for key, values in seen.items()} == expected
    assert stored(store, "rm_scores") == before
    assert store["b_0_0"]["advantages"][0] == store["b_0_1"]["advantages"][0]


def test_raw_rewards_come_back_even_if_the_estimator_fails(verl_config, store, batch, monkeypatch):
    before = stored(store, "rm_scores")

    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(PPOTrainerSync, "_compute_advantage", fail)
    made = trainer(verl_config, "redit_sync", [Answers(np.ones(6), divides=True)])
    with pytest.raises(ZeroDivisionError):
        made._compute_advantage(batch, {})
    assert stored(store, "rm_scores") == before
    assert made.config.algorithm.norm_adv_by_std_in_grpo is True


def test_the_modes_settings_are_found_under_its_own_name(verl_config, monkeypatch):
    monkeypatch.setattr(PPOTrainerSync.__mro__[1], "__init__", lambda self, config: None)
    config = verl_config("trainer.v1.trainer_mode=redit_sync")
    get_trainer_cls("redit_sync")(config)
    assert config.trainer.v1.redit_sync == config.trainer.v1.sync


def test_a_plugin_that_divides_by_itself_gets_centred_advantages(verl_config, store, batch):
    plugin = Answers(divides=True)
    made = trainer(verl_config, "redit_sync", [plugin])
    made._compute_advantage(batch, {})
    assert plugin.tokens.advantages[plugin.tokens.final, 0].tolist() == pytest.approx([0, 0, 0, 2 / 3, -1 / 3, 0])
    assert made.config.algorithm.norm_adv_by_std_in_grpo is True


def test_changed_advantages_are_stored_for_real_rows_alone(verl_config, store, batch):
    trainer(verl_config, "redit_sync", [Answers(advantage=7.0)])._compute_advantage(batch, {})
    assert stored(store, "advantages")["a_2_0"] == stored(store, "returns")["a_2_0"] == [7, 7, 7]
    assert stored(store, "advantages")["pad_0_0"] == [0]


def test_dithering_gives_each_session_its_keyed_draw(verl_config, store, batch):
    made = redit(verl_config, "redit.std=0.1", "redit.apply_to=tied")
    made._compute_advantage(batch, {})
    draws = np.array([unit_noise("gaussian", Key(0, "test", 0, 4, session)) for session in range(3)])
    tied = np.array([store[f"a_{session}_0"]["advantages"][0] for session in range(3)])
    assert tied == pytest.approx((draws - draws.mean()) / draws.std(ddof=1), rel=1e-3)
    metrics = made.plugins[0].metrics()
    assert metrics["redit/raw_reward/mean"] == pytest.approx(4 / 6)
    assert metrics["redit/effective_std"] == pytest.approx(0.1 * math.sqrt((draws**2).sum() / 6))


def test_directed_advantages_reach_the_store_token_by_token(verl_config, store, batch):
    store["a_2_0"]["entropy"] = torch.tensor([0.1, 0.2, 0.4])
    redit(verl_config, "redit.strategy=directed")._compute_advantage(batch, {})
    assert store["a_2_0"]["advantages"].tolist() == pytest.approx([0.01, 0.02, 0.04])


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_is_no_number_stops_the_run(verl_config, store, batch, reward):
    store["b_1_0"]["rm_scores"][-1] = reward
    with pytest.raises(ValueError, match="the reward of rollout b_1_0 is not finite"):
        redit(verl_config)._compute_advantage(batch, {})


def test_an_update_ends_with_the_plugins_metrics(verl_config, monkeypatch):
    class Counts(Plugin):
        name = "counts"

        def metrics(self):
            return {"counts/updates": 1.0}

    def update(self, metrics, timing_raw, sample_batch_size):
        metrics["actor/loss"] = 1.0

    monkeypatch.setattr(PPOTrainerSync, "_step_once", update)
    metrics = {}
    trainer(verl_config, "redit_sync", [Counts()])._step_once(metrics, {}, 1)
    assert metrics == {"actor/loss": 1.0, "counts/updates": 1.0}


def test_metrics_of_several_updates_in_a_step_are_averaged_by_verl(verl_config, monkeypatch):
    """As in separate_async, where a step has ``parameter_sync_step`` updates."""

    class Counts(Plugin):
        name = "counts"
        updates = 0

        def metrics(self):
            self.updates += 1
            return {"counts/updates": float(self.updates)}

    def update(self, metrics, timing_raw, sample_batch_size):
        keys = [f"{self.local_trigger_step}_{number}_0" for number in range(sample_batch_size)]
        return KVBatchMeta(partition_id="train", keys=keys, tags=[{}] * sample_batch_size)

    made = trainer(verl_config, "redit_separate_async", [Counts()], "data.train_batch_size=8")
    monkeypatch.setattr(get_trainer_cls("separate_async"), "_step_once", update)
    monkeypatch.setattr(get_trainer_cls("separate_async"), "prepare_step", lambda self: {})
    made.parameter_sync_step = 4
    metrics = {}
    made.step(metrics, {})
    assert metrics == {"counts/updates": (1 + 2 + 3 + 4) / 4}


class Band(Plugin):
    name = "band"
    chooses_groups = True

    def keeps_group(self, accuracy):
        return 0 < accuracy < 1


def buffer_of(verl_config, plugins, *overrides):
    made = trainer(verl_config, "redit_sync", plugins, "algorithm.filter_groups.enable=true", *overrides)
    return made._build_replay_buffer()


@pytest.fixture
def finished(store):
    """Groups with their sessions' accuracies, as finished rollouts."""

    def fill(buffer):
        for uid, accuracies in {"a": [1, 1], "b": [0, 1], "c": [0, 0], "d": [1, 1, 1, 0]}.items():
            buffer.finished_keys["train"].add(uid)
            for session, accuracy in enumerate(accuracies):
                for output in range(2 if uid == "b" else 1):
                    key = f"{uid}_{session}_{output}"
                    store[key] = {
                        "rm_scores": torch.tensor([0.0, accuracy]),
                        "extra_fields": {"reward_extra_info": {"acc": float(accuracy)}},
                    }
                    buffer.partitions["train"][key] = {}
        return buffer

    return fill


def test_verls_filter_is_left_alone_by_plugins_that_keep_every_group(verl_config):
    buffer = buffer_of(verl_config, [Answers()], "algorithm.filter_groups.metric=acc")
    assert buffer._dapo_filtered_keys.__func__ is ReplayBuffer._dapo_filtered_keys


def test_verls_filter_drops_the_same_groups_with_dithering_on_and_off(verl_config, store, batch):
    """Even with the default metric, which reads the stored rewards: the closed loop dithers, and leaves them raw."""
    dropped = {}
    for std in (0, 0.1):
        made = redit(verl_config, f"redit.std={std}", "algorithm.filter_groups.enable=true")
        made._compute_advantage(batch, {})
        assert (made.plugins[0].metrics()["redit/effective_std"] > 0) == (std > 0)
        buffer = made._build_replay_buffer()
        buffer.finished_keys["train"].update({"a", "b"})
        buffer.partitions["train"].update({key: {} for key in store})
        dropped[std] = buffer._dapo_filtered_keys("train")
    assert dropped[0] == dropped[0.1] == ({"a"}, Counter({1.0: 1}))


def test_the_open_band_drops_what_dapo_drops(verl_config, finished):
    band = finished(buffer_of(verl_config, [Band()], "algorithm.filter_groups.metric=acc"))
    stock = finished(buffer_of(verl_config, [], "algorithm.filter_groups.metric=acc"))
    assert isinstance(band._dapo_filtered_keys, GroupFilter)
    assert band._dapo_filtered_keys("train") == stock._dapo_filtered_keys("train") == ({"a", "c"}, Counter([1.0, 0.0]))
    assert band._dapo_filtered_keys("val") == (set(), Counter())


@pytest.mark.parametrize(("bounds", "dropped"), [("[0.0,0.6]", {"a", "c", "d"}), ("[0.6,1.0]", {"a", "b", "c"})])
def test_the_configured_band_decides(verl_config, finished, bounds, dropped):
    settings = ["redit.strategy=accuracy_band", f"redit.accuracy_band={bounds}"]
    filtering = ["algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=acc"]
    buffer = finished(redit(verl_config, *settings, *filtering)._build_replay_buffer())
    assert buffer._dapo_filtered_keys("train")[0] == dropped
    assert buffer._dapo_filtered_keys("train")[0] == dropped  # the second time from what it remembers
    buffer.finished_keys["train"].clear()
    assert buffer._dapo_filtered_keys("train") == (set(), Counter())


def test_a_metric_that_the_scorer_does_not_return_is_named(verl_config, finished):
    buffer = finished(buffer_of(verl_config, [Band()], "algorithm.filter_groups.metric=accuracy"))
    with pytest.raises(ValueError, match="metric=accuracy: the scorer returned no 'accuracy', only acc"):
        buffer._dapo_filtered_keys("train")


def test_a_finished_prompt_without_a_response_stops_the_run_as_verls_filter_does(verl_config, finished):
    buffer = finished(buffer_of(verl_config, [Band()], "algorithm.filter_groups.metric=acc"))
    buffer.finished_keys["train"].add("empty")
    with pytest.raises(ValueError, match=r"finished prompts without any response, so without 'acc': \['empty'\]"):
        buffer._dapo_filtered_keys("train")


def test_dropped_groups_are_replaced_by_verl(verl_config, finished, monkeypatch):
    """verl's own eviction, with its own refill count of two prompts for each dropped group."""
    monkeypatch.setattr(transfer_queue, "kv_clear", lambda **_: None, raising=False)
    buffer = finished(buffer_of(verl_config, [Band()], "algorithm.filter_groups.metric=acc"))
    reasons = buffer._terminal_eviction_reasons(1, "train")
    evicted, _, dropped, metrics = buffer._evict_terminal_groups(1, "train", reasons)
    assert evicted == {"a", "c"} and dropped == 2
    assert metrics["training/filter_groups/evicted_samples"] == 2
    assert buffer._sampleable_terminal_keys("train", reasons) == {"b", "d"}


def test_closed_loop_state_is_saved_before_verl_declares_the_checkpoint_complete(verl_config, tmp_path, monkeypatch):
    made = redit(verl_config, f"trainer.default_local_dir={tmp_path}")
    made.global_steps = 2
    order = []
    monkeypatch.setattr(
        PPOTrainerSync,
        "_save_checkpoint",
        lambda self: order.append((tmp_path / "global_step_2/verl_redit.json").exists()),
    )
    made._save_checkpoint()
    assert order == [True]


def test_a_custom_sampler_without_verls_filter_is_left_alone(verl_config, monkeypatch):
    monkeypatch.setattr(PPOTrainerSync, "_build_replay_buffer", lambda self: OmegaConf.create({}))
    assert trainer(verl_config, "redit_sync", [Band()])._build_replay_buffer() == {}
