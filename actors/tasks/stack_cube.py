"""StackCube-v1: a red cube is put on a green one and let go."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.experts.behaviours import Aside, with_behaviours
from actors.experts.disturbed import FAILURES, with_disturbances
from actors.experts.pick_and_place import CARRY, PickAndPlace
from actors.experts.steering import OPEN
from actors.geometry import Matrix, pose, to_matrix
from actors.tasks.task import HELD, Camera, ObjectState, ObjectTask, reaching, read_object, share_covered

CUBE_M = 0.04
CLEARANCE_M, FUNNEL_M = 0.04, 0.03
"""The cube travels this much higher than where it will stand, and comes down over the last stretch of this length."""
NEIGHBOUR_M = 0.1
"""Cubes whose middles are nearer than this may be too close for a finger between them."""
LOWER, RELEASE = CARRY + 1, CARRY + 2


class StackCubeExpert(PickAndPlace):
    """Lifts the cube, brings it over the other one, sets it down, lets go."""

    stages: tuple[str, ...] = ("grasp", "carry", "place")

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(env, rng)
        self._beside_m = np.zeros(3)
        self._lets_go = True

    @property
    def stage(self) -> int:
        """Index into `stages`; lowering and letting go are one."""
        return min(super().stage, len(self.stages) - 1)

    @property
    def released(self) -> bool:
        """Whether the cube has been let go on purpose."""
        return self._phase == RELEASE

    def grasp_cost(self, state: ObjectState, target: Matrix) -> float:
        """No finger goes between the cubes where they stand close together."""
        apart = state.error_m[:2]
        return 10.0 * float(abs(target[:2, 1] @ apart)) / NEIGHBOUR_M if np.linalg.norm(apart) < NEIGHBOUR_M else 0.0

    def carry(self, env: gymnasium.Env, state: ObjectState) -> NDArray[np.float32]:
        """Up, across, down, open."""
        if self._phase == RELEASE:
            return self.command(env, np.zeros(3), np.zeros(3), OPEN)
        error_m = state.error_m + self._beside_m
        sideways_m = float(np.linalg.norm(error_m[:2]))
        if self._phase == CARRY and sideways_m < 0.006:
            self._phase = LOWER
        if self._phase == LOWER and self._lets_go and sideways_m < 0.006 and abs(error_m[2]) < 0.003:
            self._phase = RELEASE
        error_m[2] += _height_over_goal_m(sideways_m) if self._phase == CARRY else 0.0
        if error_m[2] > 0.02:
            error_m[:2] = 0.0  # first up: the way across may lead over the other cube
        return self.bring(env, state, pose(state.item[:3, 3] + error_m), turning=False)


class NearMiss(StackCubeExpert):
    """Sets the cube down too far to a side, where it tips over, or stops above the other one and never lets go."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws where it ends."""
        super().reset(env, rng)
        self._lets_go = bool(rng.random() < 0.5)
        angle = rng.uniform(-np.pi, np.pi)
        sideways_m = rng.uniform(0.026, 0.036) if self._lets_go else rng.uniform(0.0, 0.01)
        self._beside_m = np.array([np.cos(angle) * sideways_m, np.sin(angle) * sideways_m, 0.0])
        self._beside_m[2] = 0.0 if self._lets_go else rng.uniform(0.01, 0.025)


def _height_over_goal_m(sideways_m: float) -> float:
    """How far above its goal the cube should be when it is so far to a side of it."""
    return CLEARANCE_M * min(1.0, sideways_m / FUNNEL_M)


def _way_left_m(state: ObjectState) -> float:
    """The way of the cube: up to the height it travels at, across, down."""
    sideways_m, below_m = float(np.linalg.norm(state.error_m[:2])), float(state.error_m[2])
    height_m = _height_over_goal_m(sideways_m)
    return sideways_m + height_m + abs(height_m + below_m)


def read(scene: Any) -> ObjectState:
    """The true state."""
    goal = to_matrix(scene.cubeB.pose.raw_pose)
    goal[2, 3] += CUBE_M
    return read_object(scene, scene.cubeA, goal)


def progress(state: ObjectState, first: ObjectState) -> float:
    """HELD while reaching; to 0.9 by the share of the cube's way; above while it stands on the other one, let go."""
    stands = abs(state.error_m[2]) < 0.005 and np.linalg.norm(state.error_m[:2]) < CUBE_M / 2
    if stands and not state.grasped:
        return 0.95
    if not state.grasped:
        return reaching(state, first)
    return HELD + (0.9 - HELD) * share_covered(_way_left_m(state), _way_left_m(first))


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
    scripts={
        "expert": StackCubeExpert,
        "near_miss": NearMiss,
        **with_disturbances(StackCubeExpert, *FAILURES),
        **with_behaviours(StackCubeExpert, Aside("goal", (0, 1), (0.06, 0.1)), dropped_at=(0.75, 0.85)),
    },
    failures=("near_miss", "stall", "near_miss", "retreat", "near_miss", "drop", "near_miss", "perturb"),
    horizon=90,
    stride=2,
    read=read,
    progress=progress,
)
