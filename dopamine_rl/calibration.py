"""Whether a model's uncertainty says where it errs: functions of an uncertainty and an absolute error, float [N] each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dopamine_rl.errors import BadInput

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Reliability:
    """Expected error by uncertainty, in equally filled classes from the least uncertain to the most.

    Args:
        uncertainty, error: float64 [Q], means of each class.
        counts: int64 [Q].
    """

    uncertainty: Floats
    error: Floats
    counts: NDArray[np.int64]


def reliability(uncertainty: ArrayLike, error: ArrayLike, quantiles: int = 5) -> Reliability:
    """Return the mean error in each quantile of uncertainty; fewer classes where there are fewer values.

    Raises:
        BadInput: lengths differ, nothing given, or a value is not finite.
    """
    doubt, wrong = _checked(uncertainty, error)
    parts = np.array_split(np.argsort(doubt, kind="stable"), min(quantiles, len(doubt)))
    means = [np.array([values[part].mean() for part in parts]) for values in (doubt, wrong)]
    return Reliability(means[0], means[1], np.array([len(part) for part in parts], np.int64))


@dataclass(frozen=True, eq=False, slots=True)
class ErrorMap:
    """Expected error as a function of uncertainty that never decreases; linear between its points, constant outside.

    Args:
        uncertainty: float64 [Q], non-decreasing.
        error: float64 [Q], non-decreasing; all equal where the uncertainty tells nothing.
    """

    uncertainty: Floats
    error: Floats

    def expected(self, uncertainty: ArrayLike) -> Floats:
        """Expected absolute error, float64 of any shape."""
        return np.interp(np.asarray(uncertainty, np.float64), self.uncertainty, self.error)


def fit_error_map(uncertainty: ArrayLike, error: ArrayLike, quantiles: int = 20) -> ErrorMap:
    """Fit the map by isotonic regression of the mean error in equally filled classes of uncertainty.

    Raises:
        BadInput: lengths differ, nothing given, or a value is not finite.
    Source: Barlow et al., Statistical Inference under Order Restrictions (1972), the max-min formula.
    """
    found = reliability(uncertainty, error, quantiles)
    counts = np.concatenate([[0], np.cumsum(found.counts)])
    sums = np.concatenate([[0.0], np.cumsum(found.counts * found.error)])
    classes = range(len(found.error))
    error = [
        max(min((sums[k + 1] - sums[j]) / (counts[k + 1] - counts[j]) for k in classes[i:]) for j in classes[: i + 1])
        for i in classes
    ]
    return ErrorMap(found.uncertainty, np.array(error))


@dataclass(frozen=True, eq=False, slots=True)
class Sparsification:
    """Mean error of what is kept where the most doubtful share is left out, relative to the mean error of all.

    Args:
        removed: float64 [S], shares from 0 to below 1.
        by_uncertainty: float64 [S], the most uncertain answers are left out.
        by_error: float64 [S], the worst answers are left out: no uncertainty can do better.
    """

    removed: Floats
    by_uncertainty: Floats
    by_error: Floats

    @property
    def area(self) -> float:
        """Area between the two curves (AUSE): 0 where uncertainty ranks answers as their error does."""
        return float(np.trapezoid(self.by_uncertainty - self.by_error, self.removed))

    @property
    def area_by_chance(self) -> float:
        """The area that an uncertainty which knows nothing has, in expectation."""
        return float(np.trapezoid(1.0 - self.by_error, self.removed))


def sparsification(uncertainty: ArrayLike, error: ArrayLike, steps: int = 20) -> Sparsification:
    """Return the sparsification curves of N answers; ties in uncertainty keep their order.

    Args:
        steps: shares that are left out: 0, 1/steps, … 1 − 1/steps.
    Raises:
        BadInput: lengths differ, nothing given, a value is not finite, or every error is 0.
    Source: Ilg et al., Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow (ECCV 2018).
    """
    doubt, wrong = _checked(uncertainty, error)
    if wrong.sum() == 0:
        raise BadInput("error", 0.0, "there is no error to rank")
    removed = np.arange(steps) / steps
    kept = [max(1, round(len(wrong) * (1.0 - share))) for share in removed]
    curves = []
    for order in (np.argsort(doubt, kind="stable"), np.argsort(wrong, kind="stable")):
        means = np.cumsum(wrong[order]) / np.arange(1, len(wrong) + 1)
        curves.append(np.array([means[count - 1] for count in kept]) / wrong.mean())
    return Sparsification(removed, curves[0], curves[1])


def _checked(uncertainty: ArrayLike, error: ArrayLike) -> tuple[Floats, Floats]:
    doubt, wrong = np.asarray(uncertainty, np.float64), np.asarray(error, np.float64)
    if doubt.ndim != 1 or doubt.shape != wrong.shape or not len(doubt):
        raise BadInput("uncertainty", (doubt.shape, wrong.shape), "give two arrays of one shape [N], N ≥ 1")
    for name, values in (("uncertainty", doubt), ("error", wrong)):
        if not np.isfinite(values).all():
            raise BadInput(name, values, "give finite values")
    return doubt, wrong
