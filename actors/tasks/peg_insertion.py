"""PegInsertionSide-v1: pick up a peg from the table and insert it into the hole in the side of a box."""

from __future__ import annotations

from typing import Any

import numpy as np

from actors.experts.disturbed import with_disturbances
from actors.experts.failures import Drop, NearMiss, Retreat, Stall, StraightPush
from actors.experts.peg import PegInsertionExpert
from actors.geometry import Matrix, pose
from actors.peg_state import PegState, near_miss
from actors.tasks.task import Camera, PrecisePlace, Task


def put(scene: Any, where: Matrix) -> None:
    """Hold the peg at [gap, y, z] before the hole, metres, turned as the hole is."""
    gap, y, z = where
    scene.place_grasped(pose([-scene.state().half_length - gap, y, z]))


def where(state: PegState) -> Matrix:
    """[gap, y, z] of the peg's head before the hole, metres."""
    head = state.head[:3, 3]
    return np.array([-state.half_length - head[0], *head[1:]])


PEG_INSERTION = Task(
    name="PegInsertionSide-v1",
    instructions=(
        "insert the peg into the hole in the side of the box",
        "put the orange end of the peg into the box's hole",
        "push the peg into the box",
    ),
    cameras={
        "front": Camera((0.55, 0.1, 0.55), (-0.05, 0.05, 0.05), 1.0),
        "close": Camera((0.35, 0.08, 0.22), (0.0, 0.2, 0.11), 0.55),
    },
    scripts={
        "expert": PegInsertionExpert,
        "near_miss": NearMiss,
        "stall": Stall,
        "retreat": Retreat,
        "drop": Drop,
        "straight_push": StraightPush,
        **with_disturbances(PegInsertionExpert, "perturb"),
    },
    failures=("near_miss", "stall", "near_miss", "retreat", "near_miss", "drop", "near_miss", "perturb"),
    horizon=150,
    stride=4,
    held=0.2,
    near_miss=near_miss,
    place=PrecisePlace(put=put, where=where),
)
