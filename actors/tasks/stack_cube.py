"""StackCube-v1: put a red cube on a green one and release it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.experts.disturbed import FAILURES, with_disturbances
from actors.experts.pick_and_place import CARRY, PickAndPlace
from actors.experts.steering import OPEN
from actors.geometry import Matrix, pose, to_matrix
from actors.tasks.task import HELD, Camera, ObjectState, ObjectTask, reaching, read_object, share_covered

CUBE_M = 0.04
CLEARANCE_M, FUNNEL_M = 0.04, 0.03
"""The cube is carried this much above its goal, and moves down along the last stretch of this length."""
NEIGHBOUR_M = 0.1
"""Between cubes whose centres are closer than this there may be no room for a finger."""
LOWER, RELEASE = CARRY + 1, CARRY + 2


class StackCubeExpert(PickAndPlace):
    """Lifts the cube, carries it over the other one, puts it down and releases it."""

    stages: tuple[str, ...] = ("grasp", "carry", "place")

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(env, rng)
        self._beside_m = np.zeros(3)
        self._releases = True

    @property
    def stage(self) -> int:
        """Index into `stages`; lowering and releasing are one."""
        return min(super().stage, len(self.stages) - 1)

    @property
    def released(self) -> bool:
        """Whether the cube was released on purpose."""
        return self._phase == RELEASE

    def grasp_cost(self, state: ObjectState, target: Matrix) -> float:
        """High for grasps with a finger between cubes that are close together."""
        apart = state.error_m[:2]
        return 10.0 * float(abs(target[:2, 1] @ apart)) / NEIGHBOUR_M if np.linalg.norm(apart) < NEIGHBOUR_M else 0.0

    def carry(self, env: gymnasium.Env, state: ObjectState) -> NDArray[np.float32]:
        """Lift, carry, lower, release."""
        if self._phase == RELEASE:
            return self.command(env, np.zeros(3), np.zeros(3), OPEN)
        error_m = state.error_m + self._beside_m
        sideways_m = float(np.linalg.norm(error_m[:2]))
        if self._phase == CARRY and sideways_m < 0.006:
            self._phase = LOWER
        if self._phase == LOWER and self._releases and sideways_m < 0.006 and abs(error_m[2]) < 0.003:
            self._phase = RELEASE
        error_m[2] += _height_over_goal_m(sideways_m) if self._phase == CARRY else 0.0
        if error_m[2] > 0.02:
            error_m[:2] = 0.0  # lift first: the path may lead over the other cube
        return self.bring(env, state, pose(state.item[:3, 3] + error_m), turning=False)


class NearMiss(StackCubeExpert):
    """Releases the cube too far to one side, so that it tips over, or holds it above the other one for ever."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws where it ends."""
        super().reset(env, rng)
        self._releases = bool(rng.random() < 0.5)
        angle = rng.uniform(-np.pi, np.pi)
        sideways_m = rng.uniform(0.026, 0.036) if self._releases else rng.uniform(0.0, 0.01)
        self._beside_m = np.array([np.cos(angle) * sideways_m, np.sin(angle) * sideways_m, 0.0])
        self._beside_m[2] = 0.0 if self._releases else rng.uniform(0.01, 0.025)


def _height_over_goal_m(sideways_m: float) -> float:
    """Height above the goal at a horizontal distance from it."""
    return CLEARANCE_M * min(1.0, sideways_m / FUNNEL_M)


def _distance_left_m(state: ObjectState) -> float:
    """Length of the cube's remaining path: up to the carrying height, across, down."""
    sideways_m, below_m = float(np.linalg.norm(state.error_m[:2])), float(state.error_m[2])
    height_m = _height_over_goal_m(sideways_m)
    return sideways_m + height_m + abs(height_m + below_m)


def read(scene: Any) -> ObjectState:
    """The simulator's true state."""
    goal = to_matrix(scene.cubeB.pose.raw_pose)
    goal[2, 3] += CUBE_M
    return read_object(scene, scene.cubeA, goal)


def progress(state: ObjectState, first: ObjectState) -> float:
    """Up to HELD while reaching; up to 0.9 by the path covered; 0.95 once released on the other cube."""
    stands = abs(state.error_m[2]) < 0.005 and np.linalg.norm(state.error_m[:2]) < CUBE_M / 2
    if stands and not state.grasped:
        return 0.95
    if not state.grasped:
        return reaching(state, first)
    return HELD + (0.9 - HELD) * share_covered(_distance_left_m(state), _distance_left_m(first))


STACK_CUBE = ObjectTask(
    name="StackCube-v1",
    instructions=(
        "put the red cube on the green cube and let go",
        "stack the red cube on top of the green one",
        "place the red cube onto the green cube",
    ),
    cameras={
        "front": Camera((0.6, 0.15, 0.5), (0.0, 0.0, 0.03), 0.85),
        "close": Camera((0.4, -0.55, 0.4), (0.0, 0.0, 0.03), 0.9),
    },
    scripts={"expert": StackCubeExpert, "near_miss": NearMiss, **with_disturbances(StackCubeExpert, *FAILURES)},
    failures=("near_miss", "stall", "near_miss", "retreat", "near_miss", "drop", "near_miss", "perturb"),
    horizon=90,
    stride=2,
    read=read,
    progress=progress,
)
