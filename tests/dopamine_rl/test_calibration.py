"""Uncertainty against error on cases that can be worked out by hand."""

import math

import numpy as np
import pytest

from dopamine_rl.calibration import fit_error_map, reliability, sparsification
from dopamine_rl.errors import BadInput

ERRORS = np.array([0.4, 0.1, 0.3, 0.2])


def test_error_is_told_by_quantile_of_uncertainty() -> None:
    classes = reliability([0.9, 0.1, 0.5, 0.2], ERRORS, quantiles=2)
    assert classes.uncertainty == pytest.approx([0.15, 0.7])
    assert classes.error == pytest.approx([0.15, 0.35])
    assert classes.counts.tolist() == [2, 2]
    assert len(reliability([0.1, 0.2], [0.0, 0.1], quantiles=5).counts) == 2


def test_an_uncertainty_that_ranks_errors_has_no_sparsification_error() -> None:
    curve = sparsification(ERRORS * 7, ERRORS, steps=4)
    assert curve.area == 0.0
    assert curve.removed.tolist() == [0.0, 0.25, 0.5, 0.75]
    assert curve.by_error == pytest.approx([1.0, 0.2 / 0.25, 0.15 / 0.25, 0.1 / 0.25])
    # Trapezoids under 1 − (1, 0.8, 0.6, 0.4).
    assert curve.area_by_chance == pytest.approx(0.25 * (0.1 + 0.3 + 0.5))


def test_an_uncertainty_that_ranks_errors_the_wrong_way_is_worse_than_chance() -> None:
    curve = sparsification(-ERRORS, ERRORS, steps=4)
    assert curve.by_uncertainty == pytest.approx([1.0, 0.3 / 0.25, 0.35 / 0.25, 0.4 / 0.25])
    assert curve.area > curve.area_by_chance > 0


def test_an_uncertainty_without_information_comes_near_chance() -> None:
    rng = np.random.default_rng(1)
    curve = sparsification(rng.random(20_000), rng.random(20_000))
    assert curve.area == pytest.approx(curve.area_by_chance, abs=0.03)


def test_a_map_never_decreases_and_keeps_the_mean_error() -> None:
    rng = np.random.default_rng(2)
    doubt = rng.random(1000)
    wrong = np.abs(doubt + rng.normal(0, 0.5, 1000))
    found = fit_error_map(doubt, wrong)
    assert (np.diff(found.error) >= 0).all()
    assert found.error.mean() == pytest.approx(wrong.mean())
    assert found.expected([0.1, 0.9, 7.0]) == pytest.approx([0.4, 0.9, found.error[-1]], abs=0.15)


def test_violators_are_pooled_by_hand() -> None:
    found = fit_error_map([1, 2, 3, 4], [0.1, 0.4, 0.2, 0.5])
    assert found.error == pytest.approx([0.1, 0.3, 0.3, 0.5])
    assert found.expected([[0.0, 1.5], [3.5, 9.0]]) == pytest.approx(np.array([[0.1, 0.2], [0.4, 0.5]]))


def test_an_uncertainty_that_falls_with_the_error_foresees_the_mean() -> None:
    assert fit_error_map([1, 2, 3], [0.3, 0.2, 0.1]).error == pytest.approx([0.2, 0.2, 0.2])


def test_what_cannot_be_ranked_is_refused() -> None:
    for doubt, wrong in (([0.1], [0.1, 0.2]), ([], []), ([math.nan], [0.1]), ([0.1], [math.inf])):
        with pytest.raises(BadInput):
            reliability(doubt, wrong)
    with pytest.raises(BadInput, match="no error"):
        sparsification([0.1, 0.2], [0.0, 0.0])
