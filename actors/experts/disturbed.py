"""Failures derived from any expert: it acts normally up to a random true progress, then something goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.experts.steering import OPEN, SHUT, steer
from actors.geometry import Matrix, rotation_vector
from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import Expert

if TYPE_CHECKING:
    from actors.maniskill import SimulatedEnv


def simulated(env: gymnasium.Env) -> SimulatedEnv:
    """The simulated environment under any wrappers."""
    return cast("SimulatedEnv", env.unwrapped)


def has_gripper(env: gymnasium.Env) -> bool:
    """Whether the action opens and shuts the gripper, as from the standard start; else it stays shut."""
    return simulated(env).config.start == "standard"


def gripper_of(action: NDArray[np.float32]) -> float:
    """What an action does to the gripper."""
    return float(action[6]) if len(action) > 6 else SHUT


def command(env: gymnasium.Env, move_m: Matrix, turn_rad: Matrix, gripper: float) -> NDArray[np.float32]:
    """An action towards a displacement of the tool in the base frame, float32 [A]."""
    movement = steer(simulated(env).config, move_m, turn_rad)
    return (np.append(movement, gripper) if has_gripper(env) else movement).astype(np.float32)


class Disturbed:
    """Does as the expert does until something goes wrong.

    Args:
        expert: what it does well.
    """

    from_progress, to_progress = 0.1, 0.8
    """True progress at which it goes wrong is drawn between these."""

    def __init__(self, expert: Expert) -> None:
        self._expert = expert
        self.stages = expert.stages

    @property
    def stage(self) -> int:
        """The expert's."""
        return self._expert.stage

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws when it goes wrong."""
        self._expert.reset(env, rng)
        self._rng = rng
        self._until = float(rng.uniform(self.from_progress, self.to_progress))
        self._gone_wrong = False

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The next action, float32 [7]."""
        self._gone_wrong |= self.goes_wrong(env)
        if self._gone_wrong:
            return self.act_wrongly(env)
        self._last = self._expert.act(env)
        return self._last

    def goes_wrong(self, env: gymnasium.Env) -> bool:
        """Whether it is time."""
        return simulated(env).true_progress() >= self._until

    def act_wrongly(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The next action once it is."""
        raise NotImplementedError


class Stalled(Disturbed):
    """Stops and stays, its gripper as it was."""

    def act_wrongly(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """Nothing."""
        return command(env, np.zeros(3), np.zeros(3), gripper_of(self._last))


class Dropped(Disturbed):
    """Opens the gripper on the way, and goes up without the object."""

    from_progress, to_progress = 0.4, 0.8

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode. Raises BadInput where the gripper stays shut."""
        if not has_gripper(env):
            raise BadInput("env.start", "insertion", "use the standard start: with this one nothing can be dropped")
        super().reset(env, rng)

    def act_wrongly(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """Open, and up."""
        height_m = 0.25 - simulated(env).state().tool[2, 3]
        return command(env, np.array([0.0, 0.0, height_m]), np.zeros(3), OPEN)


class Undone(Disturbed):
    """Goes back the way it came, opening the gripper where it was shut."""

    from_progress, to_progress = 0.4, 0.9

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(env, rng)
        self._way: list[tuple[Matrix, float]] = []

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """As the expert, remembering the way."""
        tool, forwards = simulated(env).state().tool, not self._gone_wrong
        action = super().act(env)
        if forwards:
            self._way.append((tool, gripper_of(action)))
        return action

    def act_wrongly(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """To the last place that was not reached again yet."""
        tool = simulated(env).state().tool
        while len(self._way) > 1 and np.linalg.norm(self._way[-1][0][:3, 3] - tool[:3, 3]) < 0.02:
            self._way.pop()
        target, gripper = self._way[-1]
        turn = rotation_vector(target[:3, :3] @ tool[:3, :3].T)
        return command(env, target[:3, 3] - tool[:3, 3], turn, gripper)


class Perturbed(Disturbed):
    """Is pushed off its course each time it has come so far, and never gets further."""

    from_progress, to_progress = 0.1, 0.75

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(env, rng)
        self._pushes_left = 0

    def goes_wrong(self, env: gymnasium.Env) -> bool:
        """Each time that it has come so far; a push aside and upwards lasts 5 to 9 steps."""
        if self._pushes_left == 0 and super().goes_wrong(env):
            self._pushes_left = int(self._rng.integers(5, 10))
            angle = self._rng.uniform(-np.pi, np.pi)
            aside = np.array([np.cos(angle), np.sin(angle), self._rng.uniform(0.1, 0.6)])
            self._push = 0.03 * aside, self._rng.uniform(-0.03, 0.03, 3)
        return False

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """As the expert, but where it is pushed."""
        action = super().act(env)
        if self._pushes_left == 0:
            return action
        self._pushes_left -= 1
        return command(env, *self._push, gripper_of(action))


DISTURBANCES: Mapping[str, Callable[[Expert], Expert]] = {
    "stall": Stalled,
    "retreat": Undone,
    "drop": Dropped,
    "perturb": Perturbed,
}
FAILURES = tuple(DISTURBANCES)
"""Names of all of them."""


def with_disturbances(expert: Callable[[], Expert], *names: str) -> dict[str, Callable[[], Expert]]:
    """The named disturbances of an expert, ready to be made."""
    return {name: _spoil(DISTURBANCES[name], expert) for name in names}


def _spoil(disturbance: Callable[[Expert], Expert], expert: Callable[[], Expert]) -> Callable[[], Expert]:
    return lambda: disturbance(expert())
