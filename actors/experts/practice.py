"""Practice: the robot wanders about a demonstration's path, alone, so that a reward model sees what lies beside it.

It moves from one place to the next. In most tries these lie near the path, aside of it or turned, and never further
than where the demonstration's last stage begins. In the others they lie far off: a policy goes there, too, and finds
what the reward model has never seen. Practice asks only for the tool's pose, which a real robot's joints tell as well.
"""

from __future__ import annotations

import gymnasium
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from actors.experts.disturbed import simulated
from actors.experts.steering import steer
from actors.geometry import Matrix, pose, rotation_vector
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Demonstration

PRACTICE = "practice"
"""Name of these tries."""
BEYOND = 1.5
"""Places lie up to so many times as far from the path as episodes start from the axis, and turned as much."""
SHARE_ASIDE, SHARE_TURNED = 0.85, 0.7
"""Of the places; the others lie on the path, or are turned as it is."""
SHARE_FAR = 1 / 3
"""Of the tries. Near and far ones are kept apart: on the way, what is held may be lost."""
FROM_M, TO_M, FAR_TURN_RAD = 0.05, 0.15, 0.5
"""Distance of far places from the path, and largest turn."""
LOWEST_M = 0.04
"""Of far places, above the table."""
CLEARANCE_M = 0.001
"""Kept before where the last stage begins: a peg beside its hole must not be pushed into the plate."""
ARRIVED_M, MOST_STEPS = 0.003, 7
"""A place is reached, or given up after so many steps."""


class Practice:
    """Wanders about the path of a demonstration in its scene.

    Args:
        demonstration: a success with the tool's poses and at least two stages.
    Raises:
        BadInput: it lacks them.
    """

    stages: tuple[str, ...] = (PRACTICE,)
    stage = 0

    def __init__(self, demonstration: Demonstration) -> None:
        if demonstration.tool_poses is None:
            fix = "record it anew: recordings of earlier versions lack them"
            raise BadInput(f"{demonstration.episode_id}.tool_poses", None, fix)
        last = demonstration.keyframes[-2]
        if last == 0:
            fix = "annotate where the precise part begins"
            raise BadInput(f"{demonstration.episode_id}.stages", demonstration.stages, fix)
        poses = demonstration.tool_poses.astype(np.float64)
        self._path = [pose(row[:3], Rotation.from_quat(row[3:]).as_matrix()) for row in poses[: last + 1]]
        # Uniform in distance: a demonstration waits where it aligns, and the place before the hole is passed in a step.
        self._travelled = np.append(0.0, np.linalg.norm(np.diff(poses[: last + 1, :3], axis=0), axis=1).cumsum())
        onward = poses[-1, :3] - poses[last, :3]
        self._onward = onward / max(float(np.linalg.norm(onward)), 1e-9)

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin a try; draws where it goes."""
        self._rng = rng
        self._far = bool(rng.random() < SHARE_FAR)
        self._target = self._draw(env)
        self._steps = 0

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The next action, float32 [A]: towards the place, or the next one."""
        tool = simulated(env).state().tool
        if np.linalg.norm(self._target[:3, 3] - tool[:3, 3]) < ARRIVED_M or self._steps >= MOST_STEPS:
            self._target, self._steps = self._draw(env), 0
        self._steps += 1
        turn = rotation_vector(self._target[:3, :3] @ tool[:3, :3].T)
        return steer(simulated(env).config, self._target[:3, 3] - tool[:3, 3], turn).clip(-1.0, 1.0).astype(np.float32)

    def _draw(self, env: gymnasium.Env) -> Matrix:
        """The pose of the next place."""
        config, rng = simulated(env).config, self._rng
        near = self._path[int(np.searchsorted(self._travelled, rng.uniform(0.0, self._travelled[-1])))]
        if self._far:
            where = near[:3, 3] + _direction(rng) * rng.uniform(FROM_M, TO_M)
            turn = _direction(rng) * rng.uniform(0.0, FAR_TURN_RAD)
            return pose([*where[:2], max(LOWEST_M, where[2])], Rotation.from_rotvec(turn).as_matrix() @ near[:3, :3])
        aside = _direction(rng) * rng.uniform(0.0, BEYOND * config.lateral_m) * (rng.random() < SHARE_ASIDE)
        turn = _direction(rng) * rng.uniform(0.0, BEYOND * config.angle_rad) * (rng.random() < SHARE_TURNED)
        where = near[:3, 3] + aside
        ahead = float((where - self._path[-1][:3, 3]) @ self._onward) + CLEARANCE_M
        return pose(where - max(0.0, ahead) * self._onward, Rotation.from_rotvec(turn).as_matrix() @ near[:3, :3])


def _direction(rng: np.random.Generator) -> Matrix:
    """A random unit vector [3]."""
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)
