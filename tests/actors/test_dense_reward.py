"""ManiSkill's dense reward as the task's reward: what is paid, that finishing pays most, and a recording's rewards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest

from actors.dense_reward import DenseReward, rewards_of
from actors.envs import make_env
from actors.experts.peg import PegInsertionExpert
from actors.maniskill import EnvConfig, PegInsertionEnv
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Demonstration
from tests.dopamine_rl.test_gate import success

GAMMA = 0.97


class Hole(gymnasium.Env[Any, Any]):
    """Its dense reward is the action until an action above 1 ends the task; time runs out after `horizon` steps."""

    observation_space = action_space = gymnasium.spaces.Box(-1.0, 2.0, (1,))

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.time = 0
        return np.zeros(1, np.float32), {"success": False}

    def step(self, action: Any) -> Any:
        self.time += 1
        self.level = min(float(action), 1.0)
        won = float(action) > 1.0
        return np.zeros(1, np.float32), float(won), won, not won and self.time == self.horizon, {"success": won}

    def dense_reward(self) -> float:
        return self.level


def played(actions: list[float], horizon: int) -> tuple[list[float], Any]:
    env = DenseReward(Hole(horizon), GAMMA)  # type: ignore[arg-type]
    env.reset(seed=0)
    steps = [env.step(np.float32(action)) for action in actions]
    return [step[1] for step in steps], steps[-1]


def test_every_step_pays_its_share_and_a_success_pays_one_for_ever_at_once() -> None:
    rewards, (_, _, terminated, truncated, infos) = played([0.5, 0.9, 2.0], horizon=9)
    assert rewards == pytest.approx([0.03 * 0.5, 0.03 * 0.9, 1.0])
    assert (terminated, truncated, infos) == (True, False, {"success": True})
    rewards, (_, _, terminated, truncated, infos) = played([1.0, 1.0], horizon=2)
    assert rewards == pytest.approx([0.03, 0.03])  # the best state that is no success
    assert (terminated, truncated, infos) == (False, True, {"success": False})


@pytest.mark.parametrize("level", [0.0, 0.6, 0.99])
def test_to_finish_pays_more_than_to_hover_for_ever(level: float) -> None:
    """With a success worth one step's reward, hovering at .6 would be worth 20 of them."""
    ever = 3000
    hovering, _ = played([level] * ever, horizon=ever)
    assert float(hovering @ GAMMA ** np.arange(ever)) == pytest.approx(level)
    finishing, _ = played([level] * 5 + [2.0], horizon=ever)
    assert float(finishing @ GAMMA ** np.arange(6)) > float(hovering @ GAMMA ** np.arange(ever))


@pytest.fixture(scope="module")
def env() -> Iterator[PegInsertionEnv]:
    env = make_env(EnvConfig(views=(), lateral_m=0.03))
    assert isinstance(env, PegInsertionEnv)
    yield env
    env.close()


@pytest.fixture(scope="module")
def episode(env: PegInsertionEnv) -> Demonstration:
    """A success of the scripted expert, without pictures."""
    seed = 1200
    observations, actions, expert, ended = [env.reset(seed=seed)[0]], [], PegInsertionExpert(), False
    expert.reset(env, np.random.default_rng(0))
    while not ended:
        actions.append(expert.act(env))
        observation, _, terminated, truncated, _ = env.step(actions[-1])
        observations.append(observation)
        ended = terminated or truncated
    recorded = {"observations": np.stack(observations), "actions": np.stack(actions), "seed": seed}
    return replace(success(), success=terminated, terminated=terminated, **recorded)


def test_the_simulator_s_own_reward_rises_from_the_start_to_success(
    env: PegInsertionEnv, episode: Demonstration
) -> None:
    """An expert's episode, paid by replaying it: grasped from the start, aligned, inserted."""
    assert episode.success
    rewards = rewards_of(DenseReward(env, GAMMA), episode)
    assert rewards.shape == (len(episode.actions),)
    assert rewards[-1] == 1.0
    levels = rewards[:-1] / (1.0 - GAMMA)
    assert 0.4 < levels[0] < 0.5  # 2 of 10 for the grasp, and a part of 3 for the alignment
    assert 0.9 < levels[-1] < 1.0
    assert (np.diff(levels) > -0.01).all()
    info = env._peg_scene.evaluate()
    assert env.dense_reward() == pytest.approx(1.0)
    nothing: Any = None
    assert float(env._peg_scene.compute_dense_reward(nothing, nothing, info)[0]) == pytest.approx(10.0)


def test_an_episode_whose_replay_goes_another_way_is_refused(env: PegInsertionEnv, episode: Demonstration) -> None:
    begins_elsewhere = replace(episode, seed=1202)
    with pytest.raises(BadInput, match=r"demonstrations = .*record it again"):
        rewards_of(DenseReward(env, GAMMA), begins_elsewhere)
