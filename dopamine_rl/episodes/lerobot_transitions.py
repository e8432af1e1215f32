"""Episodes of a LeRobotDataset v3 with what a policy learns from: states and actions beside the pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.lerobot import ACTION, STATE, LeRobotSource
from dopamine_rl.episodes.stride import at_stride
from dopamine_rl.errors import EpisodeError
from dopamine_rl.types import Demonstration

OUTSIDE = 0.01
"""How far recorded actions may lie outside the bounds, as a share of their range."""


@dataclass(frozen=True, slots=True)
class EnvironmentSpaces:
    """What an environment observes and takes.

    Args:
        observation: length D of the observation, or of its proprioception.
        low, high: bounds of each of the A actions, in the environment's units.
        picture: (height, width) of the scored pictures; None where there are none.
    """

    observation: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    picture: tuple[int, int] | None

    @property
    def sizes(self) -> tuple[int, int]:
        """D and A."""
        return self.observation, len(self.low)


def read_transitions(source: LeRobotSource, name: str, spaces: EnvironmentSpaces, stride: int) -> Demonstration:
    """An episode as a demonstration in an environment.

    An action belongs to the frame at which it was chosen, so the last frame's is left out. Actions are scaled from the
    environment's bounds to [−1, 1].

    Args:
        name: of the episode.
        spaces: of the environment whose units the dataset has.
        stride: environment steps between the frames that are kept.
    Raises:
        EpisodeError: the dataset has no states or actions, or others than the environment.
    """
    info = source.episode(name)
    states = _numbers(source, name, STATE, spaces.observation, "the environment observes")
    actions = _numbers(source, name, ACTION, len(spaces.low), "the environment takes")[:-1]
    low, high = np.array(spaces.low, np.float32), np.array(spaces.high, np.float32)
    shares = (actions - low) / (high - low)
    if ((worst := np.maximum(-shares, shares - 1.0)) > OUTSIDE).any():
        step, entry = np.unravel_index(worst.argmax(), worst.shape)
        fix = (
            f"record in the environment's units: its bounds are {low[entry]:g} to {high[entry]:g}, and row {step} of "
            "the episode lies outside"
        )
        raise EpisodeError(f"{name}: {ACTION}[{entry}]", float(actions[step, entry]), fix)
    success = info.success is not False
    rewards = np.zeros(len(actions), np.float32)
    rewards[-1] = float(success)
    demonstration = Demonstration(
        episode_id=name,
        instructions=info.instructions,
        frames=source.frames(name, np.arange(info.frame_count), spaces.picture),
        frame_steps=np.arange(info.frame_count),
        keyframes=info.keyframes,
        stages=info.stages,
        observations=states,
        actions=np.clip(2.0 * shares - 1.0, -1.0, 1.0).astype(np.float32),
        task_rewards=rewards,
        terminated=success,
        success=success,
        seed=0,
    )
    return at_stride(demonstration, stride)


def _numbers(source: LeRobotSource, name: str, column: str, size: int, taker: str) -> NDArray[np.float32]:
    """A column of vectors, float32 [F, size]. Raises EpisodeError."""
    if column not in source.columns:
        fix = f"give a dataset with {column}, a row per frame: a policy learns from states and actions"
        raise EpisodeError(f"{source.root}: features", sorted(source.columns), fix)
    values: NDArray[Any] = source.column(name, column)
    rows = [np.atleast_1d(np.asarray(row, np.float32)) for row in values]
    lengths = {row.shape for row in rows}
    if lengths != {(size,)}:
        shown = ", ".join(str(list(shape)) for shape in sorted(lengths))
        raise EpisodeError(f"{name}: {column}", shown, f"give [{size}] in every row: {taker} as many numbers")
    numbers = np.stack(rows)
    if not np.isfinite(numbers).all():
        raise EpisodeError(f"{name}: {column}", "nan or inf", "give finite numbers in every row")
    return numbers
