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

"""From statistics to scores, choices and evidence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from verl_redit.flexora.choice import NoChoice, chooser, refuse_empty
from verl_redit.flexora.evidence import GAP, correlation, gap, gather, jaccard
from verl_redit.flexora.priors import prior, spectral, tail_exponent
from verl_redit.flexora.scores import APPLIED, METHODS, alpha_gradient, alphas, softmax_gates

UNITS = 12
SIZES = np.ones(UNITS)


@given(arrays(np.float64, 7, elements=st.floats(-50, 50)))
def test_gates_have_mean_one(alpha):
    assert softmax_gates(alpha).mean() == pytest.approx(1)


def test_gates_begin_at_one():
    assert (softmax_gates(np.zeros(5)) == 1).all()


@given(arrays(np.float64, 6, elements=st.floats(-3, 3)), arrays(np.float64, 6, elements=st.floats(-10, 10)))
def test_the_slope_of_alpha_is_that_of_the_softmax_and_sums_to_zero(alpha, gradient):
    gates = softmax_gates(alpha)
    slope = alpha_gradient(gates, gradient)
    jacobian = np.diag(gates) - np.outer(gates, gates) / len(gates)
    np.testing.assert_allclose(slope, jacobian @ gradient, atol=1e-9)
    assert slope.sum() == pytest.approx(0, abs=1e-8)


def test_alpha_follows_adam_computed_by_hand():
    trace = alphas(np.array([[1.0, 0.0], [3.0, 0.0]]))
    # centred slopes ±0.5, then ±1.5; Adam's first step is its rate
    assert trace[0] == pytest.approx([-0.01, 0.01])
    first, second = (0.9 * 0.05 + 0.1 * 1.5) / (1 - 0.81), (0.999 * 0.00025 + 0.001 * 2.25) / (1 - 0.999**2)
    assert trace[1] == pytest.approx([-0.01 - 0.01 * first / second**0.5, 0.01 + 0.01 * first / second**0.5])


def test_applied_gates_weigh_the_slope():
    gradients = np.random.default_rng(0).normal(size=(50, 4))
    assert np.abs(alphas(gradients, applied=True)[-1] - alphas(gradients)[-1]).max() > 1e-3


def test_positive_alpha_keeps_about_half_of_pure_noise():
    random = np.random.default_rng(0)
    kept = [(alphas(random.normal(size=(100, 32)))[-1] > 0).mean() for _ in range(30)]
    assert 0.4 < np.mean(kept) < 0.6


def noise(
    seed: int, steps: int = 60, units: int = UNITS, loudest: float = 4, shared: float = 0.0
) -> dict[str, np.ndarray]:
    """Halves without anything in common, in units of different size, of which steps move a share together."""
    random = np.random.default_rng(seed)
    together, alone = random.normal(size=(steps, 1)), random.normal(size=(steps, units))
    of_each = np.sqrt(shared) * together + np.sqrt(1 - shared) * alone
    return {"agreement": of_each * np.geomspace(1 / loudest, loudest, units)}


def planted(seed: int, chosen: list[int], steps: int = 60) -> dict[str, np.ndarray]:
    history = noise(seed, steps)
    history["agreement"][:, chosen] += 2
    return history


def best(count: int):
    return chooser("top_k", count, 0.5, 0.0, SIZES)


def test_planted_agreement_is_found_and_beats_chance():
    chosen = [1, 5, 9]
    for seed in range(5):
        history = planted(seed, chosen)
        score = METHODS["align"].score
        assert np.flatnonzero(best(3)(score(history))).tolist() == chosen
        evidence = gather(history, score, best(3), 0, signed=True)
        assert evidence.beats_chance and evidence.jaccard > evidence.chance_jaccard and evidence.stability > 0.8
        lows = np.array(evidence.intervals)[:, 0]
        assert lows[chosen].min() > np.delete(lows, chosen).max()


@pytest.mark.parametrize("shared", [0.0, 0.9])
@pytest.mark.parametrize(
    ("name", "units", "loudest", "searches"),
    [
        *(("align", units, loudest, 40) for units in (4, UNITS) for loudest in (1, 100)),
        # they take longer
        ("first_order", 6, 10, 20),
        ("l1_gate", 6, 10, 20),
    ],
)
def test_noise_does_not_beat_chance_more_often_than_it_says(name, units, loudest, searches, shared):
    method, choose = METHODS[name], chooser("top_k", None, 0.5, 0.0, [1] * units)
    (statistic,) = method.measures
    histories = [{statistic: noise(seed, 60, units, loudest, shared)["agreement"]} for seed in range(searches)]
    found = [gather(history, method.score, choose, 0, method.signed) for history in histories]
    assert sum(evidence.beats_chance for evidence in found) <= 0.15 * searches  # a twentieth expected, at most
    assert sum(evidence.steadiness > evidence.chance_steadiness for evidence in found) <= 0.2 * searches


@pytest.mark.parametrize("name", ["align", "first_order", "l1_gate"])
def test_steady_signs_are_more_than_chance(name):
    method = METHODS[name]
    (statistic,) = method.measures
    for seed in range(5):
        steps = noise(seed, loudest=1, shared=0.5)["agreement"] + np.linspace(-2, 2, UNITS)
        evidence = gather({statistic: steps}, method.score, best(6), 0, method.signed)
        assert evidence.beats_chance and evidence.steadiness > evidence.chance_steadiness


def test_one_steady_unit_is_a_choice_of_one_and_not_of_six():
    of_six, of_one = 0, 0
    for seed in range(12):
        steps = noise(seed, loudest=1)["agreement"]
        steps[:, 3] += 4
        for_six, for_one = (gather({"agreement": steps}, METHODS["align"].score, best(k), 0, True) for k in (6, 1))
        assert for_six.steadiness > for_six.chance_steadiness
        of_six += for_six.beats_chance
        of_one += for_one.beats_chance
    assert of_six <= 5 and of_one >= 8


@pytest.mark.parametrize(("units", "k"), [(4, 2), (8, 7), (6, 3)])
@pytest.mark.parametrize("name", ["align", "grad_norm"])
def test_one_loud_unit_is_no_choice_where_few_are_possible(name, units, k):
    method, choose, passed = METHODS[name], chooser("top_k", k, 0.5, 0.0, [1] * units), 0
    (statistic,) = method.measures
    for seed in range(10):
        steps = np.random.default_rng(seed).normal(size=(60, units))
        steps[:, 1] += 4
        passed += gather({statistic: steps}, method.score, choose, 0, method.signed).beats_chance
    assert passed <= 3


def test_two_of_four_that_stand_apart_are_a_choice():
    for seed in range(5):
        steps = np.random.default_rng(seed).normal(size=(60, 4)) + [0, 2, 0, 2]
        evidence = gather({"agreement": steps}, METHODS["align"].score, chooser("top_k", 2, 0.5, 0.0, [1] * 4), 0, True)
        assert evidence.beats_chance and evidence.measure == GAP


def test_an_order_that_comes_out_again_is_more_than_chance():
    """Though units in the middle of it change places between the halves, so that choices of half of them differ."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(20):
        scores = np.linspace(-1, 1, UNITS) + random.normal(size=(60, UNITS))
        found.append(gather({"norm": 10 + scores}, METHODS["grad_norm"].score, best(6), 0))
    assert all(evidence.beats_chance for evidence in found)
    assert not all(evidence.jaccard > evidence.chance_jaccard for evidence in found)


def test_neither_one_outlier_nor_noise_seen_twice_makes_a_choice():
    choose, score = best(6), METHODS["grad_norm"].score
    outlier, repeated = 0, 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        norms = random.normal(1.0, 0.1, size=(60, UNITS))
        norms[:, 3] += 50
        outlier += gather({"norm": norms}, score, choose, 0).beats_chance
        twice = np.repeat(random.normal(size=(30, UNITS)), 2, axis=0)
        repeated += gather({"norm": twice}, score, choose, 0).beats_chance
    assert outlier <= 4 and repeated <= 4  # 1 of each expected


def test_noise_of_batches_that_are_trained_on_again_is_no_evidence():
    """As with several PPO epochs: a batch's mini-batches come four times, with half of their noise."""
    score, passed, without, verdicts = METHODS["align"].score, 0, 0, 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        own, again = random.normal(size=(2, 24, 4, UNITS))
        steps = (own[:, :1] + again).reshape(-1, UNITS)
        batches = [f"{batch}" for batch in range(24) for _ in range(4)]
        told, untold = (gather({"agreement": steps}, score, best(6), 0, True, names) for names in (batches, None))
        passed += told.steadiness > told.chance_steadiness
        without += untold.steadiness > untold.chance_steadiness
        verdicts += told.beats_chance
    assert passed <= 6 < without and verdicts <= 3  # 2 expected


def test_batches_that_are_trained_on_again_are_too_few_to_judge():
    steps = {"agreement": np.random.default_rng(0).normal(size=(60, UNITS))}
    assert gather(steps, METHODS["align"].score, best(6), 0, True, ["a", "b", "c"] * 20) is None


def test_parts_of_a_history_with_gates_that_act_are_scored_by_the_gates_that_acted():
    random = np.random.default_rng(0)
    gradients = random.normal(size=(60, UNITS)) + np.arange(UNITS)
    method = APPLIED["unrolled"]
    read = method.read({"gate_gradient": gradients})
    np.testing.assert_allclose(method.score(read), alphas(gradients, applied=True)[-1])
    second = {"gate_gradient": read["gate_gradient"][30:]}
    gates = softmax_gates(alphas(gradients, applied=True)[29])
    assert second["gate_gradient"][0] == pytest.approx(alpha_gradient(gates, gradients[30]))


def test_paper_mode_on_noise_keeps_half_and_is_told_so():
    history = {"gate_gradient": np.random.default_rng(1).normal(size=(80, UNITS))}
    evidence = gather(history, METHODS["first_order"].score, chooser("positive", None, 0.5, 0.0, SIZES), 0)
    assert 0.35 < evidence.kept_by_chance < 0.65
    assert not evidence.beats_chance


def test_too_few_steps_have_no_evidence():
    assert gather(planted(0, [1], steps=3), METHODS["align"].score, best(1), 0) is None


def test_evidence_is_the_same_again():
    history = planted(3, [2])
    score = METHODS["align"].score
    assert gather(history, score, best(4), 7) == gather(history, score, best(4), 7)


def test_overlap_and_correlation():
    assert jaccard(np.array([True, True, False]), np.array([True, False, False])) == 0.5
    assert jaccard(np.zeros(3, bool), np.zeros(3, bool)) == 1
    assert correlation(np.arange(4), np.array([0, 1, 4, 9])) == pytest.approx(1)
    assert correlation(np.ones(4), np.arange(4)) == 0
    kept = np.array([True, False, True])
    assert gap(kept, np.array([3.0, 1.0, 5.0])) == 0.5 and gap(kept, np.array([0.0, 2.0, 2.0])) == -1
    assert gap(np.ones(3, bool), np.arange(3.0)) == -1


def test_l1_gates_shrink_what_training_does_not_hold_up():
    gradients = np.zeros((200, 3))
    gradients[:, 0] = -1.0  # a larger gate lowers the loss
    gradients[:, 1] = 1.0
    gates = METHODS["l1_gate"].score({"gate_gradient": gradients})
    assert gates[0] > gates[2] > gates[1] and gates[2] < 1


def test_every_method_says_where_it_comes_from_and_only_gates_are_applied():
    assert all(method.source for method in METHODS.values())
    assert all(METHODS[name].gates for name in APPLIED)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (dict(rule="top_k", k=2), [2, 3]),
        (dict(rule="top_k", k=None), [2, 3]),
        (dict(rule="budget", budget=0.4), [2, 0]),  # the best one that is too large is passed over
        (dict(rule="positive"), [1, 2, 3]),
        (dict(rule="z_score", z=1.0), [3]),
    ],
)
def test_rules(rule, kept):
    choose = chooser(**{"k": None, "budget": 0.5, "z": 0.0, "sizes": np.array([1, 4, 2, 6]), **rule})
    assert np.flatnonzero(choose(np.array([-1.0, 0.5, 2.0, 5.0]))).tolist() == sorted(kept)


@pytest.mark.parametrize(("kept", "told"), [([False] * 3, "none of 3"), ([True] * 3, "all of 3")])
def test_nothing_and_everything_are_no_choice(kept, told):
    with pytest.raises(NoChoice, match=told):
        refuse_empty(np.array(kept), "top_k")


def test_priors_go_by_depth():
    units = {f"model.layers.{n}.{m}": [f"model.layers.{n}.{m}"] for n in range(5) for m in ("q", "v")}

    def layers(method: str, k: int = 4, seed: int = 0) -> list[int]:
        kept = chooser("top_k", k, 0.5, 0.0, np.ones(10))(prior(method, units, seed))
        return sorted(int(unit.split(".")[2]) for unit, keep in zip(units, kept, strict=True) if keep)

    assert layers("first") == [0, 0, 1, 1]
    assert layers("last") == [3, 3, 4, 4]
    assert layers("middle", 6) == [1, 1, 2, 2, 3, 3]
    assert len({tuple(prior("random", units, seed)) for seed in range(5)}) == 5
    assert (prior("random", units, 3) == prior("random", units, 3)).all()


def test_spectra_with_lighter_tails_score_higher():
    torch = pytest.importorskip("torch")
    random = torch.Generator().manual_seed(0)
    flat = torch.randn(64, 64, generator=random)
    u, _, v = torch.linalg.svd(flat)
    heavy = u @ torch.diag(1.0 / torch.arange(1, 65)) @ v
    assert tail_exponent(heavy) < tail_exponent(flat)
    # eigenvalues n^-2 have the exponent 1.5
    assert tail_exponent(heavy) == pytest.approx(1.5, abs=0.1)
    scores = spectral({"a": ["m", "n"], "b": ["n"]}, {"m": heavy, "n": flat})
    assert scores[0] == pytest.approx((tail_exponent(heavy) + tail_exponent(flat)) / 2)
