"""PickCube-v1: pick up a red cube from the table, and hold it at a green ball in the air."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.experts.disturbed import FAILURES, with_disturbances
from actors.experts.pick_and_place import PickAndPlace
from actors.geometry import to_matrix
from actors.tasks.task import HELD, Camera, ObjectState, ObjectTask, reaching, read_object, share_covered


class PickCubeExpert(PickAndPlace):
    """Carries the cube straight to the goal. Success: at rest within 25 mm of it."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(env, rng)
        self._beside_m = np.zeros(3)

    def carry(self, env: gymnasium.Env, state: ObjectState) -> NDArray[np.float32]:
        """Move to the goal and stay."""
        target = state.goal.copy()
        target[:3, 3] += self._beside_m
        return self.bring(env, state, target, turning=False)


class NearMiss(PickCubeExpert):
    """Holds the cube 6 to 20 mm outside the tolerance, in a random direction."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws where it stops."""
        super().reset(env, rng)
        direction = rng.normal(size=3)
        direction[2] = abs(direction[2])  # the goal may be just above the table
        self._beside_m = rng.uniform(0.031, 0.045) * direction / np.linalg.norm(direction)


def read(scene: Any) -> ObjectState:
    """The simulator's true state."""
    return read_object(scene, scene.cube, to_matrix(scene.goal_site.pose.raw_pose))


def progress(state: ObjectState, first: ObjectState) -> float:
    """Up to HELD while reaching; once grasped, the rest in proportion to the distance covered to the goal."""
    if not state.grasped:
        return reaching(state, first)
    distances = [float(np.linalg.norm(s.error_m)) for s in (state, first)]
    return HELD + (0.97 - HELD) * share_covered(*distances)


PICK_CUBE = ObjectTask(
    name="PickCube-v1",
    instructions=(
        "pick up the red cube and hold it at the green ball",
        "bring the red cube to the green goal",
        "lift the cube to the green sphere",
    ),
    cameras={
        "front": Camera((0.5, 0.15, 0.5), (-0.05, 0.0, 0.14), 0.8),
        "close": Camera((0.3, -0.4, 0.4), (0.0, 0.0, 0.14), 0.9),
    },
    scripts={"expert": PickCubeExpert, "near_miss": NearMiss, **with_disturbances(PickCubeExpert, *FAILURES)},
    failures=("near_miss", "stall", "near_miss", "retreat", "near_miss", "drop", "near_miss", "perturb"),
    horizon=60,
    stride=2,
    read=read,
    progress=progress,
)
