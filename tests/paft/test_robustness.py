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

"""The statistics against values computed by hand, against simulated data with known truth, and their invariants."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from verl_redit.paft.robustness.resampling import DRAWS, Resamples, noise_variance
from verl_redit.paft.robustness.statistics import (
    GridsDifferError,
    Outcomes,
    compare,
    cvar,
    measure,
    measure_templates,
)

BY_HAND = np.array(
    [
        [1, 1, 1, 1],
        [1, 1, 0, 1],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
    ],
    dtype=float,
)  # fmt: skip


def outcomes(accuracy, tiers=None, parsed=1.0, length=10.0):
    accuracy = np.asarray(accuracy, dtype=float)
    items, templates = accuracy.shape
    parsed = np.broadcast_to(parsed, accuracy.shape)
    return Outcomes(
        items=tuple(f"item {number}" for number in range(items)),
        templates=tuple(f"template {number}" for number in range(templates)),
        tiers=tuple(tiers or [""] * templates),
        accuracy=accuracy,
        parsed=parsed,
        wrong_but_parsed=parsed * (1 - accuracy),
        length=np.broadcast_to(length, accuracy.shape),
    )


def generator(seed=0):
    return np.random.default_rng(seed)


def simulated(random, items, accuracies):
    """0 and 1 with the given true accuracy of each template: an item is easier or harder under all of them."""
    chance = np.asarray(accuracies) + random.uniform(-0.25, 0.25, (items, 1))
    return (random.random(chance.shape) < chance).astype(float)


def test_every_figure_of_a_small_grid_is_the_one_computed_by_hand():
    parsed = np.ones((4, 4))
    parsed[3, :2] = 0
    found = measure(outcomes(BY_HAND, parsed=parsed, length=[10, 20, 30, 40]), 0.5, generator())
    assert found.mean.value == 0.5
    assert found.std.value == pytest.approx(math.sqrt(1 / 24))  # 0.75 0.5 0.25 0.5
    assert found.std_without_noise.value == pytest.approx(math.sqrt(1 / 24 - 1 / 36))
    assert found.min.value == 0.25
    assert found.tenth_percentile == pytest.approx(0.325)
    assert found.cvar == 0.25
    assert found.spread == 0.5
    assert found.top == 0.75
    assert found.flips == 0.5
    assert found.right_everywhere == 0.25
    assert found.unparsed == 2 / 16
    assert found.wrong_but_parsed == 6 / 16
    assert found.length == 25


def test_the_noise_of_a_small_grid_is_the_one_computed_by_hand():
    """The squared residuals of the two-way layout add up to 1; 9 degrees of freedom, 4 items."""
    assert noise_variance(BY_HAND) == pytest.approx(1 / 9 / 4)


def test_each_template_has_its_own_figures():
    parsed = np.ones((4, 4))
    parsed[3, 0] = 0
    first, *_, last = measure_templates(
        outcomes(BY_HAND, ["frame"] * 3 + ["system"], parsed, [10, 20, 30, 40]), generator()
    )
    assert (first.id, first.tier, first.accuracy.value, first.length) == ("template 0", "frame", 0.75, 10)
    assert (first.unparsed, first.wrong_but_parsed) == (0.25, 0)
    assert (last.id, last.tier, last.accuracy.value, last.length) == ("template 3", "system", 0.5, 40)
    assert 0 <= first.accuracy.low < 0.75 < first.accuracy.high <= 1


def test_the_bar_itself_counts_even_where_means_are_not_exact():
    thirds = np.repeat([[1.0], [2 / 3], [2 / 3], [2 / 3]], 2, axis=1)
    assert thirds.mean(axis=0)[0] < 0.75
    assert measure(outcomes(thirds), 0.75, generator()).top == 1
    assert measure(outcomes(thirds), 0.76, generator()).top == 0


def test_an_item_is_right_if_more_than_half_of_its_samples_are():
    found = measure(outcomes([[0.5, 0.75], [0.75, 1.0]]), 0.85, generator())
    assert (found.flips, found.right_everywhere) == (0.5, 0.5)


@pytest.mark.parametrize(("templates", "worst"), [(5, 1), (10, 1), (11, 2), (20, 2), (30, 3), (31, 4)])
def test_cvar_is_the_mean_of_the_worst_tenth_rounded_up(templates, worst):
    means = np.linspace(0.9, 0.1, templates)
    assert cvar(means) == pytest.approx(np.sort(means)[:worst].mean())


def test_cvar_takes_other_shares():
    assert cvar(np.array([0.1, 0.5, 0.3, 0.9]), worst=0.5) == pytest.approx(0.2)
    assert cvar(np.array([0.1, 0.5, 0.3, 0.9]), worst=1.0) == pytest.approx(0.45)
    assert 0.07 * 100 > 7
    assert cvar(np.arange(100.0), worst=0.07) == 3


def test_a_tier_has_its_templates_and_all_items():
    tier = outcomes(BY_HAND, ["frame", "system", "frame", ""], length=[10, 20, 30, 40]).of_tier("frame")
    assert tier.templates == ("template 0", "template 2")
    assert tier.tiers == ("frame", "frame")
    assert len(tier.items) == 4
    assert tier.accuracy.tolist() == BY_HAND[:, [0, 2]].tolist()
    assert tier.length[0].tolist() == [10, 30]


def test_one_template_has_no_std():
    found = measure(outcomes(BY_HAND[:, :1]), 0.85, generator())
    assert found.std is None and found.std_without_noise is None
    assert found.mean.value == found.min.value == found.cvar == 0.75


def test_what_the_scorer_does_not_tell_is_unknown_and_not_a_number():
    parsed = np.ones((4, 4))
    parsed[:, 2] = np.nan
    partly_told = outcomes(BY_HAND, parsed=parsed)
    found = measure(partly_told, 0.85, generator())
    assert found.unparsed is None and found.wrong_but_parsed is None
    told, untold = [measure_templates(partly_told, generator())[number] for number in (1, 2)]
    assert (told.unparsed, told.wrong_but_parsed) == (0, 0.5)
    assert (untold.unparsed, untold.wrong_but_parsed) == (None, None)


def test_without_the_noise_the_variance_is_the_true_one_on_average():
    accuracies = np.linspace(0.45, 0.55, 12)
    random = generator()
    grids = [simulated(random, 100, accuracies) for _ in range(2000)]
    observed = np.mean([grid.mean(axis=0).var(ddof=1) for grid in grids])
    corrected = np.mean([grid.mean(axis=0).var(ddof=1) - noise_variance(grid) for grid in grids])
    assert observed > 2 * accuracies.var(ddof=1)
    assert corrected == pytest.approx(accuracies.var(ddof=1), rel=0.1)


def test_what_moves_all_templates_alike_is_no_noise():
    hard_and_easy = np.repeat(generator().random((50, 1)), 6, axis=1)
    assert noise_variance(hard_and_easy) == pytest.approx(0, abs=1e-20)


def test_resamples_are_what_drawing_rows_and_columns_gives():
    accuracy = simulated(generator(), 12, np.linspace(0.3, 0.7, 5))
    resamples = Resamples.draw(accuracy.shape, generator(1))
    assert resamples.items.shape == (DRAWS, 12) and resamples.templates.shape == (DRAWS, 5)
    variances = []
    for number in range(50):
        rows = np.repeat(np.arange(12), resamples.items[number].astype(int))
        columns = np.repeat(np.arange(5), resamples.templates[number].astype(int))
        means = accuracy[np.ix_(rows, columns)].mean(axis=0)
        assert resamples.mean(accuracy)[number] == pytest.approx(means.mean())
        assert resamples.min(accuracy)[number] == pytest.approx(means.min())
        variances.append(means.var(ddof=1))
    scaled = resamples.variance(accuracy)[:50]
    assert scaled / scaled[0] == pytest.approx(np.array(variances) / variances[0])


def test_resampled_variances_have_the_observed_one_as_their_mean():
    """Though most of it is noise, which resampling items adds a second time."""
    accuracy = simulated(generator(3), 40, np.linspace(0.5, 0.6, 15))
    variance = accuracy.mean(axis=0).var(ddof=1)
    assert noise_variance(accuracy) > 0.5 * variance
    assert Resamples.draw(accuracy.shape, generator()).variance(accuracy).mean() == pytest.approx(variance, rel=0.04)


def test_the_intervals_hold_the_truth_about_95_times_in_100():
    """Templates and items are drawn anew for each grid. That of min is for the worst template of another such grid."""
    random, held = generator(), []

    def drawn():
        return simulated(random, 80, np.clip(random.normal(0.6, 0.06, 16), 0.3, 0.74))

    lowest = np.mean([drawn().mean(axis=0).min() for _ in range(500)])
    for _ in range(120):
        found = measure(outcomes(drawn()), 0.85, random)
        pairs = [(found.mean, 0.6), (found.std_without_noise, 0.06), (found.min, lowest)]
        held.append([estimate.low <= truth <= estimate.high for estimate, truth in pairs])
    mean, std, smallest = np.mean(held, axis=0)
    assert 0.91 < mean < 1
    assert 0.88 < std < 1
    assert 0.93 < smallest


def test_one_seed_gives_one_interval_and_numpys_global_state_stays():
    before = np.random.get_state()[1].tolist()
    grid = outcomes(simulated(generator(), 30, np.linspace(0.3, 0.7, 8)))
    first, again, other = (measure(grid, 0.85, generator(seed)) for seed in (7, 7, 8))
    assert first == again
    assert first.mean != other.mean and first.std != other.std
    assert np.random.get_state()[1].tolist() == before


def test_a_difference_is_the_new_run_minus_the_first():
    better = BY_HAND.copy()
    better[3] = 1
    difference = compare(outcomes(better), outcomes(BY_HAND), generator())
    assert difference.mean.value == 0.25
    assert difference.std.value == pytest.approx(0)
    assert difference.min.value == 0.25
    other_way = compare(outcomes(BY_HAND), outcomes(better), generator())
    assert other_way.mean.low == pytest.approx(-difference.mean.high)


def test_a_run_does_not_differ_from_itself():
    difference = compare(outcomes(BY_HAND), outcomes(BY_HAND), generator())
    for estimate in (difference.mean, difference.std, difference.min):
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)


def test_pairing_makes_the_intervals_of_like_runs_narrower():
    random = generator()
    first = simulated(random, 150, random.uniform(0.4, 0.7, 20))
    second = np.where(random.random(first.shape) < 0.1, 1.0, first)
    paired = compare(outcomes(second), outcomes(first), generator())
    apart = [measure(outcomes(run), 0.85, generator(seed)) for seed, run in enumerate((first, second))]
    for figure in ("mean", "std", "min"):
        widths = [getattr(run, figure).high - getattr(run, figure).low for run in apart]
        difference = getattr(paired, figure)
        assert 0 < difference.high - difference.low < 0.7 * math.hypot(*widths)
    assert paired.mean.low > 0


def test_differing_grids_are_not_compared_but_named():
    full = outcomes(BY_HAND, ["frame", "", "", ""])
    cut = Outcomes(full.items[1:], full.templates, full.tiers, *[full.accuracy[1:]] * 4)
    with pytest.raises(GridsDifferError, match=r"^missing items \(1\): item 0$"):
        compare(cut, full, generator())
    with pytest.raises(GridsDifferError, match=r"^new items \(1\): item 0$"):
        compare(full, cut, generator())
    with pytest.raises(GridsDifferError, match=r"^missing templates \(1\): template 0 \(frame\)$"):
        compare(full.of_tier(""), full, generator())
    moved = outcomes(BY_HAND, ["system", "", "", ""])
    with pytest.raises(GridsDifferError, match=r"new templates.*\(system\); missing templates.*\(frame\)$"):
        compare(moved, full, generator())
    turned = Outcomes(full.items[::-1], full.templates, full.tiers, *[full.accuracy[::-1]] * 4)
    with pytest.raises(GridsDifferError, match="items are not in the same order"):
        compare(turned, full, generator())


def test_of_many_differing_items_the_first_are_named_and_the_others_counted():
    many = outcomes(np.ones((9, 2)))
    few = Outcomes(many.items[:1], many.templates, many.tiers, *[many.accuracy[:1]] * 4)
    with pytest.raises(GridsDifferError, match=r"missing items \(8\): item 1, .*item 5 and 3 more"):
        compare(few, many, generator())


@st.composite
def grids(draw):
    """Shares of up to three right samples."""
    shape = draw(st.tuples(st.integers(2, 7), st.integers(2, 7)))
    samples = draw(st.integers(1, 3))
    return draw(arrays(np.int64, shape, elements=st.integers(0, samples))) / samples


@settings(deadline=None)
@given(grids(), st.randoms(use_true_random=False))
def test_the_order_of_items_and_templates_changes_no_figure(accuracy, random):
    rows, columns = (random.sample(range(count), count) for count in accuracy.shape)
    first = measure(outcomes(accuracy), 0.5, generator())
    second = measure(outcomes(accuracy[np.ix_(rows, columns)]), 0.5, generator())
    for name in vars(first):
        before, after = (getattr(found, name) for found in (first, second))
        assert getattr(after, "value", after) == pytest.approx(getattr(before, "value", before), abs=1e-7)


@settings(deadline=None)
@given(grids(), st.floats(0, 1))
def test_figures_are_in_order_and_shares_are_shares(accuracy, bar):
    found = measure(outcomes(accuracy), bar, generator())
    slack = 1e-9
    assert 0 <= found.std_without_noise.value <= found.std.value
    assert found.min.value <= found.cvar + slack and found.cvar <= found.mean.value + slack
    assert found.min.value <= found.tenth_percentile + slack
    assert found.mean.value <= found.min.value + found.spread + slack
    assert found.flips + found.right_everywhere <= 1
    assert found.unparsed == 0 and found.wrong_but_parsed == pytest.approx(1 - found.mean.value)
    for estimate in (found.mean, found.min):
        assert -slack <= estimate.low <= estimate.high <= 1 + slack
    for estimate in (found.std, found.std_without_noise):
        assert 0 <= estimate.low <= estimate.high
    assert 0 <= found.top <= 1 and (found.top == 1) == bool((accuracy.mean(axis=0) >= bar - slack).all())
