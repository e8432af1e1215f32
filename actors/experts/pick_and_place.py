"""Base of the scripted experts that grasp an object from above and carry it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from actors.experts.steering import BASE_XY, OPEN, SHUT, TRACKING_GAIN, steer
from actors.geometry import Matrix, pose, rotation_vector

if TYPE_CHECKING:
    from actors.maniskill import ObjectEnv
    from actors.tasks.task import ObjectState

HOVER_M = 0.06
"""Height above the grasp at which the gripper aligns before it moves down."""
FROM_ABOVE = np.diag([1.0, -1.0, -1.0])
"""Rotation of the tool in the frame of an object grasped from above."""
UPRIGHT_M, FAR_M, FAR_LEAN_RAD = 0.72, 0.84, 0.6
"""The hand is vertical up to the first distance from the base, and leans outwards by this angle at the second."""
REACH, GRASP, CARRY = 0, 1, 2
"""First phases of all of them. REACH and GRASP are one stage, since the fingers close within a frame or two."""
SQUEEZING_STEPS, LOST_STEPS = 4, 3
"""Steps for the fingers to close, and steps without a grasp after which the object counts as lost."""
INTEGRAL_GAIN, INTEGRAL_LIMIT_M, INTEGRAL_BELOW_M = 0.15, 0.01, 0.03
"""Under load the controller has an error of some millimetres; close to the target, integral action removes it."""


def simulated(env: gymnasium.Env) -> ObjectEnv:
    """The simulated environment under any wrappers."""
    return cast("ObjectEnv", env.unwrapped)


class PickAndPlace:
    """Grasps the object, again if it is lost. Subclasses implement `carry`."""

    stages: tuple[str, ...] = ("grasp", "carry")
    grasps: tuple[Matrix, ...] = tuple(
        pose([0.0, 0.0, 0.0], Rotation.from_euler("z", k * np.pi / 2).as_matrix() @ FROM_ABOVE) for k in range(4)
    )
    """Grasp poses of the tool in the object's frame; the one that needs the least rotation is used."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._phase = REACH
        self._lowering = False
        self._squeezed = self._lost_steps = 0
        self._integral = np.zeros(3)

    @property
    def stage(self) -> int:
        """Index into `stages`."""
        return max(self._phase - GRASP, 0)

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The next action, float32 [7]."""
        state = simulated(env).state()
        if self._phase == REACH:
            return self._reach(env, state)
        if self._phase == GRASP:
            return self._grasp(env, state)
        self._lost_steps = 0 if state.grasped else self._lost_steps + 1
        if self._lost_steps >= LOST_STEPS and not self.released:
            self._start_over()
        return self.carry(env, state)

    @property
    def released(self) -> bool:
        """Whether the object was released on purpose."""
        return False

    def grasp_cost(self, state: ObjectState, target: Matrix) -> float:
        """Cost of grasping with the tool at a pose, in rad, in addition to the rotation it needs."""
        return 0.0

    def carry(self, env: gymnasium.Env, state: ObjectState) -> NDArray[np.float32]:
        """The next action once the object is held."""
        raise NotImplementedError

    def bring(self, env: gymnasium.Env, state: ObjectState, target: Matrix, turning: bool) -> NDArray[np.float32]:
        """Move the held object towards a pose; `turning` also towards its rotation."""
        error_m = target[:3, 3] - state.item[:3, 3]
        turn = rotation_vector(target[:3, :3] @ state.item[:3, :3].T) if turning else np.zeros(3)
        if np.linalg.norm(error_m) < INTEGRAL_BELOW_M:
            self._integral = np.clip(self._integral + INTEGRAL_GAIN * error_m, -INTEGRAL_LIMIT_M, INTEGRAL_LIMIT_M)
        # The tool rotates about itself; compensate the displacement of the object by that rotation.
        arm = state.item[:3, 3] - state.tool[:3, 3]
        swing = Rotation.from_rotvec(turn).apply(arm) - arm
        return self.command(env, error_m + self._integral / TRACKING_GAIN - swing, turn, SHUT)

    def command(self, env: gymnasium.Env, move_m: Matrix, turn_rad: Matrix, gripper: float) -> NDArray[np.float32]:
        """The action towards a displacement of the tool in the base frame."""
        return np.append(steer(simulated(env).config, move_m, turn_rad), gripper).astype(np.float32)

    def _start_over(self) -> None:
        self._phase, self._lowering, self._squeezed, self._lost_steps = REACH, False, 0, 0
        self._integral = np.zeros(3)

    def _reach(self, env: gymnasium.Env, state: ObjectState) -> NDArray[np.float32]:
        targets = [_leaning(state.item @ grasp) for grasp in self.grasps]
        turns = [rotation_vector(target[:3, :3] @ state.tool[:3, :3].T) for target in targets]
        costs = [np.linalg.norm(turn) + self.grasp_cost(state, t) for turn, t in zip(turns, targets, strict=True)]
        target, turn = targets[int(np.argmin(costs))], turns[int(np.argmin(costs))]
        error_m = target[:3, 3] - state.tool[:3, 3]
        sideways_m, turn_rad = float(np.linalg.norm(error_m[:2])), float(np.linalg.norm(turn))
        self._lowering |= sideways_m < 0.01 and turn_rad < 0.1
        if sideways_m < 0.006 and abs(error_m[2]) < 0.006 and turn_rad < 0.06:
            self._phase = GRASP
        hover = np.array([0.0, 0.0, 0.0 if self._lowering else HOVER_M])
        return self.command(env, error_m + hover, turn, OPEN)

    def _grasp(self, env: gymnasium.Env, state: ObjectState) -> NDArray[np.float32]:
        self._squeezed += 1
        if self._squeezed >= SQUEEZING_STEPS and state.grasped:
            self._phase = CARRY
        elif self._squeezed > 3 * SQUEEZING_STEPS:
            self._start_over()
        return self.command(env, np.zeros(3), np.zeros(3), SHUT)


def _leaning(target: Matrix) -> Matrix:
    """A grasp pose from above, tilted about the fingers' closing axis where the arm is stretched."""
    outwards = target[:2, 3] - BASE_XY
    distance_m = float(np.linalg.norm(outwards))
    share = float(np.clip((distance_m - UPRIGHT_M) / (FAR_M - UPRIGHT_M), 0.0, 1.0))
    lean_rad = FAR_LEAN_RAD * share * float(target[:2, 0] @ outwards) / distance_m
    return target @ pose([0.0, 0.0, 0.0], Rotation.from_euler("y", lean_rad).as_matrix())
