"""Measures of a reward model against SciPy, slow counts and constructed cases."""

import math
import tracemalloc

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from dopamine_rl.errors import BadInput
from dopamine_rl.metrics import (
    auc,
    bootstrap,
    confusion,
    false_success,
    hop_mae_by_bin,
    kendall_tau,
    outcome,
    progress_mae,
    spearman,
    true_outcome,
    voc_minus,
    voc_plus,
    wilson,
)
from dopamine_rl.progress import apply_hop, hop, hop_bin

few = settings(max_examples=100, deadline=None)
true_curve = np.linspace(0, 1, 12)


def test_a_perfect_model_has_voc_one_both_ways() -> None:
    assert voc_plus(hop(true_curve[:-1], true_curve[1:])) == pytest.approx(1)
    assert voc_minus(hop(true_curve[1:], true_curve[:-1])) == pytest.approx(1)


def test_a_model_that_knows_nothing_but_says_progress_is_caught_by_voc_minus() -> None:
    always_up = np.full(11, 0.05)
    assert voc_plus(always_up) == pytest.approx(1)
    assert voc_minus(always_up) == 0


def test_constant_curves_count_zero_and_short_ones_are_refused() -> None:
    assert voc_plus(np.zeros(7)) == voc_minus(np.zeros(7)) == 0
    for measure in (voc_plus, voc_minus):
        with pytest.raises(BadInput, match="8 points"):
            measure(np.zeros(6))
        with pytest.raises(BadInput, match="hops"):
            measure(np.full(9, 1.5))


def test_voc_chains_as_the_definition_says() -> None:
    rng = np.random.default_rng(3)
    hops = rng.uniform(-0.6, 0.9, 15)
    hops[4] = math.nan
    forward, backward = [0.0], [1.0]
    for value in hops:
        forward.append(forward[-1] if math.isnan(value) else float(apply_hop(forward[-1], value)))
    for value in hops[::-1]:
        backward.insert(0, backward[0] if math.isnan(value) else float(apply_hop(backward[0], value)))
    time = np.arange(16)
    assert voc_plus(hops) == pytest.approx(scipy.stats.spearmanr(time, forward)[0])
    assert voc_minus(hops) == pytest.approx(scipy.stats.spearmanr(time, backward)[0])


@few
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_rank_correlations_equal_scipy_with_ties(points: list[tuple[int, int]]) -> None:
    x, y = np.array(points, float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert spearman(x, y) == kendall_tau(x, y) == 0
    else:
        assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y)[0], abs=1e-9)
        assert kendall_tau(x, y) == pytest.approx(scipy.stats.kendalltau(x, y)[0], abs=1e-9)


def all_pairs_tau(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's τ-b by its definition, from every pair."""
    concordance = left = right = 0.0
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            a, b = np.sign(x[j] - x[i]), np.sign(y[j] - y[i])
            concordance, left, right = concordance + a * b, left + abs(a), right + abs(b)
    return concordance / math.sqrt(left * right) if left * right else 0.0


@pytest.mark.parametrize("seed", range(12))
def test_kendall_s_tau_is_that_of_all_pairs_with_ties_and_in_short_inputs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = (1, 2, 3, 5, 8, 30, 40, 41, 42, 43, 44, 60)[seed]
    time, steps, curve = np.arange(n), rng.integers(0, 4, n), rng.random(n).round(1)
    for x, y in ((time, curve), (steps, curve), (time, time), (time, -time), (time, 0 * time), (0 * time, 0 * time)):
        assert kendall_tau(x, y) == pytest.approx(all_pairs_tau(x, y), abs=1e-12)


def test_kendall_s_tau_of_a_long_recording_builds_no_pairs() -> None:
    time = np.arange(7_200)
    curve = np.random.default_rng(0).random(7_200).round(2)
    kendall_tau(time[:9], curve[:9])  # what is imported does not count
    tracemalloc.start()
    try:
        kendall_tau(time, curve)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * 2**20


def test_kendall_s_tau_of_no_number_is_none() -> None:
    assert math.isnan(kendall_tau([0, 1, 2], [0.1, math.nan, 0.3]))


def test_hop_error_is_reported_by_bin_of_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.uniform(-1, 0.5, 300), rng.uniform(-1, 1, 300)
    predicted[:10] = math.nan
    mae, counts = hop_mae_by_bin(predicted, truth)
    for b in range(25):
        errors = [abs(p - t) for p, t in zip(predicted, truth, strict=True) if hop_bin(t) == b and not math.isnan(p)]
        assert counts[b] == len(errors)
        assert math.isnan(mae[b]) if not errors else mae[b] == pytest.approx(np.mean(errors))
    assert math.isnan(mae[24])


def test_progress_error() -> None:
    assert progress_mae([0.1, 0.5], [0.2, 0.3]) == pytest.approx(0.15)
    for predicted in ([0.1], [0.1, math.nan], [0.1, 1.2]):
        with pytest.raises(BadInput):
            progress_mae(predicted, [0.2, 0.3])


def test_false_claims_are_rates_with_their_intervals() -> None:
    assert false_success([0.95, 0.9, 0.1], 0.9).mean == pytest.approx(2 / 3)
    with pytest.raises(BadInput):
        false_success([math.nan], 0.9)
    with pytest.raises(BadInput):
        false_success([], 0.9)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (np.linspace(0, 1, 9), "success"),
        ([0, 0, 0, 0.1, 0.1, 0.81], "partial"),
        ([0, 0, 0, 0, 0, 0.81], "partial"),
        ([0.9, 0.9, 0.9, 0.9, 0.9, 0.8], "partial"),
        ([0.9, 0.9, 0.9, 0.9, 0.2, 0.3], "failure"),
        ([0.9], "success"),
    ],
)
def test_outcome_follows_the_three_way_rule(curve, expected: str) -> None:
    assert outcome(curve) == expected


def test_outcome_refuses_what_is_no_curve() -> None:
    for curve in ([], [math.nan], [[0.5]]):
        with pytest.raises(BadInput):
            outcome(curve)


@few
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_auc_equals_the_count_over_all_pairs(successes: list[int], failures: list[int]) -> None:
    wins = sum(1.0 if s > f else 0.5 if s == f else 0.0 for s in successes for f in failures)
    assert auc(successes, failures) == pytest.approx(wins / (len(successes) * len(failures)))


def test_auc_needs_both_kinds() -> None:
    for successes, failures in (([], [0.5]), ([0.5], []), ([math.nan], [0.5])):
        with pytest.raises(BadInput):
            auc(successes, failures)


@few
@given(st.integers(1, 400), st.data())
def test_wilson_equals_scipy(n: int, data) -> None:
    k = data.draw(st.integers(0, n))
    rate, expected = wilson(k, n), scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= rate.low <= rate.mean <= rate.high <= 1


def test_no_trial_is_no_rate() -> None:
    for k, n in ((0, 0), (-1, 5), (6, 5)):
        with pytest.raises(BadInput):
            wilson(k, n)


def test_true_outcomes_go_by_the_stage_that_is_done_in_the_end() -> None:
    assert true_outcome(True, 1.0, 2) == "success"
    assert [true_outcome(False, end, 2) for end in (0.0, 0.49, 0.5, 0.9)] == [
        "failure",
        "failure",
        "partial",
        "partial",
    ]
    assert true_outcome(False, 0.35, 3) == "partial"
    assert true_outcome(False, 1.0, 1) == "failure"  # one stage: all or nothing


def test_confusion_counts_what_each_outcome_was_taken_for() -> None:
    counts = confusion(["success", "partial", "partial", "failure"], ["success", "success", "partial", "partial"])
    assert counts.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    with pytest.raises(BadInput):
        confusion(["success"], [])


def test_bootstrap_draws_within_strata_and_covers_a_mean_as_theory_says() -> None:
    rng = np.random.default_rng(0)
    values, strata = np.concatenate([rng.normal(0, 1, 400), np.zeros(5)]), [0] * 400 + [1] * 5
    mean, five, never = bootstrap(
        lambda index: [values[index][:400].mean(), float(np.sum(index >= 400)), math.nan], strata, resamples=600
    )
    assert mean.value == pytest.approx(values[:400].mean())
    width = 1.96 * values[:400].std() / 20
    assert (mean.low, mean.high) == pytest.approx((mean.value - width, mean.value + width), abs=0.2 * width)
    assert (five.value, five.low, five.high) == (5, 5, 5)
    assert math.isnan(never.low)
    again = bootstrap(lambda index: [values[index][:400].mean()], strata, resamples=600)
    assert again == [mean]
    with pytest.raises(BadInput):
        bootstrap(lambda index: [0.0], [])
