"""Stages of an episode that do not advance: it pauses, or goes back on purpose. They are told by their names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

PAUSE, RETREAT = "pause", "retreat"
"""Stages in which nothing moves, and in which what was gained is given up again."""


def wavers(stages: Sequence[str]) -> bool:
    """Whether an episode pauses or retreats on its way, so that its keyframes do not tell its progress (Eq. 1)."""
    return PAUSE in stages or RETREAT in stages


def find_pauses(keyframes: ArrayLike, stages: Sequence[str], frame_count: int) -> NDArray[np.int64]:
    """The number of the pause that each frame belongs to, from 1, int64 [frame_count]; 0 where something moves.

    The frames at the ends of a pause are left out: keyframes are the frames nearest to a change.

    Args:
        keyframes: int [N+1], frames of the boundaries.
        stages: N names.
    """
    pauses, ends = np.zeros(frame_count, np.int64), np.asarray(keyframes)
    for number, segment in enumerate(np.flatnonzero(np.array(stages) == PAUSE), 1):
        pauses[ends[segment] + 1 : ends[segment + 1]] = number
    return pauses
