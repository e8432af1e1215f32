"""The figures by which a reward model is judged, each defined once: for the gate, `grm eval`, `grm score` and held-out
episodes.

What is known of an episode is a row of numbers, NaN where nothing can be said; figures are functions of the columns, so
that episodes can be drawn again for intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dopamine_rl.errors import BadInput
from dopamine_rl.metrics import MIN_POINTS, auc, false_success, kendall_tau, progress_mae, spearman, voc_minus, voc_plus
from dopamine_rl.types import EpisodeInfo

Row = dict[str, float]
Columns = Mapping[str, NDArray[np.float64]]
"""Name of what is known of an episode -> its value for each, float64 [N]."""


def as_columns(rows: Sequence[Row]) -> dict[str, NDArray[np.float64]]:
    """Rows with the same names as columns. Raises BadInput where there is no row."""
    if not rows:
        raise BadInput("episodes", 0, "give at least one episode to judge by")
    return {name: np.array([row[name] for row in rows], np.float64) for name in rows[0]}


def take(columns: Columns, index: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """The columns of some episodes, which may repeat."""
    return {name: column[index] for name, column in columns.items()}


def verdict_row(episode: EpisodeInfo, threshold: float) -> Row:
    """How an episode ended, whatever a model says: 1 or 0 for success, failure, cut_off and near_miss.

    An episode of which nobody recorded whether it succeeded counts as a success. Near misses are failures that the
    actor recorded as such; of recordings that do not say, those of the script `near_miss`, after which they are called.
    """
    success = episode.success is not False
    cut = not success and cut_off(episode.true_progress, threshold)
    failure = not success and not cut
    recorded = episode.near_miss
    near = failure and (episode.episode_id.startswith("near_miss") if recorded is None else recorded)
    return {"success": success, "failure": failure, "cut_off": cut, "near_miss": near}


def cut_off(true_progress: ArrayLike | None, threshold: float) -> bool:
    """Time ran out while the task was truly all but done and still advancing: a script that stalls there has failed.
    Where nobody knows the truth, a failure is a failure."""
    if true_progress is None:
        return False
    truth = np.asarray(true_progress)
    return len(truth) > 1 and bool(truth[-1] >= threshold and truth[-1] > truth[-2] + 0.02)


def order_row(hops: ArrayLike, swapped: ArrayLike | None, curve: ArrayLike, expert: bool) -> Row:
    """How far an expert's success is seen to advance: rank correlations with time, known from 8 frames on.

    Args:
        hops: float [T], incremental, NaN where unreadable.
        swapped: float [T], the hops back, in order of time; None where they were not asked.
        curve: float [T + 1], progress from 0 at the first frame.
        expert: only such an episode is known to advance all the time.
    """
    progress = np.asarray(curve)
    ordered = expert and len(progress) >= MIN_POINTS
    time = np.arange(len(progress))
    return {
        "expert": expert,
        "voc_plus": voc_plus(hops) if ordered else np.nan,
        "voc_minus": voc_minus(swapped) if ordered and swapped is not None else np.nan,
        "kendall": kendall_tau(time, progress) if ordered else np.nan,
        "order": spearman(time, progress) if ordered else np.nan,
    }


def curve_row(curve: ArrayLike, valid: ArrayLike, expert_truth: ArrayLike | None) -> Row:
    """What an episode's progress curve says. `late` is the mean over its last quarter without the last frame.

    Args:
        curve: float [T + 1], progress from 0 at the first frame.
        valid: bool [T], the frames after it that have a value.
        expert_truth: float [T + 1], true progress of an expert's success; None for other episodes.
    """
    progress = np.asarray(curve)
    last = len(progress) - 1
    late = min(-(-3 * last // 4), last - 1)
    return {
        "end": float(progress[-1]),
        "late": float(progress[late:-1].mean()) if late > 0 else np.nan,
        "progress_mae": np.nan if expert_truth is None else progress_mae(progress, expert_truth),
        "invalid": int((~np.asarray(valid, bool)).sum()),
    }


def figures(columns: Columns, threshold: float) -> dict[str, float]:
    """Reduce episodes to figures; NaN where there is no episode to say it by. Means are over the episodes that say
    something.

    `failed_end_order` is the chance that a success stands higher late on its way (`late`) than a failure at its end. It
    needs no more than how tries ended, and is low where a model tells the two apart by the success's last picture
    alone, which `auc` does not notice.

    Args:
        columns: of `verdict_row`, `order_row` and `curve_row`.
        threshold: final progress from which an episode counts as claimed success.
    """
    ends = columns["end"]
    successes, failures, near = (ends[columns[name] == 1] for name in ("success", "failure", "near_miss"))
    late = columns["late"][(columns["success"] == 1) & np.isfinite(columns["late"])]
    return {
        "voc_plus": mean(columns["voc_plus"]),
        "voc_minus": mean(columns["voc_minus"]),
        "kendall": mean(columns["kendall"]),
        "progress_mae": mean(columns["progress_mae"]),
        "false_success": false_success(failures, threshold).mean if len(failures) else np.nan,
        "auc": auc(successes, failures) if len(successes) and len(failures) else np.nan,
        "failed_end_order": auc(late, failures) if len(late) and len(failures) else np.nan,
        "success_end": mean(successes),
        "failure_end": mean(failures),
        "near_miss_false_success": false_success(near, threshold).mean if len(near) else np.nan,
    }


def mean(values: NDArray[np.float64]) -> float:
    """The mean of what is known; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan
