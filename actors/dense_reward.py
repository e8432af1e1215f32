"""An environment that pays ManiSkill's own dense reward, made by hand from the simulator's state: to compare with."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.experts.disturbed import simulated
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Demonstration

REPLAY_TOLERANCE = 1e-3
"""Observations, which are of order one, may differ by this much between an episode and its replay."""


class DenseReward(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Pays (1 − γ)d at each step, d being ManiSkill's normalised dense reward of the state after it; 1 for a success.

    ManiSkill pays d ∈ [0, 1] a step, 1 in success, and its SAC baseline learns as if episodes went on in success
    (`bootstrap_at_done = "always"`): there a success is worth 1 a step for ever, 1/(1 − γ). Here it ends the episode,
    so its step pays all of that at once; else hovering at d = .6 would be worth .6/(1 − γ), and a success 1. The
    factor 1 − γ makes a success worth 1, as with the task's own reward; hovering at d for ever is worth d. So to
    finish always pays more than to hover.

    Args:
        env: the peg insertion.
        gamma: discount of the learner, in (0, 1).
    Source: mani_skill.envs.tasks.tabletop.peg_insertion_side, compute_normalized_dense_reward.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], gamma: float) -> None:
        super().__init__(env)
        self._simulated, self._gamma = simulated(env), gamma

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act; infos, and `success` among them, are the environment's."""
        observation, _, terminated, truncated, infos = self.env.step(action)
        reward = 1.0 if infos["success"] else (1.0 - self._gamma) * self._simulated.dense_reward()
        return observation, reward, terminated, truncated, infos


def rewards_of(env: DenseReward, episode: Demonstration) -> NDArray[np.float32]:
    """The rewards of a recorded episode, float32 [T]: its actions are replayed from the start that its seed names.

    Raises:
        BadInput: the replay goes another way, as in an environment with other settings.
    """
    options = {"pictures": False, "blind": True}
    observed, rewards = [env.reset(seed=episode.seed, options=options)[0]], []
    for action in episode.actions:
        observation, reward, *_ = env.step(action)
        observed.append(observation)
        rewards.append(reward)
    if not np.allclose(observed, episode.observations, rtol=0.0, atol=REPLAY_TOLERANCE):
        fix = "record it again on this machine, in an environment with these settings: its replay goes another way"
        raise BadInput("demonstrations", episode.episode_id, fix)
    return np.array(rewards, np.float32)
