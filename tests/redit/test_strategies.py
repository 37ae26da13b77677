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

"""Strategies against verl's own GRPO function, on small batches of known rewards."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from verl_redit.grpo import grpo_advantages
from verl_redit.redit.config import Gate, ReditConfig
from verl_redit.redit.metrics import measure
from verl_redit.redit.noise import Key, Keys, unit_noise, unit_noises
from verl_redit.redit.schedule import Schedule
from verl_redit.redit.strategies import STRATEGIES, AccuracyBand, Dither, reward_noise, reward_noises
from verl_redit.rollouts import Rollouts, Tokens

WRONG, MIXED, RIGHT = [0.0] * 8, [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], [1.0] * 8


def grpo(rewards, group, divide=True):
    """verl's own GRPO function on one-token responses: advantages of shape (sessions,)."""
    scores = torch.tensor(np.asarray(rewards), dtype=torch.float32)[:, None]
    advantages, _ = compute_grpo_outcome_advantage(
        scores, torch.ones_like(scores), np.asarray(group), norm_adv_by_std_in_grpo=divide
    )
    return advantages[:, 0].double().numpy()


def batch(*groups, divide=True, seed=0):
    """Rollouts of the given groups and their keys: group n is row n."""
    rewards = np.concatenate([np.asarray(group, dtype=float) for group in groups])
    group = np.repeat(np.arange(len(groups)), [len(members) for members in groups])
    sessions = [session for members in groups for session in range(len(members))]
    rollouts = Rollouts(
        rewards, group, columns=None,
        estimate=lambda changed, centred=True: grpo(changed, group, divide and centred),
    )  # fmt: skip
    keys = Keys(seed, ["a"] * len(group), group.tolist(), [1] * len(group), sessions)
    return rollouts, lambda: keys


def step(config, rollouts, keys, length=3, entropy=None, divide=True):
    """One pass through a strategy, as the trainer makes it: change of the rewards and advantages."""
    strategy = STRATEGIES[config.strategy](config)
    change = strategy.reward_change(rollouts, keys)
    dithered = rollouts.rewards if change is None else rollouts.rewards + change
    stock = grpo(dithered, rollouts.group, divide and not strategy.divides)
    mask = torch.ones(len(stock), length, dtype=torch.int64)
    everyone = torch.arange(len(stock))
    tokens = Tokens(torch.from_numpy(stock).float()[:, None] * mask, mask, everyone, everyone, lambda: entropy)
    return change, strategy.advantages(rollouts, keys, change, tokens)


def test_groups_are_told_apart():
    rollouts, _ = batch(WRONG, MIXED, RIGHT, [1.0], [0.3] * 8)
    assert rollouts.tied.tolist() == [True, False, True, False, True]
    assert rollouts.mixed.tolist() == [False, True, False, False, False]
    assert rollouts.group_mean.tolist() == pytest.approx([0, 3 / 8, 1, 1, 0.3])
    assert rollouts.group_std.tolist() == pytest.approx([0, np.std(MIXED, ddof=1), 0, 1, 0])


@pytest.mark.parametrize(
    ("apply_to", "dithered"),
    [
        ("all", [True, True, True, True]),
        ("tied", [True, False, True, False]),
        ("tied_right", [False, False, True, False]),
        ("tied_wrong", [True, False, False, False]),
        ("mixed", [False, True, False, False]),
    ],
)
def test_noise_reaches_the_named_groups_and_no_others(apply_to, dithered):
    rollouts, keys = batch(WRONG, MIXED, RIGHT, [1.0])
    noise, _ = step(ReditConfig(apply_to=apply_to, std=0.1), rollouts, keys)
    drawn = 0.1 * unit_noises("gaussian", keys())
    assert noise.tolist() == np.where(np.array(dithered)[rollouts.group], drawn, 0).tolist()


@pytest.mark.parametrize("sigma", [1e-3, 0.3])
def test_with_the_papers_divisor_a_tied_group_gets_full_size_advantages_from_noise_of_any_size(sigma):
    """RMS sqrt((G - 1) / G) with the unbiased standard deviation, whatever the noise."""
    rollouts, keys = batch(*[WRONG] * 500)
    _, advantages = step(ReditConfig(std=sigma), rollouts, keys)
    assert math.sqrt((advantages**2).mean()) == pytest.approx(math.sqrt(7 / 8), abs=0.005)


@pytest.mark.parametrize("sigma", [1e-3, 0.05, 0.3])
def test_without_a_divisor_a_tied_groups_advantages_have_the_size_of_the_noise(sigma):
    rollouts, keys = batch(*[WRONG] * 500, divide=False)
    _, advantages = step(ReditConfig(std=sigma), rollouts, keys, divide=False)
    assert math.sqrt((advantages**2).mean()) == pytest.approx(sigma * math.sqrt(7 / 8), rel=0.03)


@pytest.mark.parametrize(
    ("size", "rate", "dead", "unnormalised", "correlations"),
    [
        (8, 0.05, 0.66, 0.033, (0.997, 0.992, 0.80)),
        (8, 0.20, 0.17, 0.003, (0.998, 0.994, 0.83)),
        (8, 0.90, 0.43, 0.012, (0.998, 0.993, 0.81)),
        (16, 0.05, 0.44, 0.022, (0.995, 0.985, 0.70)),
        (16, 0.50, 0.00, 0.000, (0.998, 0.995, 0.87)),
    ],
)
def test_the_share_of_noise_in_the_gradient_is_what_the_analysis_says(size, rate, dead, unnormalised, correlations):
    """Worked out beforehand by Monte Carlo (60,000 groups a cell); here by verl's own GRPO on 3,000 groups a cell.

    ``dead`` is the share of tied groups and of advantage energy from them, ``unnormalised`` that share without division
    at sigma 0.05, ``correlations`` those of dithered and clean advantages in mixed groups at sigma 0.029, 0.05, 0.29.
    """
    outcomes = np.random.default_rng(0).random((3000, size)) < rate
    rollouts, keys = batch(*outcomes)
    drawn = unit_noises("gaussian", keys())
    tied, mixed = rollouts.tied[rollouts.group], rollouts.mixed[rollouts.group]
    assert rollouts.tied.mean() == pytest.approx(dead, abs=0.03)
    clean = grpo_advantages(rollouts.rewards, rollouts.group)
    for sigma, expected in zip((0.029, 0.05, 0.29), correlations, strict=True):
        noisy = grpo_advantages(rollouts.rewards + sigma * drawn, rollouts.group)
        assert (noisy[tied] ** 2).sum() / (noisy**2).sum() == pytest.approx(dead, abs=0.03)
        assert np.corrcoef(noisy[mixed], clean[mixed])[0, 1] == pytest.approx(expected, abs=0.02)
    noisy = grpo_advantages(rollouts.rewards + 0.05 * drawn, rollouts.group, divide=False)
    assert (noisy[tied] ** 2).sum() / (noisy**2).sum() == pytest.approx(unnormalised, rel=0.35, abs=0.0015)


def test_without_a_divisor_dithered_advantages_are_the_clean_ones_on_average():
    total = np.zeros(8)
    for seed in range(400):
        rollouts, keys = batch(MIXED, divide=False, seed=seed)
        _, advantages = step(ReditConfig(std=0.3), rollouts, keys, divide=False)
        total += advantages[:, 0].numpy()
    clean = grpo(rollouts.rewards, rollouts.group, divide=False)
    assert total / 400 == pytest.approx(clean, abs=4 * 0.3 / math.sqrt(400))


@pytest.mark.parametrize("sigma", [0.01, 0.1])
def test_a_clean_divisor_makes_the_noise_a_knob_on_tied_groups_and_keeps_mixed_ones(sigma):
    rollouts, keys = batch(*[WRONG] * 300, MIXED)
    noise, advantages = step(ReditConfig(std=sigma, std_source="clean", std_floor=0.4, apply_to="tied"), rollouts, keys)
    tied = advantages[:-8, 0].double().numpy()
    assert math.sqrt((tied**2).mean()) == pytest.approx(sigma / 0.4 * math.sqrt(7 / 8), rel=0.04)
    clean = grpo(rollouts.rewards, rollouts.group)
    assert advantages[-8:, 0].tolist() == pytest.approx(clean[-8:], rel=1e-5)
    centred = grpo(rollouts.rewards + noise, rollouts.group, divide=False)
    assert tied == pytest.approx(centred[:-8] / 0.4, rel=1e-4, abs=1e-6)


def test_a_clean_divisor_does_not_depend_on_the_units_of_the_reward():
    small, keys = batch(WRONG, MIXED)
    large, _ = batch(*(100 * np.array(group) for group in (WRONG, MIXED)))
    settings = {"std": 0.1, "std_source": "clean"}
    _, one = step(ReditConfig(**settings), small, keys)
    _, hundred = step(ReditConfig(**settings, reward_range=100.0, right_above=50.0), large, keys)
    assert hundred == pytest.approx(one, rel=1e-4)


def test_a_clean_divisor_leaves_a_group_of_one_as_verl_has_it():
    rollouts, keys = batch([0.7], MIXED)
    _, advantages = step(ReditConfig(std=0, std_source="clean"), rollouts, keys)
    assert float(advantages[0, 0]) == pytest.approx(grpo(rollouts.rewards, rollouts.group)[0], rel=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_the_batch_divisor_is_one_for_all_groups(sigma):
    rollouts, keys = batch(WRONG, MIXED, [0.0] * 7 + [1.0])
    noise, advantages = step(ReditConfig(std=sigma, std_source="batch"), rollouts, keys)
    dithered = rollouts.rewards if noise is None else rollouts.rewards + noise
    centred = grpo(dithered, rollouts.group, divide=False)
    assert advantages[:, 0].numpy() == pytest.approx(centred / (dithered.std(ddof=1) + 1e-6), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("gate", "open_"),
    [
        (Gate(), True),
        (Gate(tied_share=(0.5, 1.0)), True),
        (Gate(tied_share=(0.0, 0.5)), False),
        (Gate(pass_rate=(0.0, 0.4)), False),
        (Gate(pass_rate=(0.4, 0.5)), True),
    ],
)
def test_gates_look_at_the_raw_batch(gate, open_):
    rollouts, keys = batch(WRONG, MIXED, RIGHT)  # two thirds tied, 11 of 24 right
    noise, _ = step(ReditConfig(gate=gate), rollouts, keys)
    assert (noise is not None) == open_


def test_std_0_and_a_schedule_at_its_end_leave_advantages_alone():
    rollouts, keys = batch(WRONG, MIXED)
    for config in (ReditConfig(std=0), ReditConfig(schedule=Schedule("linear", total_steps=1))):
        noise, advantages = step(config, rollouts, keys)
        assert noise is None or not noise.any()
        assert advantages[:, 0].double().numpy() == pytest.approx(grpo(rollouts.rewards, rollouts.group), abs=0)


def test_one_draw_for_each_component_scaled_by_its_range():
    config = ReditConfig(std=0.1, components={"correctness": 2.0, "format": 1.0})
    key = Key(0, "a", 5, 1, 0)
    draws = [unit_noise("gaussian", key._replace(component=name)) for name in ("correctness", "format")]
    assert reward_noise(config, key) == pytest.approx(0.1 * (2 * draws[0] + draws[1]))
    keys = Keys(0, ["a"] * 20_000, range(20_000), [1] * 20_000, [0] * 20_000)
    assert reward_noises(config, keys).std() == pytest.approx(0.1 * config.scale, rel=0.02)
    assert config.scale == pytest.approx(math.sqrt(5))


@given(
    st.lists(
        st.builds(Key, st.just(0), st.just("a"), st.integers(0, 99), st.integers(1, 30), st.integers(0, 7)),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from(
        [ReditConfig(), ReditConfig(components={"a": 1.0, "b": 3.0}, schedule=Schedule("linear", total_steps=20))]
    ),
)
def test_both_loops_draw_the_same_noise(keys, config):
    together = reward_noises(config, Keys(0, *map(list, zip(*(key[1:5] for key in keys), strict=True))))
    assert together.tolist() == pytest.approx([reward_noise(config, key) for key in keys], rel=1e-12)


def test_directed_advantages_follow_equation_5_of_rl_zvp():
    rollouts, keys = batch([1.0, 1.0], [0.0, 0.0], [0.0, 1.0])
    entropy = torch.tensor([[0.1, 0.5, 0.2], [0.3, 0.3, 0.0], [0.4, 0.1, 0.2], [0.0, 0.0, 0.6], [9.0] * 3, [9.0] * 3])
    _, advantages = step(ReditConfig(strategy="directed", entropy_scale=0.2), rollouts, keys, entropy=entropy)
    assert advantages[:2] == pytest.approx(0.2 * entropy[:2])
    assert advantages[2] == pytest.approx(torch.tensor([0.0, -0.06, -0.04]))
    assert advantages[3] == pytest.approx(torch.tensor([-0.12, -0.12, 0.0]))
    assert advantages[4:, 0].tolist() == pytest.approx(grpo([0.0, 1.0], [0, 0]))


def test_directed_advantages_take_no_notice_of_tokens_that_the_policy_did_not_write():
    config = ReditConfig(strategy="directed", entropy_scale=1.0)
    rollouts, keys = batch([0.0, 0.0])
    mask = torch.tensor([[1, 0, 1], [1, 1, 0]])
    entropy = torch.tensor([[0.1, 9.0, 0.3], [0.2, 0.2, 9.0]])
    everyone = torch.arange(2)
    tokens = Tokens(torch.zeros(2, 3), mask, everyone, everyone, lambda: entropy)
    advantages = STRATEGIES["directed"](config).advantages(rollouts, keys, None, tokens)
    assert advantages == pytest.approx(torch.tensor([[-0.2, 0.0, 0.0], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("std_source", ["dithered", "clean", "batch"])
def test_advantage_noise_has_the_energy_that_dithering_would_have_added(std_source):
    rollouts, keys = batch(*[WRONG, MIXED] * 300)
    _, dithered = step(ReditConfig(std=0.1, std_source=std_source), rollouts, keys)
    _, clean = step(ReditConfig(std=0.0, std_source=std_source), rollouts, keys)
    noise, advantages = step(ReditConfig(std=0.1, std_source=std_source, strategy="advantage_noise"), rollouts, keys)
    added, expected = (values[:, 0].numpy() - clean[:, 0].numpy() for values in (advantages, dithered))
    assert noise is None
    assert (added**2).mean() == pytest.approx((expected**2).mean(), rel=0.05)
    assert abs(np.corrcoef(added, expected)[0, 1]) < 4 / math.sqrt(len(added))
    mixed = rollouts.mixed[rollouts.group]
    assert (added[mixed] ** 2).mean() == pytest.approx((added[~mixed] ** 2).mean(), rel=0.1)


@pytest.mark.parametrize("std_source", ["dithered", "clean", "batch"])
def test_advantage_noise_of_std_0_is_no_noise(std_source):
    rollouts, keys = batch(WRONG, MIXED, [0.3])
    _, noisy = step(ReditConfig(std=0, std_source=std_source, strategy="advantage_noise"), rollouts, keys)
    _, plain = step(ReditConfig(std=0, std_source=std_source), rollouts, keys)
    assert torch.equal(noisy, plain)


@pytest.mark.parametrize(
    ("band", "kept"),
    [
        ((0.0, 1.0), [False, True, True, True, False]),
        ((0.25, 0.75), [False, True, True, True, False]),
        ((0.3, 1.0), [False, False, True, True, False]),
        ((0.0, 0.5), [False, True, True, False, False]),
        ((0.5, 0.5), [False, False, True, False, False]),
    ],
)
def test_the_accuracy_band_keeps_its_bounds_except_0_and_1(band, kept):
    strategy = AccuracyBand(ReditConfig(strategy="accuracy_band", accuracy_band=band))
    assert [strategy.keeps_group(accuracy) for accuracy in (0.0, 0.25, 0.5, 0.75, 1.0)] == kept


def test_every_other_strategy_keeps_every_group():
    for name in ("dither", "directed", "advantage_noise"):
        assert all(STRATEGIES[name](ReditConfig(strategy=name)).keeps_group(accuracy) for accuracy in (0.0, 0.5, 1.0))


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=6), min_size=1, max_size=6),
    st.sampled_from(["all", "tied", "mixed", "tied_right", "tied_wrong"]),
    st.sampled_from(["dithered", "clean", "batch"]),
    st.sampled_from(["dither", "directed", "advantage_noise"]),
)
def test_any_batch_gives_finite_advantages_and_is_left_as_it_was(groups, apply_to, std_source, strategy):
    rollouts, keys = batch(*groups)
    rewards = rollouts.rewards.copy()
    config = ReditConfig(apply_to=apply_to, std_source=std_source, strategy=strategy)
    entropy = torch.rand(len(rewards), 3, generator=torch.Generator().manual_seed(0))
    noise, advantages = step(config, rollouts, keys, entropy=entropy)
    assert torch.isfinite(advantages).all()
    assert rollouts.rewards.tolist() == rewards.tolist()
    assert all(map(math.isfinite, measure(config, rollouts, noise, advantages, torch.ones(len(rewards), 3)).values()))


def test_metrics_of_a_known_batch():
    rollouts, keys = batch(WRONG, MIXED, RIGHT)
    config = ReditConfig(std=0.05)
    noise, advantages = step(config, rollouts, keys)
    metrics = measure(config, rollouts, noise, advantages, torch.ones_like(advantages))
    assert metrics["redit/raw_reward/mean"] == pytest.approx(11 / 24)
    assert metrics["redit/dithered_reward/mean"] == pytest.approx((rollouts.rewards + noise).mean())
    assert metrics["redit/tied_share"] == pytest.approx(2 / 3)
    assert metrics["redit/tied_right_share"] == metrics["redit/tied_wrong_share"] == pytest.approx(1 / 3)
    assert metrics["redit/tied_energy_share"] == pytest.approx(2 / 3, abs=0.01)
    assert metrics["redit/effective_std"] == pytest.approx(math.sqrt((noise**2).mean()))
    assert 0.95 < metrics["redit/mixed_correlation"] < 1
    assert metrics["redit/mixed_sign_flip_share"] == 0


def test_metrics_without_noise_or_mixed_groups():
    rollouts, keys = batch(WRONG, RIGHT)
    noise, advantages = step(ReditConfig(std=0), rollouts, keys)
    metrics = measure(ReditConfig(), rollouts, noise, advantages, torch.ones_like(advantages))
    assert metrics["redit/effective_std"] == metrics["redit/tied_energy_share"] == 0
    assert "redit/mixed_correlation" not in metrics


def test_a_dithered_batch_depends_on_its_keys_alone():
    rollouts, keys = batch(WRONG, MIXED, RIGHT)
    noise, _ = step(ReditConfig(), rollouts, keys)
    order = np.random.default_rng(1).permutation(len(noise))
    shuffled = Rollouts(rollouts.rewards[order], rollouts.group[order], columns=None, estimate=None)
    columns = ([column[position] for position in order] for column in keys()[1:])
    reordered = Keys(0, *columns)
    again = Dither(ReditConfig()).reward_change(shuffled, lambda: reordered)
    assert again.tolist() == noise[order].tolist()
