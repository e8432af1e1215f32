"""Targets: the definition of progress that a reward model is trained on, or that the simulator reports.

Every target is a monotone function of the others along a demonstration; they differ in shape, so in where the potential
rises steeply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dopamine_rl.errors import BadInput

Target = Literal["keyframes", "geometric"]
"""keyframes: every stage of a demonstration is an equal share, in proportion to time within it (Eq. 1). geometric: the
simulator's true progress, from distances and angles to the goal."""
TARGETS: tuple[Target, ...] = get_args(Target)

FailureLabels = Literal["truth", "outcome", "path"]
"""Labels of failed episodes. truth: their true progress, which only a simulator knows. outcome: 0 where they end, for a
try that failed was then not nearly done, however near the goal it came; the rest of the try gets no label. path: how
near the tool is to the path of the demonstrations (`dopamine_rl.paths`), which the robot's joints tell."""
FAILURE_LABELS: tuple[FailureLabels, ...] = get_args(FailureLabels)


@dataclass(frozen=True)
class ProgressMap:
    """A non-decreasing, piecewise linear map from geometric progress to a target.

    Args:
        geometric: increasing corners in [0, 1].
        target: value at each corner, in [0, 1].
    """

    geometric: tuple[float, ...]
    target: tuple[float, ...]

    @classmethod
    def fit(cls, geometric: Sequence[ArrayLike], target: Sequence[ArrayLike], bins: int = 16) -> ProgressMap:
        """Fit the means of quantile bins; 0 and 1 map to themselves.

        Args:
            geometric, target: for each successful episode, the progress of its frames in both definitions, [F].
            bins: number of quantile bins.
        Raises:
            BadInput: there are no episodes.
        """
        if not geometric:
            raise BadInput("demonstrations", 0, "give at least one success with true progress")
        true = np.concatenate([np.asarray(curve, np.float32) for curve in geometric])
        mapped = np.concatenate([np.asarray(curve, np.float32) for curve in target])
        order = np.array_split(np.argsort(true, kind="stable"), min(bins, len(true)))
        corners = np.array([true[part].mean() for part in order], np.float64)
        means = np.array([mapped[part].mean() for part in order], np.float64)
        values = np.maximum.accumulate(np.array([0.0, *means, 1.0]))
        return cls((0.0, *corners.tolist(), 1.0), tuple(values.tolist()))

    def __call__(self, geometric: ArrayLike) -> NDArray[np.float64]:
        """The target at geometric progress, any shape."""
        return np.interp(np.asarray(geometric, np.float64), self.geometric, self.target)
