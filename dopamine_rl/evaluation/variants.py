"""From a reward model's hops to figures with intervals: every perspective and fusion, hop errors, calibration of
uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.calibration import Reliability, Sparsification, reliability, sparsification
from dopamine_rl.evaluation.answers import EpisodeHops
from dopamine_rl.evaluation.behaviours import behaviour_row
from dopamine_rl.evaluation.figures import Columns, Row, as_columns, curve_row, figures, mean, order_row, take
from dopamine_rl.evaluation.hops import MULTIPLES
from dopamine_rl.evaluation.unseen import UnseenEpisode
from dopamine_rl.metrics import (
    MIN_POINTS,
    EpisodeOutcome,
    Interval,
    auc,
    bootstrap,
    confusion,
    hop_mae_by_bin,
    kendall_tau,
    outcome,
    progress_mae,
    spearman,
    wilson,
)
from dopamine_rl.progress import LOW_WEIGHT, FoldState, fold, hop
from dopamine_rl.types import PERSPECTIVES, FoldedProgress, FusionConfig

NO_GAIN = 0.02
"""Neighbouring frames whose true hop is within this of 0 are a zero-hop pair: nothing was gained or lost between
them."""
CLAIM = 0.05
"""A hop above this claims progress."""
RESAMPLES = 1000

Answered = Sequence[tuple[UnseenEpisode, EpisodeHops]]


class CurveRule(Protocol):
    """A way to make one progress curve of the three perspectives."""

    def curve(self, answers: EpisodeHops) -> tuple[NDArray[np.float32], FoldedProgress]:
        """Progress from 0 at the first frame, float32 [T + 1], and the fold behind it."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the core's rules, or one perspective alone.

    Args:
        fusion: how they are fused, and what the incremental perspective adds its hop to.
        alone: the one perspective that is taken; None takes their fusion.
    """

    fusion: FusionConfig
    alone: int | None = None

    def curve(self, answers: EpisodeHops) -> tuple[NDArray[np.float32], FoldedProgress]:
        """Progress from 0 at the first frame, float32 [T + 1], and the fold behind it."""
        folded, _ = fold(FoldState(), answers.gain, answers.loss, answers.valid, self.fusion)
        values = folded.progress if self.alone is None else folded.perspectives[:, self.alone]
        return np.concatenate([np.zeros(1, np.float32), values]), folded


def variants() -> dict[str, Variant]:
    """Every perspective alone, and every fusion."""
    own = FusionConfig(chain="own")
    alone = {f"{name} alone": Variant(own, index) for index, name in enumerate(PERSPECTIVES)}
    return alone | {
        f"{kind} fusion, {chain} chain": Variant(FusionConfig(kind, chain=chain))
        for kind in ("mean", "consistency")
        for chain in ("fused", "own")
    }


def true_hops(truth: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What the three perspectives ought to answer, float64 [T, P].

    Args:
        truth: float64 [T + 1], true progress of the first and the scored frames.
        valid: bool [T]; an incremental question compares with the last frame before it that has a value.
    """
    anchors = np.maximum.accumulate(np.where(np.concatenate([[True], valid[:-1]]), np.arange(len(valid)), 0))
    return np.stack([hop(truth[anchors], truth[1:]), hop(truth[0], truth[1:]), hop(1.0, truth[1:])], axis=1)


def hop_row(episode: UnseenEpisode, answers: EpisodeHops) -> Row:
    """Sums over an episode's hops: of errors, and of progress claimed where there was none."""
    names = ("hop_errors", "hop_count", "zero_claims", "zero_pairs", "failed_claims", "failed_pairs")
    if episode.truth is None:
        return dict.fromkeys(names, 0.0)
    truth = true_hops(episode.truth[answers.frame_ids], answers.valid)[answers.valid]
    said = answers.hops[answers.valid]
    still, claimed = np.abs(truth[:, 0]) <= NO_GAIN, said[:, 0] > CLAIM
    stuck = (truth[:, 0] <= NO_GAIN) & (episode.verdict["failure"] == 1)
    sums = (
        np.abs(said - truth).sum(),
        said.size,
        (still & claimed).sum(),
        still.sum(),
        (stuck & claimed).sum(),
        stuck.sum(),
    )
    return dict(zip(names, map(float, sums), strict=True))


def progress_row(episode: UnseenEpisode, answers: EpisodeHops, variant: CurveRule) -> Row:
    """What the answers and a variant's curve say of an episode: what the gate asks, and more."""
    curve, folded = variant.curve(answers)
    ids = answers.frame_ids
    truth = None if episode.truth is None else episode.truth[ids]
    recorded = None if episode.recorded is None else episode.recorded[ids]
    missed = np.nan if truth is None or episode.expert else float(np.abs(curve - truth).mean())
    right = (
        np.nan if episode.outcome is None or episode.verdict["cut_off"] else float(outcome(curve) == episode.outcome)
    )
    low = np.mean(folded.weight[folded.valid] < LOW_WEIGHT) if folded.valid.any() else np.nan
    asked_by_gate = order_row(answers.hops[:, 0], answers.swapped, curve, episode.expert)
    asked_by_gate |= curve_row(curve, answers.valid, truth if episode.expert else None)
    asked_by_gate |= behaviour_row(curve, recorded, episode.pauses[ids])
    return asked_by_gate | {
        "other_mae": missed,
        "mae": np.nan if truth is None else progress_mae(curve, truth),
        "truth_kendall": np.nan if truth is None or np.ptp(truth) == 0 else kendall_tau(curve, truth),
        "common_mae": _common_mae(episode, answers, curve),
        "right": right,
        "low_weight": float(low),
    }


def _common_mae(episode: UnseenEpisode, answers: EpisodeHops, curve: NDArray[np.float32]) -> float:
    """Error at those frames after the first that every stride scores; NaN where the truth is not known."""
    if episode.truth is None:
        return np.nan
    ids = answers.frame_ids
    common = (ids % (episode.plan.stride * max(MULTIPLES)) == 0) | (ids == ids[-1])
    common[0] = False
    return progress_mae(curve[common], episode.truth[ids[common]])


def all_figures(columns: Columns, threshold: float) -> dict[str, float]:
    """The gate's figures and those beside them."""
    return figures(columns, threshold) | {
        "order": mean(columns["order"]),
        "other_mae": mean(columns["other_mae"]),
        "mae": mean(columns["mae"]),
        "truth_kendall": mean(columns["truth_kendall"]),
        "common_mae": mean(columns["common_mae"][columns["expert"] == 1]),
        "gap": mean(columns["end"][columns["success"] == 1]) - mean(columns["end"][columns["failure"] == 1]),
        "outcome_accuracy": mean(columns["right"]),
        "low_weight": mean(columns["low_weight"]),
        "hop_mae": _share(columns, "hop_errors", "hop_count"),
        "false_progress_zero": _share(columns, "zero_claims", "zero_pairs"),
        "false_progress_failed": _share(columns, "failed_claims", "failed_pairs"),
    }


def _share(columns: Columns, part: str, whole: str) -> float:
    total = columns[whole].sum()
    return float(columns[part].sum() / total) if total else np.nan


@dataclass(frozen=True, eq=False, slots=True)
class Judged:
    """One variant of one setting on all episodes.

    Args:
        columns: what is known of each episode.
        figures: with intervals: Wilson's for rates of episodes, else by bootstrap over episodes.
    """

    columns: dict[str, NDArray[np.float64]]
    figures: dict[str, Interval]


def judge_variant(answered: Answered, variant: CurveRule, threshold: float, seed: int = 0) -> Judged:
    """The figures of a variant with their intervals at 95 %."""
    columns = as_columns(
        [
            episode.verdict | hop_row(episode, answers) | progress_row(episode, answers, variant)
            for episode, answers in answered
        ]
    )
    names = list(all_figures(columns, threshold))
    strata = (2 * columns["success"] + columns["failure"]).astype(int).tolist()
    intervals = bootstrap(
        lambda index: list(all_figures(take(columns, index), threshold).values()), strata, RESAMPLES, seed
    )
    found = dict(zip(names, intervals, strict=True))
    for name, values in (
        ("false_success", columns["end"][columns["failure"] == 1] >= threshold),
        ("near_miss_false_success", columns["end"][columns["near_miss"] == 1] >= threshold),
        ("outcome_accuracy", columns["right"][np.isfinite(columns["right"])] == 1),
    ):
        if len(values):
            rate = wilson(int(values.sum()), len(values))
            found[name] = Interval(rate.mean, rate.low, rate.high)
    return Judged(columns, found)


def paired_differences(judged: Judged, served: Judged, seed: int = 0) -> dict[str, Interval]:
    """How much larger the figures of a variant are than the served one's, on the same episodes.

    Common errors are those at the frames that every stride scores, of annotated successes and of all other episodes.
    """
    names = ("common_mae", "mae", "truth_kendall", "end", "right")
    differences = {name: judged.columns[name] - served.columns[name] for name in names}
    expert, success, failure = (served.columns[name] == 1 for name in ("expert", "success", "failure"))
    parts = {
        "mae": differences["mae"],
        "truth_kendall": differences["truth_kendall"],
        "success_end": differences["end"][success],
        "common_mae": differences["common_mae"][expert],
        "other_common_mae": differences["common_mae"][~expert],
        "failure_end": differences["end"][failure],
        "outcome_accuracy": differences["right"],
    }
    found = {
        name: bootstrap(lambda index, part=part: [mean(part[index])], [0] * len(part), RESAMPLES, seed)[0]  # type: ignore[misc]
        for name, part in parts.items()
        if len(part)
    }
    if success.any() and failure.any():
        ends, served_ends = judged.columns["end"], served.columns["end"]

        def gain(index: NDArray[np.int64]) -> list[float]:
            high, low = index[success[index]], index[failure[index]]
            return [auc(ends[high], ends[low]) - auc(served_ends[high], served_ends[low])]

        strata = (2 * success + failure).astype(int).tolist()
        found["auc"] = bootstrap(gain, strata, RESAMPLES, seed)[0]
    return found


def outcome_confusion(answered: Answered, variant: CurveRule) -> NDArray[np.int64]:
    """True outcome (row) against the one that Eq. 58 reads off the curve (column), int64 [3, 3]."""
    pairs: list[tuple[EpisodeOutcome, EpisodeOutcome]] = [
        (outcome(variant.curve(answers)[0]), episode.outcome)
        for episode, answers in answered
        if episode.outcome is not None and not episode.verdict["cut_off"]
    ]
    return confusion([said for said, _ in pairs], [was for _, was in pairs])


def hop_errors(answered: Answered) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Mean absolute error of hops in 25 bins of the true hop, and the hops in each: of all, and of each perspective."""
    known = [(episode.truth, answers) for episode, answers in answered if episode.truth is not None]
    if not known:
        return {}
    truth = np.concatenate([true_hops(truth[answers.frame_ids], answers.valid) for truth, answers in known])
    said = np.concatenate([answers.hops for _, answers in known])
    found = {"all": hop_mae_by_bin(said.ravel(), truth.ravel())}
    return found | {name: hop_mae_by_bin(said[:, i], truth[:, i]) for i, name in enumerate(PERSPECTIVES)}


@dataclass(frozen=True, eq=False, slots=True)
class Calibration:
    """How far one kind of uncertainty tells the error that it stands beside.

    Args:
        rank: Spearman correlation of uncertainty and absolute error.
        area: AUSE; `area_by_chance` is that of an uncertainty which knows nothing.
        classes: expected error by quantile of uncertainty.
        curve: the sparsification curve.
    """

    rank: Interval
    area: Interval
    classes: Reliability
    curve: Sparsification


def calibrations(answered: Answered, variant: CurveRule, seed: int = 0) -> dict[str, Calibration]:
    """Entropy of each perspective against its hop's error; gap of forward and backward against the curve's error.

    Kinds of which nothing is known (no truth, no distribution) are left out.
    """
    kinds: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    for episode, answers in answered:
        if episode.truth is None:
            continue
        truth, valid = episode.truth[answers.frame_ids], answers.valid
        wrong = np.abs(answers.hops - true_hops(truth, valid))
        for i, perspective in enumerate(PERSPECTIVES):
            kinds.setdefault(f"entropy, {perspective}", []).append((answers.entropy[valid, i], wrong[valid, i]))
        curve, folded = variant.curve(answers)
        gap = np.abs(folded.perspectives[valid, 2] - folded.perspectives[valid, 1])
        kinds.setdefault("forward–backward gap", []).append((gap, np.abs(curve - truth)[1:][valid]))
    calibrations: dict[str, Calibration] = {}
    for name, pairs in kinds.items():
        doubt, wrong = (np.concatenate(part) for part in zip(*pairs, strict=True))
        if len(doubt) >= MIN_POINTS and np.isfinite(doubt).all() and wrong.sum() > 0:
            calibrations[name] = calibrate(pairs, seed)
    return calibrations


def calibrate(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], seed: int = 0) -> Calibration:
    """How far an uncertainty tells an absolute error, from both of each episode, float64 [T] each."""

    def of(index: NDArray[np.int64], measure: Callable[[NDArray, NDArray], Sequence[float]]) -> Sequence[float]:
        return measure(*(np.concatenate([pairs[i][part] for i in index]) for part in (0, 1)))

    def measures(doubt: NDArray[np.float64], wrong: NDArray[np.float64]) -> Sequence[float]:
        return spearman(doubt, wrong), sparsification(doubt, wrong).area if wrong.sum() else np.nan

    rank, area = bootstrap(lambda index: of(index, measures), [0] * len(pairs), RESAMPLES // 5, seed)
    doubt, wrong = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return Calibration(rank, area, reliability(doubt, wrong), sparsification(doubt, wrong))
