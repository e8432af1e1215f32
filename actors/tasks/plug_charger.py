"""PlugCharger-v1: pick up a charger with two prongs and plug it into a receptacle, with 0.5 mm clearance."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from actors.experts.disturbed import FAILURES, with_disturbances
from actors.experts.pick_and_place import CARRY, FROM_ABOVE, PickAndPlace
from actors.geometry import Matrix, inverse, pose, rotation_vector, to_matrix
from actors.tasks.task import HELD, Camera, ObjectState, ObjectTask, PrecisePlace, reaching, read_object, share_covered

PRONG_M = 0.016
"""Length of the prongs. The origin of the charger's frame is at their base; at the goal it is on the receptacle."""
HALF_WIDTH_M = 0.015
"""Of the charger's body, between the fingers."""
DEEP_ENOUGH_M = 0.011
"""Depth for success: 5 mm of the prongs may stick out."""
FITS_M = 0.0015
"""With a larger lateral error the prongs are not in the holes: 0.5 mm clearance, plus the compliance of contact."""
LEAN_RAD = 0.26
"""The hand leans back by this angle; upright it would touch the receptacle."""
BEFORE_M = 0.02
"""Gap between prongs and receptacle at which the charger is aligned."""
TOO_FAR_OFF_M, TOO_FAR_OFF_RAD = 0.0012, 0.03
"""With a larger error, outside the holes: retreat."""
ALIGNED_M, ALIGNED_RAD = 0.0004, 0.01
"""With a smaller error: advance."""
TOWARDS_M, INTO_M = 0.008, 0.001
"""Distance of the target ahead of the charger, before the holes and in them, where it moves slowly."""
TOUCHING_M = 0.002
"""At a smaller distance, but not inside, the error is integrated so that it pushes harder and harder."""
PLUG = CARRY + 1


class PlugChargerExpert(PickAndPlace):
    """Aligns the prongs before the receptacle, inserts them when aligned, and retreats if they jam."""

    stages: tuple[str, ...] = ("grasp", "align", "plug")
    grasps: tuple[Matrix, ...] = (
        pose([-0.022, 0.0, 0.0], FROM_ABOVE @ Rotation.from_euler("y", LEAN_RAD).as_matrix()),
    )

    steps_back = True
    """Whether it retreats and tries again if the prongs jam."""
    depth_m = 0.0
    """Target of the charger along the receptacle's axis; the prongs touch the receptacle at −PRONG_M."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(env, rng)
        self._advancing = False
        self._beside_m = np.zeros(2)

    def carry(self, env: gymnasium.Env, state: ObjectState) -> NDArray[np.float32]:
        """Align, then insert."""
        charger = inverse(state.goal) @ state.item
        off_m = float(np.abs(charger[1:3, 3] - self._beside_m).max())
        off_rad = float(np.linalg.norm(rotation_vector(charger[:3, :3])))
        outside = charger[0, 3] < -PRONG_M + 0.001
        if outside and self.steps_back and (off_m > TOO_FAR_OFF_M or off_rad > TOO_FAR_OFF_RAD):
            self._advancing = False
        elif off_m < ALIGNED_M and off_rad < ALIGNED_RAD:
            self._advancing = True
        self._phase = PLUG if self._advancing and not outside else CARRY
        ahead = -PRONG_M - BEFORE_M
        if self._advancing:
            ahead = charger[0, 3] + (TOWARDS_M if charger[0, 3] < -PRONG_M else INTO_M)
        touches = outside and charger[0, 3] > -PRONG_M - TOUCHING_M
        if self._advancing and not touches:
            # The target moves with the charger, so the error along the axis is intended: do not integrate it.
            self._integral -= (self._integral @ state.goal[:3, 0]) * state.goal[:3, 0]
        return self.bring(env, state, state.goal @ pose([min(self.depth_m, ahead), *self._beside_m]), turning=True)


class NearMiss(PlugChargerExpert):
    """Holds the aligned prongs against the receptacle, 3 to 10 mm beside the holes.

    It pushes gently: under more force the charger would turn in the grasp and slip.
    """

    steps_back = False
    depth_m = -PRONG_M

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws where it pushes."""
        super().reset(env, rng)
        angle = rng.uniform(-np.pi, np.pi)
        self._beside_m = rng.uniform(0.003, 0.01) * np.array([np.cos(angle), np.sin(angle)])


def read(scene: Any) -> ObjectState:
    """The simulator's true state."""
    return read_object(scene, scene.charger, to_matrix(scene.goal_pose.raw_pose))


def progress(state: ObjectState, first: ObjectState) -> float:
    """Up to HELD while reaching; up to 0.7 by the distance of the prongs to the holes; the rest by depth.

    A rotation error of 0.1 rad counts as much as 20 mm.
    """
    charger = inverse(state.goal) @ state.item
    depth = charger[0, 3] + PRONG_M
    if depth > 0.0 and np.abs(charger[1:3, 3]).max() <= FITS_M:
        return 0.7 + 0.27 * min(1.0, depth / DEEP_ENOUGH_M)
    if not state.grasped:
        return reaching(state, first)
    return HELD + (0.7 - HELD) * share_covered(
        _distance_left_m(charger), _distance_left_m(inverse(first.goal) @ first.item)
    )


def _distance_left_m(charger: Matrix) -> float:
    """Distance of the prongs to the holes plus their rotation error; the charger's pose is in its goal's frame."""
    tips = charger[:3, 3] + [PRONG_M, 0.0, 0.0]
    return float(np.linalg.norm(tips) + 0.2 * np.linalg.norm(rotation_vector(charger[:3, :3])))


def put(scene: Any, where: Matrix) -> None:
    """Hold the charger at [gap, y, z] before the receptacle, metres, turned as its holes are."""
    gap, y, z = where
    charger = to_matrix(scene.goal_pose.raw_pose) @ pose([-PRONG_M - gap, y, z])
    scene.hold(scene.charger, charger, PlugChargerExpert.grasps[0], HALF_WIDTH_M, np.pi / 4)


def where(state: ObjectState) -> Matrix:
    """[gap, y, z] of the prongs before the receptacle, metres."""
    charger = (inverse(state.goal) @ state.item)[:3, 3]
    return np.array([-PRONG_M - charger[0], *charger[1:]])


PLUG_CHARGER = ObjectTask(
    name="PlugCharger-v1",
    instructions=(
        "plug the charger into the receptacle",
        "put the charger's prongs into the holes of the white plate",
        "plug in the charger",
    ),
    cameras={
        "front": Camera((-0.35, 0.4, 0.4), (0.0, 0.0, 0.06), 0.8),
        "close": Camera((-0.1, 0.3, 0.25), (0.04, 0.0, 0.1), 0.8),
    },
    scripts={"expert": PlugChargerExpert, "near_miss": NearMiss, **with_disturbances(PlugChargerExpert, *FAILURES)},
    failures=("near_miss", "stall", "near_miss", "retreat", "near_miss", "drop", "near_miss", "perturb"),
    horizon=200,
    stride=4,
    read=read,
    progress=progress,
    place=PrecisePlace(put=put, where=where, gaps_m=(BEFORE_M, 0.01, 0.003)),
)
