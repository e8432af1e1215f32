"""An environment of a user's own, with what the main job expects of the simulated tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from actors.maniskill import EnvConfig
from dopamine_rl.callables import load_callable, read_keywords
from dopamine_rl.encoders.eyes import PROPRIOCEPTION
from dopamine_rl.episodes.lerobot_transitions import EnvironmentSpaces
from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import Expert
from dopamine_rl.spelling import one_of
from dopamine_rl.texts import every
from dopamine_rl.types import Views, check_views

SCORED_VIEWS = "scored_views"
"""Entry of infos that holds the pictures to be scored."""
EXECUTED = "executed"
"""Entry of infos that holds the action that was really executed, where the environment says so: a robot's limits, or a
person who took over, change what was asked for."""


@dataclass(frozen=True, slots=True)
class ObservationLayout:
    """What an observation consists of.

    Args:
        size: D, length of the vector, or of proprioception.
        pictures: [H, W, 3] of each picture by name; None where the observation is a vector.
    """

    size: int
    pictures: Mapping[str, tuple[int, ...]] | None

    @classmethod
    def of(cls, space: gymnasium.Space[Any]) -> ObservationLayout:
        """The layout of an observation space. Raises BadInput unless it is one of MakeEnvironment's."""
        if isinstance(space, Box):
            return cls(_length("observation_space", space), None)
        if not isinstance(space, Dict) or PROPRIOCEPTION not in space.spaces:
            entries = list(space.spaces) if isinstance(space, Dict) else type(space).__name__
            fix = f"give a Box [D], or a Dict of {PROPRIOCEPTION} (Box [D]) and pictures (uint8 [H, W, 3])"
            raise BadInput("observation_space", entries, fix)
        pictures = {name: part for name, part in space.spaces.items() if name != PROPRIOCEPTION}
        for name, part in pictures.items():
            if not isinstance(part, Box) or part.dtype != np.uint8 or len(part.shape) != 3 or part.shape[2] != 3:
                raise BadInput(f"observation_space[{name!r}]", part, "give a Box of uint8 [H, W, 3], or leave it out")
        size = _length(f"observation_space[{PROPRIOCEPTION!r}]", space.spaces[PROPRIOCEPTION])
        return cls(size, {name: cast(Box, part).shape for name, part in pictures.items()})

    def check_views(self, views: tuple[str, ...]) -> None:
        """Raise BadInput unless the observation has these pictures, of one size. A vector has its pictures in infos."""
        if self.pictures is None:
            return
        for name in views:
            if name not in self.pictures:
                fix = one_of(name, list(self.pictures)) if self.pictures else f"the observation has no {name}: give []"
                raise BadInput("env.views", views, fix)
        if len({self.pictures[name] for name in views}) > 1:
            sizes = ", ".join(f"{name} {self.pictures[name][:2]}" for name in views)
            raise BadInput("env.views", views, f"name pictures of one size: {sizes}")

    def pictures_of(self, observation: Any, info: Mapping[str, Any], views: tuple[str, ...]) -> Views | None:
        """The pictures to be scored, uint8 [V, H, W, 3]; None where infos should hold them and do not."""
        if self.pictures is not None:
            return np.stack([observation[name] for name in views])
        return info.get(SCORED_VIEWS)


def action_bounds(space: gymnasium.Space[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest and highest action, float32 [A] each. Raises BadInput unless the space is a bounded Box [A]."""
    if not isinstance(space, Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
        raise BadInput("action_space", space, "give a Box [A] of floats")
    if not space.is_bounded():
        raise BadInput("action_space", space, "give finite bounds for every entry")
    if not (space.low < space.high).all():
        raise BadInput("action_space", space, "give every entry a range to move in, or leave it out")
    return space.low.astype(np.float32), space.high.astype(np.float32)


def make_foreign(config: EnvConfig) -> gymnasium.Env[Any, Any]:
    """The environment that `config.make` names. Its policy sees a vector as it is, and of a Dict proprioception alone
    unless it sees pictures (env.observation).

    Raises:
        BadInput: there is no such callable, or the environment keeps not to MakeEnvironment.
    """
    env = load_callable("env.make", config.make)(**read_keywords("env.kwargs", config.kwargs))
    if not isinstance(env, gymnasium.Env):
        raise BadInput("env.make", config.make, f"return a gymnasium.Env: this returns {type(env).__name__}")
    foreign = ForeignEnv(config, env)
    if config.sees_pictures or not isinstance(foreign.observation_space, Dict):
        return foreign
    return Proprioception(foreign)


class ForeignEnv(gymnasium.Env[Any, NDArray[np.float32]]):
    """Acts in [−1, 1], ends after the horizon, and says in its infos what SimulatedEnv says: `success`, and every
    `stride` steps and at both ends of an episode `scored_views`.

    Args:
        config: its make, kwargs, instruction, horizon, stride and views count.
        env: the user's environment; closed with this one.
    Raises:
        BadInput: its spaces are none of MakeEnvironment's, or there are no such views.
    """

    def __init__(self, config: EnvConfig, env: gymnasium.Env[Any, Any]) -> None:
        self.config, self.env, self.environment_step, self._stride = config, env, 0, config.stride
        self._layout = ObservationLayout.of(env.observation_space)
        self._layout.check_views(config.views)
        self._pictures = bool(config.views)
        self._low, self._high = action_bounds(env.action_space)
        self.action_space = Box(-1.0, 1.0, self._low.shape, np.float32)
        self.observation_space = _as_float32(env.observation_space)

    @property
    def instructions(self) -> tuple[str, ...]:
        """The task in words; its name where nobody said it."""
        return (self.config.instruction or self.config.make,)

    def tool_pose(self) -> None:
        """Not known."""

    def ends_near(self) -> None:
        """Whether a failure came close to success is not known."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. Options are those of SimulatedEnv."""
        options = options or {}
        self._pictures = bool(self.config.views) and options.get("pictures", True)
        self._stride = options.get("stride", self.config.stride)
        self.environment_step = 0
        hints = {"pictures": self._pictures, "stride": self._stride, "horizon": self.config.horizon}
        observation, info = self.env.reset(seed=seed, options=hints)
        return self._read(observation), self._infos(observation, info, success=False, scored=True)

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act."""
        observation, reward, terminated, truncated, info = self.env.step(self.to_units(action))
        self.environment_step += 1
        truncated = bool(truncated) or (not terminated and self.environment_step >= self.config.horizon)
        success = bool(info.get("success", terminated))
        scored = bool(terminated) or truncated or self.environment_step % self._stride == 0
        infos = self._infos(observation, info, success, scored)
        return self._read(observation), float(reward), bool(terminated), truncated, infos

    def to_units(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """An action of the user's environment for one in [−1, 1]."""
        share = (np.clip(np.asarray(action, np.float32), -1.0, 1.0) + 1.0) / 2.0
        return (self._low + share * (self._high - self._low)).astype(np.float32)

    def from_units(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """An action in [−1, 1] for one of the user's environment, which is clipped to its bounds."""
        share = (np.asarray(action, np.float32) - self._low) / (self._high - self._low)
        return np.clip(2.0 * share - 1.0, -1.0, 1.0).astype(np.float32)

    @property
    def spaces(self) -> EnvironmentSpaces:
        """What it observes and takes, in the user's units.

        Nothing moves for it, unless the pictures are in infos: then an episode is begun, to look at them.
        """
        shape: tuple[int, ...] = ()
        if self.config.views and self._layout.pictures is not None:
            shape = self._layout.pictures[self.config.views[0]]
        elif self.config.views:
            shape = self.reset(seed=0)[1][SCORED_VIEWS].shape[1:]
        picture = (shape[0], shape[1]) if shape else None
        return EnvironmentSpaces(self._layout.size, tuple(self._low.tolist()), tuple(self._high.tolist()), picture)

    def close(self) -> None:
        """Close the user's environment."""
        self.env.close()

    def _read(self, observation: Any) -> Any:
        """A copy, with numbers as float32: an environment may write the next observation into the same array."""
        if isinstance(observation, Mapping):
            numbers = {PROPRIOCEPTION: np.array(observation[PROPRIOCEPTION], np.float32)}
            return {name: np.array(observation[name]) for name in self._layout.pictures or ()} | numbers
        return np.array(observation, np.float32)

    def _infos(self, observation: Any, info: Mapping[str, Any], success: bool, scored: bool) -> dict[str, Any]:
        infos: dict[str, Any] = {"success": success}
        if EXECUTED in info:
            infos[EXECUTED] = self.from_units(info[EXECUTED])
        if scored and self._pictures:
            views = self._layout.pictures_of(observation, info, self.config.views)
            if views is None:
                fix = f"give pictures at reset, {every(self._stride, 'environment step')} and at the last one"
                raise BadInput(f"info[{SCORED_VIEWS!r}]", None, fix)
            check_views(f"info[{SCORED_VIEWS!r}]", views)
            if len(views) != len(self.config.views):
                raise BadInput("env.views", self.config.views, f"name {len(views)}: the environment shows as many")
            infos[SCORED_VIEWS] = views.copy()
        return infos


class Proprioception(gymnasium.ObservationWrapper[NDArray[np.float32], Any, Any]):
    """Shows of an observation Dict what the robot measures of itself."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = cast(Dict, env.observation_space).spaces[PROPRIOCEPTION]

    def observation(self, observation: Any) -> NDArray[np.float32]:
        """float32 [D]."""
        numbers: NDArray[np.float32] = observation[PROPRIOCEPTION]
        return numbers


class ForeignExpert:
    """The expert of a user's environment, for the environment around it.

    Args:
        expert: gets the user's environment and answers in its units.
    """

    def __init__(self, expert: Expert) -> None:
        self._expert = expert
        self.stages = expert.stages

    @property
    def stage(self) -> int:
        """Index into `stages` of the current stage."""
        return self._expert.stage

    def reset(self, env: gymnasium.Env[Any, Any], rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._expert.reset(foreign_of(env).env, rng)

    def act(self, env: gymnasium.Env[Any, Any]) -> NDArray[np.float32]:
        """The next action, float32 [A] in [−1, 1]."""
        foreign = foreign_of(env)
        return foreign.from_units(self._expert.act(foreign.env))


def make_expert(name: str) -> ForeignExpert:
    """The expert that `demonstrations.expert` names. Raises BadInput if there is none."""
    expert = load_callable("demonstrations.expert", name)()
    for part in ("stages", "reset", "act"):  # the stage begins with reset
        if not hasattr(expert, part):
            raise BadInput("demonstrations.expert", name, f"give it `{part}`: see dopamine_rl.interfaces.Expert")
    return ForeignExpert(expert)


def foreign_of(env: gymnasium.Env[Any, Any]) -> ForeignEnv:
    """The user's environment under its wrappers."""
    return cast(ForeignEnv, env.unwrapped)


def _length(name: str, space: gymnasium.Space[Any]) -> int:
    """Length of a vector space of numbers. Raises BadInput."""
    if not isinstance(space, Box) or len(space.shape) != 1 or space.shape[0] < 1 or space.dtype == np.uint8:
        raise BadInput(name, space, "give a Box [D] of floats")
    return space.shape[0]


def _as_float32(space: gymnasium.Space[Any]) -> gymnasium.Space[Any]:
    """The space with its numbers as unbounded float32: bounds of real measurements are seldom kept."""
    if isinstance(space, Dict):
        return Dict({name: part if part.dtype == np.uint8 else _as_float32(part) for name, part in space.items()})
    return Box(-np.inf, np.inf, space.shape, np.float32)
