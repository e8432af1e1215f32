from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.rllib.core.columns import Columns

from dopamine_rl.policy import DeterministicPolicy, save_policy
from learner.algorithms.actor_critic import HELD, ActorCriticModule, held_columns
from learner.algorithms.bc import train_bc
from learner.algorithms.common import TrainingSetup
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
TASK = TrainingSetup(toy.PointReach, callbacks=Labeller, gamma=GAMMA, seed=1)


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


@pytest.mark.parametrize(("runners", "environments"), [(2, 3), (1, 1), (7, 5)])
def test_a_batch_need_not_be_a_multiple_of_the_fragments(runners: int, environments: int) -> None:
    learner = replace(LEARNER, num_env_runners=runners, num_envs_per_env_runner=environments, ppo_batch_size=200)
    make_ppo_config(TASK, replace(learner, ppo_minibatch_size=50, rollout_fragment_length=8)).validate()


def test_the_held_potential_of_a_fragment_covers_its_last_observation() -> None:
    labels = replace(
        toy.labels(np.array([[1.2, 0.0], [0.6, 0.0], [0.3, 0.0]]), np.zeros(2), terminated=False),
        phase=np.array([0.0, 0.5], np.float32),
        next_phase=np.array([0.5, 0.75], np.float32),
    )
    np.testing.assert_allclose(held_columns(labels, 3), [[0.0, 0.0], [0.5, 0.5], [0.75, 0.75]])
    np.testing.assert_array_equal(held_columns(None, 3), np.zeros((3, 2)))


@pytest.mark.ray
@pytest.mark.parametrize("sees", [True, False])
def test_the_value_network_sees_the_held_potential_at_every_observation(
    cluster: None, monkeypatch: pytest.MonkeyPatch, sees: bool
) -> None:
    batches, compute = [], ActorCriticModule.compute_values

    def watched(self: ActorCriticModule, batch: dict[str, Any], embeddings: Any = None) -> Any:
        batches.append({name: values.numpy().copy() for name, values in batch.items() if hasattr(values, "numpy")})
        return compute(self, batch, embeddings)

    monkeypatch.setattr(ActorCriticModule, "compute_values", watched)
    algorithm = make_ppo_config(TASK, replace(LEARNER, critic_sees_potential=sees, ppo_epochs=1)).build_algo()
    algorithm.train()
    value = algorithm.learner_group._learner.module["default_policy"].value
    assert value[0].in_features == 2 + 2 * sees
    assert all((HELD in batch) == sees for batch in batches)
    if sees:
        # The first batch lies in order: an artificial last observation of each fragment is masked, and 0 after an end.
        first = batches[0]
        ended = np.append(False, first[Columns.TERMINATEDS][:-1].astype(bool))
        expected = np.where(ended, 0.0, toy.potential(first[Columns.OBS]))
        np.testing.assert_allclose(first[HELD][:, 0], expected, atol=1e-6)
        assert len(np.unique(first[HELD][:, 0])) > 50
    algorithm.stop()
