"""How a reward model judges behaviour that fools rewards: order, rest and end by kind of episode, and whether it heeds
the instruction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dopamine_rl.episodes.pauses import PAUSE, RETREAT
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.figures import Columns, Row, mean
from dopamine_rl.metrics import MIN_POINTS, kendall_tau_a, spearman

KINDS = (
    "expert",
    "pause",
    "retry",
    "oscillate",
    "retreat",
    "perturb",
    "stall",
    "beside",
    "near_miss",
    "drop",
    "drop_at_end",
)
"""Kinds of episodes, in the order in which they are reported."""


def kind_of(name: str, stages: Sequence[str] = ()) -> str:
    """The kind of an episode: what its name begins with, as scripts record it, or what its stages say; else ""."""
    found = re.fullmatch(r"([a-z_]+?)_\d+", name)
    if found and found[1] in KINDS:
        return found[1]
    return "pause" if PAUSE in stages else "retry" if RETREAT in stages else ""


def behaviour_row(curve: ArrayLike, truth: ArrayLike | None, pauses: NDArray[np.int64]) -> Row:
    """What an episode's progress says beside its true progress, and while nothing moves.

    Args:
        curve: float [T + 1], fused progress from 0 at the first frame.
        truth: float [T + 1], true progress on any increasing scale; None where nobody knows it. All frames of a pause
            count as having the same.
        pauses: int64 [T + 1], see `episodes.pauses.find_pauses`.
    Returns:
        truth_spearman and truth_kendall_a, correlations over all frames, known from 8 frames on where the truth
        changes; still_squares and still_frames, the sum of squares of progress about its mean in each pause of at least
        two frames, and their number; still_gains and still_pauses, the sum of progress gained in these, and their
        number; true_end, the last of the truth.
    """
    progress = np.asarray(curve, np.float64)
    known = truth is not None and len(progress) >= MIN_POINTS and np.ptp(np.asarray(truth)) > 0.0
    order = (np.nan, np.nan)
    if known:
        level = _level(np.asarray(truth, np.float64), pauses)
        order = (spearman(progress, level), kendall_tau_a(progress, level))
    parts = [progress[pauses == number] for number in range(1, int(pauses.max(initial=0)) + 1)]
    still = [part for part in parts if len(part) > 1]
    return {
        "truth_spearman": order[0],
        "truth_kendall_a": order[1],
        "still_squares": float(sum(((part - part.mean()) ** 2).sum() for part in still)),
        "still_frames": float(sum(map(len, still))),
        "still_gains": float(sum(part[-1] - part[0] for part in still)),
        "still_pauses": float(len(still)),
        "true_end": np.nan if truth is None else float(np.asarray(truth)[-1]),
    }


def _level(truth: NDArray[np.float64], pauses: NDArray[np.int64]) -> NDArray[np.float64]:
    """The truth with the mean of each pause in all its frames: what is left of movement there has no order."""
    level = truth.copy()
    for number in range(1, int(pauses.max(initial=0)) + 1):
        inside = pauses == number
        level[inside] = truth[inside].mean() if inside.any() else 0.0
    return level


@dataclass(frozen=True, slots=True)
class BehaviourReport:
    """Figures of the episodes of one kind; None for what none of them can say.

    Args:
        episodes, failures: how many.
        spearman: mean rank correlation of fused progress with true progress over all frames.
        kendall_a: mean of Kendall's τ_a of the same, (concordant − discordant) / all pairs: unlike τ_b it does not make
            up for ties, so that an episode which truly rests stays below 1.
        still_rmse: root mean square of progress about its mean while nothing moves.
        still_gain: mean progress gained during a pause.
        end, true_end: mean final progress, fused and true. The latter is on the simulator's scale, of which the former
            is not a copy: what counts is how they differ from kind to kind.
        false_success: share of the failures whose final progress reaches the threshold.
    """

    episodes: int
    failures: int
    spearman: float | None
    kendall_a: float | None
    still_rmse: float | None
    still_gain: float | None
    end: float | None
    true_end: float | None
    false_success: float | None


def by_behaviour(kinds: Sequence[str], columns: Columns, threshold: float) -> dict[str, BehaviourReport]:
    """The figures of each kind, in the order of `KINDS`; episodes of no kind are left out.

    Args:
        kinds: of the episodes.
        columns: of `behaviour_row`, `figures.curve_row` and `figures.verdict_row`.
        threshold: final progress from which an episode counts as claimed success.
    """
    found = np.array(kinds)
    return {
        kind: _report({name: column[found == kind] for name, column in columns.items()}, threshold)
        for kind in KINDS
        if kind in kinds
    }


def _report(columns: Columns, threshold: float) -> BehaviourReport:
    failed, frames, pauses = (columns[name] for name in ("failure", "still_frames", "still_pauses"))
    ends = columns["end"][failed == 1]
    return BehaviourReport(
        episodes=len(failed),
        failures=len(ends),
        spearman=_known(mean(columns["truth_spearman"])),
        kendall_a=_known(mean(columns["truth_kendall_a"])),
        still_rmse=float(np.sqrt(columns["still_squares"].sum() / frames.sum())) if frames.sum() else None,
        still_gain=float(columns["still_gains"].sum() / pauses.sum()) if pauses.sum() else None,
        end=_known(mean(columns["end"])),
        true_end=_known(mean(columns["true_end"])),
        false_success=float((ends >= threshold).mean()) if len(ends) else None,
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


@dataclass(frozen=True, slots=True)
class InstructionReport:
    """Whether a model heeds the words: the same successes under the right and under a wrong instruction.

    The goal pictures are those of the right task in both.

    Args:
        episodes: how many, each under one wrong instruction.
        matching_end, mismatching_end: mean final progress.
        gap: the first minus the second; 0 for a model that does not read the instruction.
        mismatched_success: share that still ends at or above the threshold under the wrong instruction.
    """

    episodes: int
    matching_end: float
    mismatching_end: float
    gap: float
    mismatched_success: float


def instruction_gap(matching: ArrayLike, mismatching: ArrayLike, threshold: float) -> InstructionReport:
    """Compare final progress under the right and a wrong instruction.

    Args:
        matching, mismatching: float [N], of the same successes.
        threshold: final progress from which an episode counts as claimed success.
    Raises:
        BadInput: no episode, or different numbers of them.
    """
    right, wrong = np.asarray(matching, np.float64), np.asarray(mismatching, np.float64)
    if right.shape != wrong.shape or right.ndim != 1 or not len(right):
        raise BadInput("mismatching", wrong.shape, f"give one final progress for each of {max(1, right.size)} episodes")
    return InstructionReport(
        len(right),
        float(right.mean()),
        float(wrong.mean()),
        float((right - wrong).mean()),
        float((wrong >= threshold).mean()),
    )


def wrong_instructions(instructions: Sequence[str], tasks: Sequence[Sequence[str]]) -> list[str]:
    """The first way to say each other task.

    Args:
        instructions: ways to say the right one.
        tasks: ways to say each known task.
    """
    return [others[0] for others in tasks if not set(others) & set(instructions)]


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spread."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist())) if count else []
