"""Metrics of reward models and policies: functions of arrays of hops, progress and outcomes.

Rank correlation with time alone is easy to game (all hops above 0 give VOC+ = 1), so never report one metric alone.
An unreadable hop is NaN; each function documents how it treats NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dopamine_rl.errors import BadInput
from dopamine_rl.progress import HOP_BINS, Floats, apply_hop, check_interval, hop_bin
from dopamine_rl.types import Rate

MIN_POINTS = 8
"""Fewest points for a meaningful rank correlation with time."""

EpisodeOutcome = Literal["success", "partial", "failure"]
OUTCOMES: tuple[EpisodeOutcome, ...] = get_args(EpisodeOutcome)


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric with its 95 % interval; NaN if undefined."""

    value: float
    low: float
    high: float


def voc_plus(hops: ArrayLike) -> float:
    """Return VOC+: Spearman correlation of time with the incremental chain from 0; 0 for a constant curve.

    Args:
        hops: float [n], hop from frame i to frame i + 1 for i = 0 … n − 1; at NaN the chain holds its value.
    Raises:
        BadInput: fewer than 8 points (n + 1), or a hop outside [−1, 1].
    Source: arXiv:2512.23703, value-order correlation.
    """
    return _time_correlation(chain(_check_length(hops), 0.0))


def voc_minus(swapped_hops: ArrayLike) -> float:
    """Return VOC−: like VOC+ with BEFORE and AFTER swapped, chained backwards from 1 at the end; ideally +1.

    Args:
        swapped_hops: float [n], hop from frame i + 1 back to frame i for i = 0 … n − 1, in time order; NaN holds.
    Raises:
        BadInput: fewer than 8 points (n + 1), or a hop outside [−1, 1].
    Source: arXiv:2512.23703, value-order correlation of the reversed video.
    """
    return _time_correlation(chain(_check_length(swapped_hops)[::-1], 1.0)[::-1])


def chain(hops: ArrayLike, start: float) -> Floats:
    """Return the n + 1 values of the incremental chain of n hops from `start`; NaN holds the value.

    Raises:
        BadInput: a hop outside [−1, 1].
    """
    steps = np.asarray(hops, np.float64)
    check_interval("hops", steps[~np.isnan(steps)], -1.0, 1.0)
    values = [start]
    for step in steps:
        values.append(values[-1] if np.isnan(step) else float(apply_hop(values[-1], step)))
    return np.array(values)


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Return Spearman's rank correlation of [n] and [n]; ties share their mean rank; 0 if either is constant."""
    x, y = _same_length(a, b)
    x, y = _ranks(x) - (len(x) + 1) / 2, _ranks(y) - (len(y) + 1) / 2
    scale = np.sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / scale, -1.0, 1.0)) if scale > 0 else 0.0


def kendall_tau(a: ArrayLike, b: ArrayLike) -> float:
    """Return Kendall's τ-b of float [n] and [n], in [−1, 1]; 0 if either is constant, NaN if any value is NaN."""
    from scipy.stats import kendalltau  # takes a second to import, and few users of this module need it

    x, y = _same_length(a, b)
    if x.min() == x.max() or y.min() == y.max():
        return 0.0
    # The p-value is not used: the exact one is slow for long curves, the asymptotic one divides by zero for two points.
    method = "asymptotic" if len(x) > 2 else "exact"
    return float(np.clip(kendalltau(x, y, method=method).statistic, -1.0, 1.0))


def kendall_tau_a(a: ArrayLike, b: ArrayLike) -> float:
    """Return Kendall's τ_a of float [n] and [n], in [−1, 1]: (concordant − discordant) / all pairs; tied pairs count 0,
    where τ-b makes up for them.
    """
    x, y = _same_length(a, b)
    pairs = len(x) * (len(x) - 1) / 2
    untied = [
        pairs - sum(n * (n - 1) / 2 for n in np.unique(values, return_counts=True)[1].tolist()) for values in (x, y)
    ]
    return float(kendall_tau(x, y) * np.sqrt(untied[0] * untied[1]) / pairs) if pairs else 0.0


def hop_mae_by_bin(
    predicted: ArrayLike, truth: ArrayLike, bins: int = HOP_BINS
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the mean absolute error of predicted hops in each bin of the true hop.

    Args:
        predicted: float [N] in [−1, 1]; NaN (unreadable) is skipped.
        truth: float [N] in [−1, 1].
    Returns:
        float64 [bins], NaN for an empty bin, and the number of pairs int64 [bins] in each.
    Raises:
        BadInput: lengths differ, a value outside [−1, 1].
    """
    predicted, truth = _same_length(predicted, truth)
    readable = ~np.isnan(predicted)
    predicted, truth = check_interval("predicted", predicted[readable], -1.0, 1.0), truth[readable]
    index = hop_bin(truth, bins)
    counts = np.bincount(index, minlength=bins)
    sums = np.bincount(index, np.abs(predicted - truth), minlength=bins)
    return np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0), counts.astype(np.int64)


def progress_mae(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Return the mean absolute error of progress, float [T] and [T] in [0, 1]. Raises BadInput otherwise."""
    predicted, truth = _same_length(predicted, truth)
    return float(np.mean(np.abs(check_interval("predicted", predicted) - check_interval("truth", truth))))


def false_success(final_progress: ArrayLike, threshold: float) -> Rate:
    """Return how often a failed episode ends at or above `threshold`, from the final progress [N] of failures.

    Raises:
        BadInput: no episode, or a progress outside [0, 1].
    """
    is_claimed = check_interval("final_progress", final_progress) >= threshold
    return wilson(int(is_claimed.sum()), is_claimed.size)


def outcome(progress: ArrayLike) -> EpisodeOutcome:
    """Classify a finished episode by its progress curve, float [T] in [0, 1].

    The mean is taken over the last third of the curve, ceil(T / 3) points.

    Raises:
        BadInput: an empty curve, or a value outside [0, 1].
    Source: arXiv:2512.23703, Eq. 58.
    """
    curve = check_interval("progress", progress)
    if curve.ndim != 1 or len(curve) == 0:
        raise BadInput("progress", curve.shape, "give the progress curve of one episode, [T] with T ≥ 1")
    mean = float(np.mean(curve[-((len(curve) + 2) // 3) :]))
    if curve[-1] > 0.8 and mean > 0.6:
        return "success"
    return "partial" if mean >= 0.4 else "failure"


def true_outcome(success: bool, final_progress: float, stages: int) -> EpisodeOutcome:
    """Return the true outcome of an episode, by the stage it had reached at its end.

    Every stage of a demonstration is an equal share of its progress (Eq. 1), so the first of N is done at 1/N. A
    failure is partial if at least the first stage is done when it ends. Progress that was lost again does not count,
    since `outcome` looks at the end too. A task with one stage has no partial success.

    Args:
        success: the task was solved.
        final_progress: true progress at the end, in [0, 1].
        stages: N, at least 1.
    """
    if success:
        return "success"
    return "partial" if final_progress >= 1.0 / stages and stages > 1 else "failure"


def confusion(predicted: Sequence[EpisodeOutcome], truth: Sequence[EpisodeOutcome]) -> NDArray[np.int64]:
    """Return the confusion matrix int64 [3, 3]: rows are true, columns predicted outcomes, in the order of `OUTCOMES`.

    Raises:
        BadInput: lengths differ.
    """
    if len(predicted) != len(truth):
        raise BadInput("predicted", len(predicted), f"give one outcome for each of {len(truth)} episodes")
    counts = np.zeros((len(OUTCOMES), len(OUTCOMES)), np.int64)
    for predicted_outcome, actual in zip(predicted, truth, strict=True):
        counts[OUTCOMES.index(actual), OUTCOMES.index(predicted_outcome)] += 1
    return counts


def auc(successes: ArrayLike, failures: ArrayLike) -> float:
    """Return the ROC AUC: the probability that a success ends higher than a failure, ties counting half.

    Args:
        successes, failures: final progress of each episode, float [S] and [F].
    Raises:
        BadInput: one of them is empty or not finite.
    """
    high, low = np.ravel(np.asarray(successes, np.float64)), np.ravel(np.asarray(failures, np.float64))
    for name, values in (("successes", high), ("failures", low)):
        if values.size == 0 or not np.all(np.isfinite(values)):
            raise BadInput(name, values, "give the final progress of at least one episode, all finite")
    difference = high[:, None] - low[None, :]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> Rate:
    """Return a rate with its Wilson score interval.

    Args:
        successes, n: number of successes and of trials.
        z: normal quantile; the default gives 95 %.
    Raises:
        BadInput: n is 0, or successes lies outside 0 … n.
    Source: Wilson, Journal of the American Statistical Association 22 (1927).
    """
    if n < 1:
        raise BadInput("n", n, "run at least one trial")
    if not 0 <= successes <= n:
        raise BadInput("successes", successes, f"give a count in 0 … {n}")
    p, scale = successes / n, 1.0 + z * z / n
    center = (p + z * z / (2 * n)) / scale
    half = z / scale * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = max(0.0, float(center - half)), min(1.0, float(center + half))
    return Rate(mean=p, low=min(low, p), high=max(high, p), n=n)  # at 0 and 1 rounding may put an end beyond the mean


def paired_difference(after: Sequence[bool], before: Sequence[bool], z: float = 1.959963984540054) -> Rate:
    """Return the difference of two success rates on the same trials, with its interval.

    Args:
        after, before: one outcome per trial, [n] each; trial i starts the same way in both.
        z: normal quantile; the default gives 95 %.
    Returns:
        mean after − before with its interval, all in [−1, 1]. The interval adds half a trial to each of the four kinds
        of pair, so it is also valid if few pairs differ.
    Raises:
        BadInput: no trial, or different numbers of them.
    Source: Agresti and Min, Statistics in Medicine 24 (2005), adjusted Wald interval for matched pairs.
    """
    if len(after) != len(before) or not len(after):
        raise BadInput("after", len(after), f"give one outcome for each of {max(1, len(before))} trials")
    gained = sum(bool(a) and not b for a, b in zip(after, before, strict=True))
    lost = sum(bool(b) and not a for a, b in zip(after, before, strict=True))
    n, total = len(after), len(after) + 2.0
    up, down = (gained + 0.5) / total, (lost + 0.5) / total
    half = z * float(np.sqrt((up + down - (up - down) ** 2) / total))
    mean = (gained - lost) / n
    low, high = max(-1.0, up - down - half), min(1.0, up - down + half)
    return Rate(mean=mean, low=min(low, mean), high=max(high, mean), n=n)


def bootstrap(
    statistics: Callable[[NDArray[np.int64]], Sequence[float]],
    strata: Sequence[int],
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Interval]:
    """Return K statistics of N independent units (episodes) with percentile bootstrap intervals.

    Units are resampled within their stratum, so every resample has as many successes and failures as the data. A
    statistic at the end of its range (an AUC of 1) gets an interval of width 0, which says nothing about unseen units.

    Args:
        statistics: maps N unit indices, int64 [N], to K numbers; NaN (undefined) is skipped.
        strata: N stratum numbers, one per unit.
        resamples: number of resamples.
        seed: of the resampling.
        level: share of resamples inside the interval.
    Raises:
        BadInput: no unit.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile interval.
    """
    groups = [np.flatnonzero(np.asarray(strata) == stratum) for stratum in sorted(set(strata))]
    if not groups:
        raise BadInput("strata", strata, "give at least one unit")
    rng = np.random.default_rng(seed)
    values = np.asarray(statistics(np.arange(len(strata))), np.float64)
    drawn = np.array(
        [statistics(np.concatenate([rng.choice(group, len(group)) for group in groups])) for _ in range(resamples)]
    )
    intervals = []
    for value, column in zip(values, drawn.T, strict=True):
        defined = column[~np.isnan(column)]
        ends = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]) if len(defined) else (np.nan, np.nan)
        intervals.append(Interval(float(value), float(ends[0]), float(ends[1])))
    return intervals


def _check_length(hops: ArrayLike) -> Floats:
    steps = np.asarray(hops, np.float64)
    if steps.ndim != 1 or len(steps) + 1 < MIN_POINTS:
        raise BadInput("hops", steps.shape, f"give [n] with n ≥ {MIN_POINTS - 1}: {MIN_POINTS} points per episode")
    return steps


def _time_correlation(progress: Floats) -> float:
    return spearman(np.arange(len(progress)), progress)


def _ranks(values: Floats) -> Floats:
    """Return ranks 1 … n, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]


def _same_length(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) == 0:
        raise BadInput("values", (x.shape, y.shape), "give two arrays of one shape [n], n ≥ 1")
    return x, y
