"""From where the tool should go to an action: what all scripted experts share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from actors.geometry import Matrix

if TYPE_CHECKING:
    from actors.maniskill import EnvConfig

OPEN, SHUT = 1.0, -1.0
BASE_XY = np.array([-0.615, 0.0])
"""Where the robot stands, metres."""
TRACKING_GAIN = 1.2
"""Commanded movement over error. The arm lags by about two environment steps; with twice as much it swings."""
LARGEST_MOVE_M = 0.05
"""Largest command per environment step and axis; with more the arm overshoots."""
FINE_MOVE_M, FINE_BELOW_M = 0.02, 0.05
"""Largest command where the error is below the second number: slower there, or the peg swings about the hole."""


def steer(config: EnvConfig, move_m: Matrix, turn_rad: Matrix) -> Matrix:
    """Movement [6] in action units towards a displacement in the base frame, as far as one action goes; straight also
    where it is cut.

    Args:
        move_m: [3], of the tool.
        turn_rad: rotation vector [3].
    """
    largest_m = FINE_MOVE_M if np.linalg.norm(move_m) < FINE_BELOW_M else LARGEST_MOVE_M
    move = _shorten(TRACKING_GAIN * move_m, min(largest_m, config.translation_m)) / config.translation_m
    turn = _shorten(TRACKING_GAIN * turn_rad, config.rotation_rad) / config.rotation_rad
    return np.concatenate([move, turn])


def _shorten(vector: Matrix, largest: float) -> Matrix:
    """The vector, shorter where an entry would exceed `largest`, in the same direction."""
    return vector * min(1.0, largest / max(float(np.abs(vector).max()), 1e-9))
