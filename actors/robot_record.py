"""Records what a person does with a robot, as raw episodes: demonstrations for the policy and the reward model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.robot_env import RobotEnv
from dopamine_rl.encoders.eyes import PROPRIOCEPTION
from dopamine_rl.episodes.motion import PERIODS
from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.errors import BadInput
from dopamine_rl.files import write_text
from dopamine_rl.spelling import one_of
from dopamine_rl.types import Demonstration

STILL = 1e-6
"""Share of a step below which the robot did not move."""
MOST_VIEWS = 3


class Periods:
    """What happens in one episode, period by period.

    Args:
        env: the robot. views: of its pictures, those to record.
        observation: at the start.
    """

    def __init__(self, env: RobotEnv, views: Sequence[str], observation: dict[str, Any]) -> None:
        self._env, self._views = env, views
        self._high = env.action_space.high  # type: ignore[attr-defined]
        self._numbers, self._pictures = [observation[PROPRIOCEPTION]], [self._shown(observation)]
        self._actions: list[NDArray[np.float32]] = []
        self._rewards: list[float] = []
        self._by: list[str] = []
        self._observed_s: list[float] = []
        self._stages: list[int] = []
        self._said = env.robot.observed.label[0]

    def add(self, observation: dict[str, Any], reward: float, infos: dict[str, Any]) -> None:
        """One period, as `RobotEnv.step` returns it. The action is the one that was executed."""
        count, word = self._env.robot.observed.label
        if count > self._said and word == "stage":
            self._stages.append(len(self._actions) + 1)
        self._said = count
        self._numbers.append(observation[PROPRIOCEPTION])
        self._pictures.append(self._shown(observation))
        self._actions.append(np.clip(infos["executed"] / self._high, -1.0, 1.0))
        self._rewards.append(reward)
        self._by.append(infos["by"])
        self._observed_s.append(infos["observed_s"])

    def demonstration(self, name: str, instruction: str, success: bool, seed: int) -> Demonstration | None:
        """The episode from its first motion on; None if nothing moved."""
        moves = [step for step, action in enumerate(self._actions) if np.abs(action).max() > STILL]
        if not moves:
            return None
        first = moves[0]
        self._by, self._observed_s = self._by[first:], self._observed_s[first:]
        count = len(self._actions) - first
        between = sorted({step - first for step in self._stages if 0 < step - first < count})
        return Demonstration(
            episode_id=name,
            instructions=(instruction,),
            frames=np.stack(self._pictures[first:]),
            frame_steps=np.arange(count + 1),
            keyframes=np.array([0, *between, count], np.int64),
            stages=tuple(f"stage {number}" for number in range(1, len(between) + 2)),
            observations=np.stack(self._numbers[first:]),
            actions=np.stack(self._actions[first:]),
            task_rewards=np.array(self._rewards[first:], np.float32),
            terminated=success,
            success=success,
            seed=seed,
        )

    def about(self) -> str:
        """The content of PERIODS."""
        names = {"state": list(self._env.proprioception), "action": list(self._env.actions)}
        return json.dumps({"by": self._by, "observed_s": self._observed_s, **names, "step": self._high.tolist()})

    def _shown(self, observation: dict[str, Any]) -> NDArray[np.uint8]:
        return np.stack([observation[name] for name in self._views])


def record_episode(
    env: RobotEnv, out: Path, name: str, instruction: str, views: Sequence[str], most_periods: int, seed: int = 0
) -> str:
    """Record one episode that a person drives; it ends when they say how it went, or after so many periods.

    Args:
        env: the robot; its success is "key" or a sensor.
        out: folder of raw episodes.
        name: of the episode.
        views: pictures to record, the front view first.
    Returns:
        What came of it: "success", "failure", or "discarded", also where nothing moved or the robot was lost.
    """
    observation, _ = env.reset(seed=seed)
    periods, rest = Periods(env, views, observation), np.zeros(env.action_space.shape or (), np.float32)
    infos: dict[str, Any] = {}
    for _ in range(most_periods):
        observation, reward, terminated, truncated, infos = env.step(rest)
        if infos["lost"]:
            return "discarded"
        periods.add(observation, reward, infos)
        if terminated or truncated:
            break
    episode = periods.demonstration(name, instruction, bool(infos["success"]), seed)
    if episode is None or infos["label"] == "discard":
        return "discarded"
    folder = write_demonstration(out, episode)
    write_text(folder / PERIODS, periods.about())
    return "success" if episode.success else "failure"


def check_recording(env: RobotEnv, views: Sequence[str]) -> None:
    """Raise BadInput unless the robot has these cameras."""
    for view in views:
        if view not in env.pictures:
            raise BadInput("--views", list(views), one_of(view, env.pictures))
    if not 1 <= len(views) <= MOST_VIEWS or len(set(views)) < len(views):
        raise BadInput("--views", list(views), f"name 1 to {MOST_VIEWS} cameras, each once")
