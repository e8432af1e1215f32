"""A scripted expert for peg insertion. It controls the pose of the peg, and inserts it only when it is aligned."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from actors.experts.steering import BASE_XY, OPEN, SHUT, TRACKING_GAIN, steer
from actors.geometry import Matrix, pose, rotation_vector
from actors.peg_state import GRASP_OFFSET_M, GRASP_ROTATION, PegState

if TYPE_CHECKING:
    from actors.maniskill import PegInsertionEnv

REACH_M, FETCHED_M = 0.77, 0.68
"""Largest distance from the base that the hand reaches pointing down; a peg beyond it is dragged to the second."""
HOVER_M = 0.06
"""Height above the grasp at which the gripper aligns before it moves down."""
RETREAT_M = 0.025
"""Gap to the plate at which the peg is aligned."""
TOO_FAR_OFF_M, TOO_FAR_OFF_RAD = 0.0025, 0.02
"""With a larger error, outside the hole: retreat, because the peg would jam."""
ALIGNED_M, ALIGNED_RAD = 0.0015, 0.012
"""With a smaller error: advance."""
TOWARDS_M, INTO_M = 0.03, 0.008
"""Distance of the target ahead of the head; the second in the hole, for the standard start with its larger actions."""
REACH, GRASP, ALIGN, INSERT = range(4)
"""Phases. Phase INSERT begins once the peg is aligned before the hole; the stage `insert` begins in the hole."""
DEEP_ENOUGH_M, CENTRED_M = 0.014, 0.003
"""A head so close before the middle of the hole, or beyond it, and so close to its axis is in."""
INTEGRAL_GAIN, INTEGRAL_LIMIT_M = 0.15, 0.01
"""The peg's weight pulls the arm down; integral action removes the remaining error."""


def simulated(env: gymnasium.Env) -> PegInsertionEnv:
    """The simulated environment under any wrappers."""
    return cast("PegInsertionEnv", env.unwrapped)


def _from_base_m(position: Matrix) -> float:
    """Horizontal distance from the robot's base."""
    return float(np.linalg.norm(position[:2] - BASE_XY))


class PegInsertionExpert:
    """Solves the task from both starts.

    Stages: reach and grasp the peg; bring it to the hole and align it, again if it jams; insert it.

    Args:
        noise: standard deviation of Gaussian noise added to every movement (not the gripper), in action units, so that
            demonstrations show how to recover. Returned actions include it.
    """

    stages: tuple[str, ...] = ("grasp", "align", "insert")

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; the insertion start begins with the second stage."""
        self._rng = rng
        self._held = simulated(env).config.start == "insertion"
        self._phase = ALIGN if self._held else REACH
        self._grasp_offset_m = GRASP_OFFSET_M + (0.0 if self._held else float(rng.uniform(-0.01, 0.0)))
        self._lowering = False
        self._blocked = 0
        self._tool = np.eye(4)
        self._squeezing = self._opening = 0
        self._fetching = False
        self._advancing = self._entered = False
        self._integral = np.zeros(3)

    @property
    def stage(self) -> int:
        """Index into `stages`."""
        return 2 if self._entered else int(self._phase >= ALIGN)

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The next action, float32 [A]."""
        state = simulated(env).state()
        self._notice_blockage(state)
        if self._phase < ALIGN:
            return self._pick_up(env, state)
        return self._carry(env, state)

    def finished(self, env: gymnasium.Env) -> bool:
        """Whether the demonstrator sees the task done; it looks for itself, and asks no simulator."""
        position = simulated(env).state().head[:3, 3]
        return bool(position[0] >= -DEEP_ENOUGH_M and np.abs(position[1:]).max() <= CENTRED_M)

    def head_target(self, state: PegState) -> Matrix:
        """Target of the peg's head, a pose in the hole's frame."""
        head = state.head
        off_m = float(np.abs(head[1:3, 3]).max())
        off_rad = float(np.linalg.norm(rotation_vector(head[:3, :3])))
        outside = head[0, 3] < -state.half_length + 0.002
        if outside and (off_m > TOO_FAR_OFF_M or off_rad > TOO_FAR_OFF_RAD):
            self._advancing = False
        elif off_m < ALIGNED_M and off_rad < ALIGNED_RAD:
            self._advancing = True
        if self._advancing:
            self._phase = INSERT
            self._entered |= not outside
            ahead_m = INTO_M if self._entered and not self._held else TOWARDS_M
            return pose([min(0.0, head[0, 3] + ahead_m), 0.0, 0.0])
        return pose([-state.half_length - RETREAT_M, 0.0, 0.0])

    def _notice_blockage(self, state: PegState) -> None:
        """Count the steps without movement; if blocked on the way down to the grasp, grasp further back on the peg."""
        moved_m = float(np.linalg.norm(state.tool[:3, 3] - self._tool[:3, 3]))
        turned_rad = float(np.linalg.norm(rotation_vector(state.tool[:3, :3] @ self._tool[:3, :3].T)))
        self._blocked = self._blocked + 1 if moved_m < 0.0005 and turned_rad < 0.002 else 0
        self._tool = state.tool
        if self._phase == REACH and self._lowering and self._blocked > 3:
            self._lowering = False
            self._grasp_offset_m = min(self._grasp_offset_m + 0.03, state.half_length - 0.015)

    def _pick_up(self, env: gymnasium.Env, state: PegState) -> NDArray[np.float32]:
        grasp = (state.peg @ pose([-self._grasp_offset_m, 0.0, 0.0]))[:3, 3]
        self._fetching |= self._phase == REACH and self._squeezing == 0 and _from_base_m(grasp) > REACH_M
        if self._fetching:
            return self._fetch(env, state)
        if self._phase == REACH:
            arrived, action = self._approach(env, state, self._grasp_offset_m)
            self._phase = GRASP if arrived else REACH
            return action
        self._squeezing += 1
        if self._squeezing >= 4:
            self._phase = ALIGN
        return self._command(env, np.zeros(3), np.zeros(3), SHUT)

    def _fetch(self, env: gymnasium.Env, state: PegState) -> NDArray[np.float32]:
        """Drag a peg that is out of reach nearer, held by its middle, and release it."""
        if self._squeezing == 0:
            arrived, action = self._approach(env, state, 0.0)
            self._squeezing = int(arrived)
            return action
        self._squeezing += 1
        tool = state.tool[:3, 3]
        if self._squeezing <= 5:
            return self._command(env, np.zeros(3), np.zeros(3), SHUT)
        if _from_base_m(tool) > FETCHED_M:
            inwards = np.array([*(BASE_XY - tool[:2]), 0.0])
            return self._command(env, 0.05 * inwards / np.linalg.norm(inwards), np.zeros(3), SHUT)
        self._opening += 1
        if self._opening == 4:
            self._fetching, self._lowering, self._squeezing = False, False, 0
        return self._command(env, np.zeros(3), np.zeros(3), OPEN)

    def _approach(self, env: gymnasium.Env, state: PegState, offset_m: float) -> tuple[bool, NDArray[np.float32]]:
        """Align above a point of the peg, then move down. Returns whether the tool has arrived, and the action."""
        target = state.peg @ pose([-offset_m, 0.0, 0.0], GRASP_ROTATION)
        error_m = target[:3, 3] - state.tool[:3, 3]
        sideways_m = float(np.linalg.norm(error_m[:2]))
        turn = rotation_vector(target[:3, :3] @ state.tool[:3, :3].T)
        turn_rad = float(np.linalg.norm(turn))
        self._lowering |= sideways_m < 0.01 and turn_rad < 0.1
        arrived = sideways_m < 0.006 and abs(error_m[2]) < 0.006 and turn_rad < 0.06
        hover = np.array([0.0, 0.0, 0.0 if self._lowering else HOVER_M])
        return arrived, self._command(env, error_m + hover, turn, OPEN)

    def _carry(self, env: gymnasium.Env, state: PegState) -> NDArray[np.float32]:
        target = state.hole @ self.head_target(state)
        head = state.peg @ pose([state.half_length, 0.0, 0.0])
        turn = rotation_vector(target[:3, :3] @ head[:3, :3].T)
        error_m = target[:3, 3] - head[:3, 3]
        if np.linalg.norm(error_m) < 0.03:
            self._integral = np.clip(self._integral + INTEGRAL_GAIN * error_m, -INTEGRAL_LIMIT_M, INTEGRAL_LIMIT_M)
        if self._entered and not self._held:
            # The target moves with the head, so the error along the axis is intended: do not integrate it.
            self._integral -= (self._integral @ state.hole[:3, 0]) * state.hole[:3, 0]
        # The tool rotates about itself; compensate the displacement of the peg's head by that rotation.
        arm = head[:3, 3] - state.tool[:3, 3]
        swing = Rotation.from_rotvec(turn).apply(arm) - arm
        return self._command(env, error_m + self._integral / TRACKING_GAIN - swing, turn, SHUT)

    def _command(self, env: gymnasium.Env, move_m: Matrix, turn_rad: Matrix, gripper: float) -> NDArray[np.float32]:
        """The action towards a displacement in the base frame, limited to one action in the same direction."""
        movement = steer(simulated(env).config, move_m, turn_rad)
        if self._phase < INSERT and self._blocked % 2 == 1:
            # With the arm nearly stretched, inverse kinematics fails for large commands, and the arm does not move.
            movement *= 0.3
        if self.noise:
            movement = np.clip(movement + self._rng.normal(0.0, self.noise, 6), -1.0, 1.0)
        action = movement if self._held else np.append(movement, gripper)
        return action.astype(np.float32)
