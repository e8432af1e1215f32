"""PullCube-v1: drag a blue cube towards the robot, onto a red and white target, with the gripper closed."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.experts.disturbed import with_disturbances
from actors.experts.pick_and_place import FROM_ABOVE, simulated
from actors.experts.steering import SHUT, steer
from actors.geometry import Matrix, rotation_vector, to_matrix
from actors.tasks.task import HELD, Camera, ObjectState, ObjectTask, read_object, share_covered

GOAL_RADIUS_M = 0.1
"""ManiSkill's success: the distance between the centres of cube and target is smaller."""
BEHIND_M, TOUCH_M = 0.05, 0.035
"""Distance behind the cube's centre at which the tool moves down, and at which it touches the cube."""
HOVER_M, LOW_M = 0.08, 0.02
"""Heights of the tool above the table on the way there, and while it pulls."""


class PullCubeExpert:
    """Reaches over the cube and down behind it (one stage), then pulls."""

    stages: tuple[str, ...] = ("reach", "pull")

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._phase = 0
        self._short_m = -1.0

    @property
    def stage(self) -> int:
        """Index into `stages`."""
        return max(self._phase - 1, 0)

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The next action, float32 [7]."""
        state = simulated(env).state()
        move = state.item[:3, 3] - state.tool[:3, 3]
        move[2] = (HOVER_M if self._phase == 0 else LOW_M) - state.tool[2, 3]
        if self._phase < 2:
            move[0] += BEHIND_M
        if self._phase == 0 and np.linalg.norm(move[:2]) < 0.01:
            self._phase = 1
        elif self._phase == 1 and abs(move[2]) < 0.01:
            self._phase = 2
        elif self._phase == 2 and (abs(move[1]) > 0.02 or move[0] > 0.0):
            self._phase = 0  # the cube has slipped away
        if self._phase == 2:
            move[0] = -0.04 if _outside_m(state) > self._short_m else 0.0
        turn = rotation_vector(FROM_ABOVE @ state.tool[:3, :3].T)
        return np.append(steer(simulated(env).config, move, turn), SHUT).astype(np.float32)


class NearMiss(PullCubeExpert):
    """Stops when the cube is 5 to 20 mm short of success."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws where it stops."""
        super().reset(env, rng)
        self._short_m = float(rng.uniform(0.01, 0.03))  # the arm overshoots by some millimetres


def _outside_m(state: ObjectState) -> float:
    """Distance of the cube to success; negative once it counts as on the target."""
    return float(np.linalg.norm(state.error_m[:2])) - GOAL_RADIUS_M


def _distance_to_cube_m(state: ObjectState) -> float:
    """Distance of the tool to where it touches the cube from behind, by way of the space above it."""
    offset: Matrix = state.tool[:3, 3] - state.item[:3, 3]
    behind = np.hypot(offset[0] - TOUCH_M, offset[1])
    return float(behind + max(0.0, offset[2]))


def read(scene: Any) -> ObjectState:
    """The simulator's true state."""
    return read_object(scene, scene.obj, to_matrix(scene.goal_region.pose.raw_pose))


def progress(state: ObjectState, first: ObjectState) -> float:
    """Up to HELD for reaching the cube from behind; the rest in proportion to the distance covered to the target."""
    at_cube = share_covered(_distance_to_cube_m(state), _distance_to_cube_m(first))
    pulled = share_covered(max(0.0, _outside_m(state)), _outside_m(first))
    return HELD * at_cube + (0.97 - HELD) * pulled


PULL_CUBE = ObjectTask(
    name="PullCube-v1",
    instructions=(
        "pull the blue cube onto the red and white target",
        "drag the cube towards the robot onto the target",
        "move the blue cube to the target by pulling it",
    ),
    cameras={
        "front": Camera((0.45, 0.25, 0.5), (-0.1, 0.0, 0.0), 0.7),
        "close": Camera((0.0, 0.45, 0.3), (-0.08, 0.0, 0.02), 0.9),
    },
    scripts={
        "expert": PullCubeExpert,
        "near_miss": NearMiss,
        **with_disturbances(PullCubeExpert, "stall", "retreat", "perturb"),
    },
    failures=("near_miss", "stall", "near_miss", "retreat", "near_miss", "perturb"),
    horizon=60,
    stride=2,
    read=read,
    progress=progress,
)
