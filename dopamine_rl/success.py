"""Success from pictures: a rule on fused progress, fitted on demonstrations, and a detector that applies it.

The rule claims success when progress stays at or above a threshold for some consecutive valid scored frames. What one
demonstration cannot tell: whether other successes end as high (they would be missed), whether failures unlike the tries
that the rule was fitted on look like a success (they would be claimed), and whether progress stays high once the task
is done. So claims are compared with the truth wherever somebody knows it (evaluation.monitor).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput, require
from dopamine_rl.progress import check_interval

SuccessSource = Literal["env", "progress"]
MOST_FRAMES = 5
"""Most frames that a fitted rule may ask for: a policy must stay at the goal so long before its success is noticed."""


@dataclass(frozen=True)
class SuccessConfig:
    """When success is claimed from progress (`success = progress`). Section `[claims]` of a preset."""

    threshold: float = 0.0
    """Progress that counts as success; 0 fits it: the lowest end of the policy's demonstrations, less the margin."""
    frames: int = 0
    """Consecutive scored frames that it takes; 0 fits them: one more than any failed try, or any demonstration before
    its last frame, stays at the threshold."""
    margin: float = 0.05
    """How far below the lowest end of a demonstration the fitted threshold lies."""
    tries: int = 12
    """Episodes of practice that the reward model has not seen and that must not be claimed. The rule is fitted on them,
    and in the gate's verdict they stand for failures."""

    def __post_init__(self) -> None:
        require(
            "claims",
            self,
            ("threshold", 0.0 <= self.threshold <= 1.0, "give a progress in (0, 1], or 0 to fit it"),
            ("frames", self.frames >= 0, "give at least 1 scored frame, or 0 to fit them"),
            ("margin", 0.0 <= self.margin < 1.0, "give a difference of progress in [0, 1)"),
            ("tries", self.tries >= 1, "give at least 1"),
        )


@dataclass(frozen=True, slots=True)
class SuccessRule:
    """Progress at or above a threshold for several consecutive valid scored frames.

    Args:
        threshold: in (0, 1].
        frames: at least 1.
    Raises:
        BadInput: a field is out of range.
    """

    threshold: float
    frames: int

    def __post_init__(self) -> None:
        require(
            "claims",
            self,
            ("threshold", 0.0 < self.threshold <= 1.0, "give a progress in (0, 1]"),
            ("frames", self.frames >= 1, "give at least 1 scored frame"),
        )

    def __str__(self) -> str:
        frames = "one scored frame" if self.frames == 1 else f"{self.frames} consecutive scored frames"
        return f"progress of {self.threshold:.3f} or more in {frames}"


@dataclass(frozen=True, eq=False, slots=True)
class ScoredCurve:
    """Fused progress at the scored frames of an episode.

    Args:
        progress: float32 [F] in [0, 1]; any value where invalid.
        valid: bool [F].
    """

    progress: NDArray[np.float32]
    valid: NDArray[np.bool_]

    @property
    def known(self) -> NDArray[np.float64]:
        """Progress of the valid frames, float64. Raises BadInput if a value lies outside [0, 1]."""
        return check_interval("progress", self.progress[self.valid])


def fit_rule(
    demonstrations: Sequence[ScoredCurve], tries: Sequence[ScoredCurve], config: SuccessConfig | None = None
) -> SuccessRule:
    """Fit a rule that claims every demonstration at its end, and nothing before.

    The threshold is the lowest end of a demonstration, less the margin: the highest that all of them pass by the
    margin. The frames are one more than the longest run at or above it in a failed try, or in a demonstration before
    its last valid frame. A fitted rule of more than one frame relies on progress staying high after a demonstration's
    end, which no demonstration shows.

    Args:
        demonstrations: at least one, each of a success and ending with it.
        tries: failures.
        config: margin, and what is given instead of fitted.
    Raises:
        BadInput: there is no demonstration; one has no valid frame or ends no higher than the margin; or failures stay
            at the threshold for `MOST_FRAMES` frames, so that progress does not tell the two apart.
    """
    config = config or SuccessConfig()
    threshold = config.threshold or _fitted_threshold(demonstrations, config.margin)
    if config.frames:
        return SuccessRule(threshold, config.frames)
    runs = [longest_run(curve.known[:-1], threshold) for curve in demonstrations]
    runs += [longest_run(curve.known, threshold) for curve in tries]
    frames = 1 + max(runs, default=0)
    if frames > MOST_FRAMES:
        fix = (
            f"failures or unfinished demonstrations stay at progress {threshold:.3f} for {frames - 1} scored frames: "
            "train the reward model longer, with more views or practice; or give claims.threshold and claims.frames"
        )
        raise BadInput("claims.frames", frames, fix)
    return SuccessRule(threshold, frames)


def _fitted_threshold(demonstrations: Sequence[ScoredCurve], margin: float) -> float:
    ends = [curve.known[-1] for curve in demonstrations if curve.valid.any()]
    if not ends or len(ends) < len(demonstrations):
        seen = f"{len(ends)} of {len(demonstrations)} with a valid frame"
        raise BadInput("claims", seen, "give demonstrations that the reward model can read, or claims.threshold")
    threshold = float(min(ends)) - margin
    if threshold <= 0.0:
        fix = "train the reward model longer: a demonstration must end higher than the margin; or lower claims.margin"
        raise BadInput("claims.margin", margin, fix)
    return threshold


def longest_run(progress: Sequence[float] | NDArray[np.floating], threshold: float) -> int:
    """The most consecutive values at or above a threshold."""
    return max((len(list(run)) for above, run in groupby(value >= threshold for value in progress) if above), default=0)


def missed_if_left_out(demonstrations: Sequence[ScoredCurve], margin: float) -> int | None:
    """How many demonstrations end below the threshold that the others alone give; None for fewer than two."""
    if len(demonstrations) < 2:
        return None
    ends = np.array([curve.known[-1] for curve in demonstrations])
    return sum(bool(end < np.delete(ends, index).min() - margin) for index, end in enumerate(ends))


@dataclass(slots=True)
class SuccessDetector:
    """Applies a rule to one episode, frame by frame; once it has claimed success the episode is over.

    An invalid frame says nothing: it neither counts nor ends a run, so a run may go on after it, and is never completed
    by it.

    Args:
        rule: when success is claimed.
    Source: arXiv:2512.23703 uses one frame at 1 − δ = 0.95. Differs: fitted, several frames.
    """

    rule: SuccessRule
    claimed: bool = field(default=False, init=False)
    _run: int = field(default=0, init=False)

    def observe(self, progress: float, valid: bool = True) -> bool:
        """Take Φ* of the next scored frame, in time order; returns whether success is claimed now or was before.

        Raises:
            BadInput: a progress marked valid is not finite.
        """
        if self.claimed or not valid:
            return self.claimed
        if not math.isfinite(progress):
            raise BadInput("progress", progress, "give a finite progress, or mark the frame invalid")
        self._run = self._run + 1 if progress >= self.rule.threshold else 0
        self.claimed = self._run >= self.rule.frames
        return self.claimed


@dataclass(frozen=True, slots=True)
class ClaimOutcome:
    """How an episode ended by claim or time, against the truth. For reports alone; nothing learns from it.

    Args:
        claimed: a claim ended it.
        success: it was truly a success at its end.
        reached: it was truly a success at some step.
    """

    claimed: bool
    success: bool
    reached: bool

    @property
    def true_claim(self) -> bool:
        """Claimed, and rightly so."""
        return self.claimed and self.success

    @property
    def false_claim(self) -> bool:
        """Claimed, but no success when the claim ended the episode."""
        return self.claimed and not self.success

    @property
    def missed(self) -> bool:
        """Truly a success at some step, and never claimed."""
        return self.reached and not self.claimed
