"""Calibration of a model's uncertainty: functions of an uncertainty and an absolute error, float [N] each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dopamine_rl.errors import BadInput

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Reliability:
    """Mean error by uncertainty, in quantile bins of equal size, from the least to the most uncertain.

    Args:
        uncertainty, error: float64 [Q], mean of each bin.
        counts: int64 [Q].
    """

    uncertainty: Floats
    error: Floats
    counts: NDArray[np.int64]


def reliability(uncertainty: ArrayLike, error: ArrayLike, quantiles: int = 5) -> Reliability:
    """Return the mean error in each quantile bin of uncertainty; fewer bins if there are fewer values.

    Raises:
        BadInput: lengths differ, no values, or a value is not finite.
    """
    uncertainties, errors = _checked(uncertainty, error)
    parts = np.array_split(np.argsort(uncertainties, kind="stable"), min(quantiles, len(uncertainties)))
    means = [np.array([values[part].mean() for part in parts]) for values in (uncertainties, errors)]
    return Reliability(means[0], means[1], np.array([len(part) for part in parts], np.int64))


@dataclass(frozen=True, eq=False, slots=True)
class ErrorMap:
    """Expected error as a non-decreasing function of uncertainty; linear between its points, constant outside.

    Args:
        uncertainty: float64 [Q], non-decreasing.
        error: float64 [Q], non-decreasing; all equal if the uncertainty carries no information.
    """

    uncertainty: Floats
    error: Floats

    def expected(self, uncertainty: ArrayLike) -> Floats:
        """Expected absolute error, float64 of any shape."""
        return np.interp(np.asarray(uncertainty, np.float64), self.uncertainty, self.error)


def fit_error_map(uncertainty: ArrayLike, error: ArrayLike, quantiles: int = 20) -> ErrorMap:
    """Fit the map by isotonic regression of the mean error in quantile bins of uncertainty.

    Raises:
        BadInput: lengths differ, nothing given, or a value is not finite.
    Source: Barlow et al., Statistical Inference under Order Restrictions (1972), the max-min formula.
    """
    bins = reliability(uncertainty, error, quantiles)
    counts = np.concatenate([[0], np.cumsum(bins.counts)])
    sums = np.concatenate([[0.0], np.cumsum(bins.counts * bins.error)])
    indices = range(len(bins.error))
    error = [
        max(min((sums[k + 1] - sums[j]) / (counts[k + 1] - counts[j]) for k in indices[i:]) for j in indices[: i + 1])
        for i in indices
    ]
    return ErrorMap(bins.uncertainty, np.array(error))


@dataclass(frozen=True, eq=False, slots=True)
class Sparsification:
    """Mean error after removing the most uncertain share of answers, relative to the mean error of all.

    Args:
        removed: float64 [S], shares from 0 to below 1.
        by_uncertainty: float64 [S], removing the most uncertain answers.
        by_error: float64 [S], removing the worst answers (the oracle: no uncertainty does better).
    """

    removed: Floats
    by_uncertainty: Floats
    by_error: Floats

    @property
    def area(self) -> float:
        """Area between the two curves (AUSE): 0 if uncertainty ranks the answers as their error does."""
        return float(np.trapezoid(self.by_uncertainty - self.by_error, self.removed))

    @property
    def area_by_chance(self) -> float:
        """Expected area of a random uncertainty."""
        return float(np.trapezoid(1.0 - self.by_error, self.removed))


def sparsification(uncertainty: ArrayLike, error: ArrayLike, steps: int = 20) -> Sparsification:
    """Return the sparsification curves of N answers; ties in uncertainty keep their order.

    Args:
        steps: number of removed shares: 0, 1/steps, … 1 − 1/steps.
    Raises:
        BadInput: lengths differ, no values, a value is not finite, or every error is 0.
    Source: Ilg et al., Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow (ECCV 2018).
    """
    uncertainties, errors = _checked(uncertainty, error)
    if errors.sum() == 0:
        raise BadInput("error", 0.0, "there is no error to rank")
    removed = np.arange(steps) / steps
    remaining_counts = [max(1, round(len(errors) * (1.0 - share))) for share in removed]
    curves = []
    for order in (np.argsort(uncertainties, kind="stable"), np.argsort(errors, kind="stable")):
        means = np.cumsum(errors[order]) / np.arange(1, len(errors) + 1)
        curves.append(np.array([means[count - 1] for count in remaining_counts]) / errors.mean())
    return Sparsification(removed, curves[0], curves[1])


def _checked(uncertainty: ArrayLike, error: ArrayLike) -> tuple[Floats, Floats]:
    uncertainties, errors = np.asarray(uncertainty, np.float64), np.asarray(error, np.float64)
    if uncertainties.ndim != 1 or uncertainties.shape != errors.shape or not len(uncertainties):
        raise BadInput("uncertainty", (uncertainties.shape, errors.shape), "give two arrays of one shape [N], N ≥ 1")
    for name, values in (("uncertainty", uncertainties), ("error", errors)):
        if not np.isfinite(values).all():
            raise BadInput(name, values, "give finite values")
    return uncertainties, errors
