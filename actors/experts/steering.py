"""Converts a displacement of the tool to an action, for all scripted experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from actors.geometry import Matrix

if TYPE_CHECKING:
    from actors.maniskill import EnvConfig

OPEN, SHUT = 1.0, -1.0
BASE_XY = np.array([-0.615, 0.0])
"""Position of the robot's base, metres."""
TRACKING_GAIN = 1.2
"""Proportional gain. The arm lags by about two environment steps; with twice the gain it oscillates."""
LARGEST_MOVE_M = 0.05
"""Largest movement per environment step and axis; with a larger one the arm overshoots."""
FINE_MOVE_M, FINE_BELOW_M = 0.02, 0.05
"""Largest movement if the error is below the second number; with a larger one the peg oscillates at the hole."""


def steer(config: EnvConfig, move_m: Matrix, turn_rad: Matrix) -> Matrix:
    """The movement [6], in action units, towards a displacement in the base frame.

    Limited to one action; the direction is kept.

    Args:
        move_m: translation [3] of the tool.
        turn_rad: rotation vector [3].
    """
    largest_m = FINE_MOVE_M if np.linalg.norm(move_m) < FINE_BELOW_M else LARGEST_MOVE_M
    move = _shorten(TRACKING_GAIN * move_m, min(largest_m, config.translation_m)) / config.translation_m
    turn = _shorten(TRACKING_GAIN * turn_rad, config.rotation_rad) / config.rotation_rad
    return np.concatenate([move, turn])


def _shorten(vector: Matrix, largest: float) -> Matrix:
    """Scale a vector so that no entry exceeds `largest`."""
    return vector * min(1.0, largest / max(float(np.abs(vector).max()), 1e-9))
