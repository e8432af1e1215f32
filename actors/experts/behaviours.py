"""Behaviour that fools rewards, derived from any expert: it pauses, tries again, oscillates, or acts beside its target.

Pauses and retreats are stages of their own, by the names in `dopamine_rl.episodes.pauses`: the keyframes of such
an episode say when nothing moved, and that the others do not tell its progress.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.experts.disturbed import Dropped, command, gripper_of, simulated
from actors.experts.steering import OPEN
from actors.geometry import Matrix, pose, rotation_vector
from dopamine_rl.episodes.pauses import PAUSE, RETREAT
from dopamine_rl.interfaces import Expert

SETTLING_STEPS = 2
"""Steps that the arm needs to come to rest; after them, it pauses."""
PAUSED_FRAMES = 4
"""Recorded frames that a pause shows at least, if it can: where two would be shorter, there is one."""
PAUSED_SHARE, BACKING_SHARE = 0.3, 0.15
"""Shares of the horizon that an episode spends pausing, and going back before it tries again."""
REACHED_M = 0.02
"""A place on the way back that is nearer than this counts as reached."""


class Interrupted:
    """Does as the expert does, and something else in between.

    Args:
        expert: what it does well.
    """

    mark = ""
    """Name of the stage in between."""

    def __init__(self, expert: Expert) -> None:
        self._expert = expert
        self.stages = expert.stages

    @property
    def stage(self) -> int:
        """Index into `stages`, which grows with the episode: the expert's and those in between as they happen."""
        return len(self.stages) - 1

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._expert.reset(env, rng)
        self._rng, self._left = rng, 0
        self._gripper = OPEN
        self.stages = (self._expert.stages[self._expert.stage],)

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The next action, float32 [A]."""
        if self._left == 0:
            self._left = self.interruption(env)
        if self._left:
            self._left -= 1
            return self.act_in_between(env)
        action = self._expert.act(env)
        self._gripper = gripper_of(action)
        self._enter(self._expert.stages[self._expert.stage])
        return action

    def interruption(self, env: gymnasium.Env) -> int:
        """How many steps of something else begin now; mostly 0."""
        raise NotImplementedError

    def act_in_between(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The next action of something else."""
        raise NotImplementedError

    def _enter(self, stage: str) -> None:
        if stage != self.stages[-1]:
            self.stages = (*self.stages, stage)

    def _towards(self, env: gymnasium.Env, target: Matrix) -> NDArray[np.float32]:
        """Towards a pose of the tool, the gripper as it was."""
        tool = simulated(env).state().tool
        turn = rotation_vector(target[:3, :3] @ tool[:3, :3].T)
        return command(env, target[:3, 3] - tool[:3, 3], turn, self._gripper)


class Paused(Interrupted):
    """Stands still once or twice on its way, and goes on."""

    mark = PAUSE

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws at which true progress it pauses."""
        super().reset(env, rng)
        config = simulated(env).config
        steps = int(PAUSED_SHARE * config.horizon)
        twice = rng.integers(2) == 1 and steps // 2 >= PAUSED_FRAMES * config.stride
        self._at = [float(rng.uniform(0.1, 0.4)), float(rng.uniform(0.5, 0.8))]
        if not twice:
            del self._at[rng.integers(2)]
        self._steps = steps // len(self._at)

    def interruption(self, env: gymnasium.Env) -> int:
        """Where it has come far enough."""
        if not self._at or simulated(env).true_progress() < self._at[0]:
            return 0
        self._at.pop(0)
        return self._steps

    def act_in_between(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """Come to rest; then hold the place, which the arm would sink from."""
        if self._left >= self._steps - SETTLING_STEPS:
            self._held = simulated(env).state().tool
        else:
            self._enter(self.mark)
        return self._towards(env, self._held)


class Backing(Interrupted):
    """Goes back some way whenever it has come to a drawn true progress."""

    mark = RETREAT
    from_progress, to_progress = 0.4, 0.8

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws where it goes back."""
        super().reset(env, rng)
        self._until = float(rng.uniform(self.from_progress, self.to_progress))
        self._way: list[tuple[Matrix, float]] = []

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """As the expert, remembering the way."""
        tool = simulated(env).state().tool
        action = super().act(env)
        if self.stages[-1] != self.mark:
            self._way.append((tool, self._gripper))
        return action

    def interruption(self, env: gymnasium.Env) -> int:
        """Where it has come far enough."""
        return self.steps(env) if simulated(env).true_progress() >= self._until else 0

    def steps(self, env: gymnasium.Env) -> int:
        """How many steps it goes back."""
        raise NotImplementedError

    def act_in_between(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """To the last place that was not reached again yet, but no further than where the gripper moved."""
        self._enter(self.mark)
        tool = simulated(env).state().tool
        while len(self._way) > 1 and self._way[-2][1] == self._gripper and _near(self._way[-1][0], tool):
            self._way.pop()
        return self._towards(env, self._way[-1][0] if self._way else tool)


class Retried(Backing):
    """Goes back once or twice, and succeeds with the next try."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws how often."""
        super().reset(env, rng)
        self._tries = self._retries = int(rng.integers(1, 3))

    def steps(self, env: gymnasium.Env) -> int:
        """A share of the episode, while there is a try left."""
        if not self._retries:
            return 0
        self._retries -= 1
        return int(BACKING_SHARE * simulated(env).config.horizon / self._tries)


class Oscillating(Backing):
    """Goes to and fro before a place that it never gets beyond."""

    to_progress = 0.7

    def steps(self, env: gymnasium.Env) -> int:
        """Three to six, each time."""
        return int(self._rng.integers(3, 7))


class DroppedAtEnd(Dropped):
    """Opens the gripper shortly before it would have succeeded.

    Args:
        progress: true progress at which it does is drawn between these.
    """

    def __init__(self, expert: Expert, progress: tuple[float, float]) -> None:
        super().__init__(expert)
        self.from_progress, self.to_progress = progress


@dataclass(frozen=True, slots=True)
class Aside:
    """What is beside where it is taken to be.

    Args:
        part: of the true state: the goal, the hole or the item.
        axes: of its frame, along which it is displaced.
        distance_m: by how much, drawn between these.
    """

    part: str
    axes: tuple[int, ...]
    distance_m: tuple[float, float]

    def draw(self, rng: np.random.Generator) -> Matrix:
        """A displacement in the part's frame, a pose."""
        direction = rng.normal(size=len(self.axes))
        offset = np.zeros(3)
        offset[list(self.axes)] = rng.uniform(*self.distance_m) * direction / np.linalg.norm(direction)
        return pose(offset)


class Beside:
    """Does the expert's motion next to the target, and does not notice.

    Args:
        expert: who acts.
        aside: what it takes to be somewhere else.
    """

    def __init__(self, expert: Expert, aside: Aside) -> None:
        self._expert, self._aside = expert, aside
        self.stages = expert.stages

    @property
    def stage(self) -> int:
        """The expert's."""
        return self._expert.stage

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws the displacement."""
        self._offset = self._aside.draw(rng)
        self._expert.reset(self._seen(env), rng)

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The next action, float32 [A]."""
        return self._expert.act(self._seen(env))

    def _seen(self, env: gymnasium.Env) -> gymnasium.Env:
        return cast("gymnasium.Env", _Displaced(env, self._aside.part, self._offset))


class _Displaced:
    """An environment as an expert sees it that mistakes the place of one thing."""

    def __init__(self, env: gymnasium.Env, part: str, offset: Matrix) -> None:
        self._env, self._part, self._offset = simulated(env), part, offset
        self.config = self._env.config

    @property
    def unwrapped(self) -> _Displaced:
        """Itself."""
        return self

    def state(self) -> Any:
        """The true state but for the thing's place."""
        state = self._env.state()
        return replace(state, **{self._part: getattr(state, self._part) @ self._offset})


def _near(target: Matrix, tool: Matrix) -> bool:
    return bool(np.linalg.norm(target[:3, 3] - tool[:3, 3]) < REACHED_M)


BEHAVIOURS: dict[str, Callable[[Expert], Expert]] = {"pause": Paused, "retry": Retried, "oscillate": Oscillating}


def with_behaviours(
    expert: Callable[[], Expert], aside: Aside, dropped_at: Sequence[float] = ()
) -> dict[str, Callable[[], Expert]]:
    """Scripts of all of them, ready to be made.

    Args:
        aside: what is mistaken for being elsewhere.
        dropped_at: true progress between which the object is dropped; none where nothing is held.
    """
    made: dict[str, Callable[[], Expert]] = {name: _wrapped(kind, expert) for name, kind in BEHAVIOURS.items()}
    made["beside"] = lambda: Beside(expert(), aside)
    if dropped_at:
        low, high = dropped_at
        made["drop_at_end"] = lambda: DroppedAtEnd(expert(), (low, high))
    return made


def _wrapped(kind: Callable[[Expert], Expert], expert: Callable[[], Expert]) -> Callable[[], Expert]:
    return lambda: kind(expert())
