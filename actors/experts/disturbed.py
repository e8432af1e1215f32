"""Scripted failures made from any expert: it acts normally up to a random true progress, then it is disturbed.

All need the standard start, whose actions include the gripper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.experts.steering import OPEN, steer
from actors.geometry import Matrix, rotation_vector
from dopamine_rl.interfaces import Expert

if TYPE_CHECKING:
    from actors.maniskill import SimulatedEnv


def _simulated(env: gymnasium.Env) -> SimulatedEnv:
    return cast("SimulatedEnv", env.unwrapped)


class Disturbed:
    """Acts like the expert until the disturbance begins.

    Args:
        expert: acts before.
    """

    from_progress, to_progress = 0.1, 0.8
    """Range of the true progress at which the disturbance begins."""

    def __init__(self, expert: Expert) -> None:
        self._expert = expert
        self.stages = expert.stages

    @property
    def stage(self) -> int:
        """Current stage of the expert."""
        return self._expert.stage

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws when the disturbance begins."""
        self._expert.reset(env, rng)
        self._rng = rng
        self._until = float(rng.uniform(self.from_progress, self.to_progress))
        self._disturbed = False

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The next action, float32 [7]."""
        self._disturbed |= self.is_time(env)
        if self._disturbed:
            return self.act_disturbed(env)
        self._last = self._expert.act(env)
        return self._last

    def is_time(self, env: gymnasium.Env) -> bool:
        """Whether the disturbance begins."""
        return _simulated(env).true_progress() >= self._until

    def act_disturbed(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The next action once disturbed."""
        raise NotImplementedError

    def _command(self, env: gymnasium.Env, move_m: Matrix, turn_rad: Matrix, gripper: float) -> NDArray[np.float32]:
        return np.append(steer(_simulated(env).config, move_m, turn_rad), gripper).astype(np.float32)


class Stalled(Disturbed):
    """Stops moving; the gripper stays as it is."""

    def act_disturbed(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """Do not move."""
        return self._command(env, np.zeros(3), np.zeros(3), float(self._last[6]))


class Dropped(Disturbed):
    """Opens the gripper on the way and moves up without the object."""

    from_progress, to_progress = 0.4, 0.8

    def act_disturbed(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """Open the gripper and move up."""
        height_m = 0.25 - _simulated(env).state().tool[2, 3]
        return self._command(env, np.array([0.0, 0.0, height_m]), np.zeros(3), OPEN)


class Undone(Disturbed):
    """Moves back along its path, and opens the gripper where it had closed it."""

    from_progress, to_progress = 0.4, 0.9

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(env, rng)
        self._path: list[tuple[Matrix, float]] = []

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The expert's action; stores the path."""
        tool, forwards = _simulated(env).state().tool, not self._disturbed
        action = super().act(env)
        if forwards:
            self._path.append((tool, float(action[6])))
        return action

    def act_disturbed(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """Move to the last pose of the path that has not been reached again."""
        tool = _simulated(env).state().tool
        while len(self._path) > 1 and np.linalg.norm(self._path[-1][0][:3, 3] - tool[:3, 3]) < 0.02:
            self._path.pop()
        target, gripper = self._path[-1]
        turn = rotation_vector(target[:3, :3] @ tool[:3, :3].T)
        return self._command(env, target[:3, 3] - tool[:3, 3], turn, gripper)


class Perturbed(Disturbed):
    """Is pushed away each time it reaches a random true progress, so it never gets further."""

    from_progress, to_progress = 0.1, 0.75

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(env, rng)
        self._pushes_left = 0

    def is_time(self, env: gymnasium.Env) -> bool:
        """Never for good: starts a push sideways and upwards of 5 to 9 steps each time the progress is reached."""
        if self._pushes_left == 0 and super().is_time(env):
            self._pushes_left = int(self._rng.integers(5, 10))
            angle = self._rng.uniform(-np.pi, np.pi)
            aside = np.array([np.cos(angle), np.sin(angle), self._rng.uniform(0.1, 0.6)])
            self._push = 0.03 * aside, self._rng.uniform(-0.03, 0.03, 3)
        return False

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The expert's action, or the push."""
        action = super().act(env)
        if self._pushes_left == 0:
            return action
        self._pushes_left -= 1
        return self._command(env, *self._push, float(action[6]))


DISTURBANCES: Mapping[str, Callable[[Expert], Expert]] = {
    "stall": Stalled,
    "retreat": Undone,
    "drop": Dropped,
    "perturb": Perturbed,
}
FAILURES = tuple(DISTURBANCES)
"""Names of all disturbances."""


def with_disturbances(expert: Callable[[], Expert], *names: str) -> dict[str, Callable[[], Expert]]:
    """Constructors of the named disturbances of an expert."""
    return {name: _disturb(DISTURBANCES[name], expert) for name in names}


def _disturb(disturbance: Callable[[Expert], Expert], expert: Callable[[], Expert]) -> Callable[[], Expert]:
    return lambda: disturbance(expert())
