from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dopamine_rl.policy import DeterministicPolicy, save_policy
from learner.algorithms.bc import train_bc
from learner.algorithms.common import Task
from learner.algorithms.ppo import make_ppo_config
from learner.config import CloningConfig, LearnerConfig
from tests.learner import toy
from tests.learner.labeller import GAMMA, Labeller

LEARNER = LearnerConfig(
    algorithm="ppo",
    hidden=(32, 32),
    initial_std=0.5,
    num_env_runners=0,
    num_envs_per_env_runner=4,
    rollout_fragment_length=128,
    steps_per_iteration=512,
    ppo_batch_size=512,
    ppo_minibatch_size=128,
    ppo_lr=1e-3,
)
TASK = Task(toy.PointReach, callbacks=Labeller, gamma=GAMMA, seed=1)


@pytest.mark.ray
def test_ppo_learns_the_toy_task_from_the_labellers_reward(cluster: None) -> None:
    algorithm = make_ppo_config(TASK, LEARNER).build_algo()
    before = toy.success_rate(DeterministicPolicy(algorithm.policy_state()))
    rate = 0.0
    for _ in range(30):
        algorithm.train()
        rate = toy.success_rate(DeterministicPolicy(algorithm.policy_state()))
        if rate >= 0.9:
            break
    assert before < 0.5
    assert rate >= 0.9
    algorithm.stop()


@pytest.mark.ray
def test_ppo_begins_with_the_clone(cluster: None, tmp_path: Path) -> None:
    episodes = toy.demonstrations(3)
    observations, actions = (np.concatenate([e.columns[name] for e in episodes]) for name in ("obs", "actions"))
    lengths = np.array([len(e.columns["actions"]) for e in episodes])
    cloned = train_bc(observations, actions, lengths, (32, 32), CloningConfig(updates=50), seed=0)
    save_policy(tmp_path / "bc.safetensors", cloned.state)
    algorithm = make_ppo_config(TASK, LEARNER, str(tmp_path / "bc.safetensors")).build_algo()
    state = algorithm.policy_state()
    assert all((state[name] == values).all() for name, values in cloned.state.items() if "log_std" not in name)
    runner = algorithm.env_runner.module.get_state()
    np.testing.assert_array_equal(runner["actor.mean.weight"], cloned.state["actor.mean.weight"])
    algorithm.stop()
