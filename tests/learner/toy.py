"""A point on a plane that must reach the origin: the smallest task that has progress, an end and a time limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from dopamine_rl.types import LabelColumns
from learner.demonstrations import ReplayEpisode, transition_columns

RADIUS, STRIDE, LIMIT = 0.15, 0.2, 30


class PointReach(gymnasium.Env[Any, Any]):
    """Observation: the point. Action: its displacement in units of STRIDE. Reward 1 and termination within RADIUS."""

    def __init__(self, env_config: Mapping[str, Any] | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-4.0, 4.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        angle = self.np_random.uniform(0, 2 * np.pi)
        self.point = 1.2 * np.array([np.cos(angle), np.sin(angle)], np.float32)
        self.time = 0
        return self.point.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.point = np.clip(self.point + STRIDE * np.clip(action, -1, 1), -4, 4).astype(np.float32)
        self.time += 1
        reached = bool(np.linalg.norm(self.point) < RADIUS)
        return self.point.copy(), float(reached), reached, self.time >= LIMIT and not reached, {}


def expert(observation: Any, rng: np.random.Generator, noise: float = 0.3) -> Any:
    """A noisy step towards the origin."""
    return np.clip(-observation / STRIDE / 2 + noise * rng.standard_normal(2), -1, 1).astype(np.float32)


def potential(observations: Any) -> Any:
    """Progress in [0, 1]: how near the origin."""
    return np.clip(1.0 - np.linalg.norm(observations, axis=-1) / 1.2, 0.0, 1.0).astype(np.float32)


def labels(observations: Any, rewards: Any, terminated: bool, version: str = "toy") -> LabelColumns:
    """Labels of T transitions with the true progress as potential."""
    values = potential(observations)
    after = values[1:].copy()
    if terminated:
        after[-1] = 0.0
    count = len(rewards)
    task_rewards, age = np.asarray(rewards, np.float32), np.zeros(count, np.float32)
    return LabelColumns(task_rewards, values[:-1], after, np.ones(count, bool), age, age, version)


def demonstrations(count: int, seed: int = 0, labelled: bool = True) -> list[ReplayEpisode]:
    """Episodes of the noisy expert."""
    env, rng, episodes = PointReach(), np.random.default_rng(seed), []
    for index in range(count):
        observation, _ = env.reset(seed=seed * 1000 + index)
        observations, actions, rewards, ended = [observation], [], [], False
        while not ended:
            actions.append(expert(observation, rng))
            observation, reward, terminated, truncated, _ = env.step(actions[-1])
            observations.append(observation)
            rewards.append(reward)
            ended = terminated or truncated
        stacked = np.stack(observations)
        marks = labels(stacked, rewards, terminated) if labelled else None
        columns = transition_columns(stacked, np.stack(actions), np.array(rewards), terminated, marks)
        episodes.append(ReplayEpisode(f"demo_{index}", columns, "toy" if labelled else ""))
    return episodes


def success_rate(policy: Any, episodes: int = 20, seed: int = 999) -> float:
    """Share of episodes in which the policy reaches the origin."""
    env, wins = PointReach(), 0
    for index in range(episodes):
        observation, _ = env.reset(seed=seed + index)
        ended = False
        while not ended:
            observation, _, terminated, truncated, _ = env.step(policy(observation))
            ended = terminated or truncated
        wins += terminated
    return wins / episodes
