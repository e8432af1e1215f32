from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.policy import DeterministicPolicy, load_policy, save_policy
from learner.algorithms.bc import BLOCK, BCResult, _validation_rows, train_bc
from learner.algorithms.networks import CriticEnsemble, Policy, better_action
from learner.config import CloningConfig
from tests.learner import toy

CONFIG = CloningConfig(updates=400, check_every=50)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    episodes = [episode.columns for episode in toy.demonstrations(8)]
    joined = [np.concatenate([columns[name] for columns in episodes]) for name in ("obs", "actions")]
    return joined[0], joined[1], np.array([len(columns["actions"]) for columns in episodes])


@pytest.fixture(scope="module")
def cloned(data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> BCResult:
    return train_bc(*data, (32, 32), CONFIG, seed=0)


def test_the_clone_solves_the_toy_task(cloned: BCResult) -> None:
    assert cloned.validation_loss < 0.12
    assert cloned.training_loss < 0.12
    assert toy.success_rate(DeterministicPolicy(cloned.state)) >= 0.9


def test_the_seed_decides_everything(data: tuple[np.ndarray, np.ndarray, np.ndarray], cloned: BCResult) -> None:
    torch.manual_seed(123)
    again = train_bc(*data, (32, 32), CONFIG, seed=0)
    assert all((again.state[name] == cloned.state[name]).all() for name in cloned.state)


def test_learning_begins_with_exactly_the_clone(cloned: BCResult, tmp_path: Path) -> None:
    save_policy(tmp_path / "bc.safetensors", cloned.state)
    numpy_policy = DeterministicPolicy.load(tmp_path / "bc.safetensors")
    observations = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    for scale in (0.0, 0.3):
        policy = Policy(2, 2, (32, 32), initial_std=0.05, residual_scale=scale)
        policy.start_from(load_policy(tmp_path / "bc.safetensors"))
        with torch.no_grad():
            normalised = policy.actor.normalise(torch.from_numpy(observations))
            actions = policy.act(normalised)
            log_std = policy.actor(normalised)[1]
        np.testing.assert_allclose(actions.numpy(), numpy_policy(observations), atol=1e-5)
        np.testing.assert_allclose(log_std.exp().numpy(), 0.05, rtol=1e-5)


def test_a_clone_stands_still_where_it_knows_nothing(data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    config = replace(CONFIG, observation_noise=0.2, still_share=0.3)
    still = DeterministicPolicy(train_bc(*data, (32, 32), config, seed=0).state)
    away = np.random.default_rng(0).normal(size=(200, 2))
    away = (data[0].mean(0) + 8.0 * data[0].std(0) * away / np.linalg.norm(away, axis=1, keepdims=True)).astype(
        np.float32
    )
    assert np.abs(still(away)).mean() < 0.3
    assert np.abs(DeterministicPolicy(train_bc(*data, (32, 32), CONFIG, seed=0).state)(away)).mean() > 0.6
    assert np.abs(still(data[0]) - data[1]).mean() < 0.35


def test_noise_alone_changes_the_clone_and_settings_are_checked(
    data: tuple[np.ndarray, np.ndarray, np.ndarray], cloned: BCResult
) -> None:
    noisy = train_bc(*data, (32, 32), replace(CONFIG, observation_noise=0.3), seed=0)
    assert any((noisy.state[name] != cloned.state[name]).any() for name in cloned.state)
    assert toy.success_rate(DeterministicPolicy(noisy.state)) >= 0.9
    for name, value in (("observation_noise", -1.0), ("still_share", 1.0), ("still_spread", 0.0)):
        with pytest.raises(BadInput, match=f"cloning.{name}"):
            replace(CONFIG, **{name: value})


def test_a_trained_residual_acts_alike_in_numpy(cloned: BCResult, tmp_path: Path) -> None:
    policy = Policy(2, 2, (32, 32), initial_std=0.05, residual_scale=0.3)
    policy.start_from(cloned.state)
    torch.nn.init.normal_(policy.actor.mean.weight)
    state = {name: value.numpy() for name, value in policy.state_dict().items()}
    save_policy(tmp_path / "residual.safetensors", {**state, "residual_scale": np.array(0.3, np.float32)})
    numpy_policy = DeterministicPolicy.load(tmp_path / "residual.safetensors")
    observations = np.random.default_rng(0).normal(size=(3, 50, 2)).astype(np.float32)
    with torch.no_grad():
        actions = policy.act(policy.actor.normalise(torch.from_numpy(observations)))
    np.testing.assert_allclose(actions.numpy(), numpy_policy(observations), atol=1e-5)
    assert not np.allclose(actions.numpy(), DeterministicPolicy(cloned.state)(observations), atol=0.05)


def test_a_policy_that_chooses_acts_alike_in_numpy(cloned: BCResult, tmp_path: Path) -> None:
    policy, critic = Policy(2, 2, (32, 32), initial_std=0.05, residual_scale=0.3), CriticEnsemble(2, 2, (16, 8), 3)
    policy.start_from(cloned.state)
    for weights in (policy.actor.mean.weight, *critic.gains, *critic.shifts):
        torch.nn.init.normal_(weights)
    state = {name: value.numpy() for name, value in policy.state_dict().items()}
    state |= {f"critic.{name}": value.numpy() for name, value in critic.state_dict().items()}
    save_policy(tmp_path / "chooses.safetensors", {**state, "residual_scale": np.array(0.3, np.float32)})
    observations = np.random.default_rng(0).normal(size=(3, 50, 2)).astype(np.float32)
    with torch.no_grad():
        normalised = policy.actor.normalise(torch.from_numpy(observations.reshape(-1, 2)))
        base, residual = policy.base_action(normalised), policy.act(normalised)
        actions = better_action(critic, normalised, residual, base).reshape(observations.shape)
    numpy_policy = DeterministicPolicy.load(tmp_path / "chooses.safetensors")
    np.testing.assert_allclose(actions.numpy(), numpy_policy(observations), atol=1e-5)
    np.testing.assert_allclose(actions[0, 0].numpy(), numpy_policy(observations[0, 0]), atol=1e-5)
    share = (actions.reshape(-1, 2) == base).all(-1).float().mean()
    assert 0.1 < share < 0.9


def test_bad_input_is_named(data: tuple[np.ndarray, np.ndarray, np.ndarray], cloned: BCResult) -> None:
    observations, actions, lengths = data
    with pytest.raises(BadInput, match="episode_lengths"):
        train_bc(observations, actions, lengths[:-1], (32, 32), CONFIG, seed=0)
    with pytest.raises(BadInput, match="at least one"):
        train_bc(observations[:0], actions[:0], lengths[:0], (32, 32), CONFIG, seed=0)
    with pytest.raises(BadInput, match="at least 3 transitions"):
        train_bc(observations[:2], actions[:2], np.array([2]), (32, 32), CONFIG, seed=0)
    with pytest.raises(BadInput, match="observations"):
        train_bc(np.full_like(observations, np.nan), actions, lengths, (32, 32), CONFIG, seed=0)
    with pytest.raises(BadInput, match="sizes"):
        Policy(2, 2, (8,), 0.1).start_from(cloned.state)
    with pytest.raises(BadInput, match="observations"):
        DeterministicPolicy(cloned.state)(np.zeros(5, np.float32))


def test_a_file_that_is_no_policy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    for path in (tmp_path / "x.safetensors", tmp_path / "absent.safetensors"):
        with pytest.raises(CheckpointError):
            load_policy(path)


def test_one_demonstration_is_enough() -> None:
    [episode] = toy.demonstrations(1)
    count = len(episode.columns["actions"])
    data = episode.columns["obs"], episode.columns["actions"], np.array([count])
    cloned, again = (train_bc(*data, (32, 32), CONFIG, seed=0) for _ in range(2))
    assert cloned.validation_loss < 1.0
    assert cloned.kept_update > 0
    assert all((again.state[name] == cloned.state[name]).all() for name in cloned.state)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("count", [3, 4, 7, 40, 201])
def test_of_one_demonstration_blocks_are_held_out(share: float, count: int) -> None:
    for seed in range(5):
        held_out = _validation_rows(np.array([count]), share, torch.Generator().manual_seed(seed)).numpy()
        assert 1 <= held_out.sum() <= count / 2
        assert held_out.sum() == pytest.approx(min(share, 0.5) * count, abs=3)
        if count >= 9:
            runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], held_out, [0]]))))[::2]
            assert (runs % BLOCK == 0).all()
