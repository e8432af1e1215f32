"""A training whose losses or weights are not finite ends, and nothing of it is sent or saved."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dopamine_rl.errors import BadInput, CheckpointError, Diverged
from dopamine_rl.policy import DeterministicPolicy, load_policy, save_policy
from learner.algorithms.bc import train_bc
from learner.algorithms.common import TrainingSetup
from learner.algorithms.finite import require_finite_weights
from learner.algorithms.rlpd_learner import require_finite_losses
from learner.algorithms.table import Data, make_config
from learner.algorithms.updater import LOSSES
from learner.config import CloningConfig, LearnerConfig
from tests.learner import toy
from tests.learner.labeller import GAMMA, Labeller

LEARNER = LearnerConfig(
    hidden=(16,),
    batch_size=16,
    critics=2,
    learning_starts=20,
    num_env_runners=0,
    steps_per_iteration=40,
    ppo_batch_size=64,
    ppo_minibatch_size=32,
    ppo_epochs=1,
)


@pytest.mark.parametrize("column", range(len(LOSSES)))
def test_one_loss_of_one_update_is_found(column: int) -> None:
    losses = torch.zeros(6, len(LOSSES))
    moved = [False, True] * 3
    losses[::2, 2:4] = torch.nan  # no actor's losses where it did not move
    require_finite_losses(losses, moved, 101)
    losses[3, column] = torch.inf
    with pytest.raises(Diverged, match=f"{LOSSES[column]} = inf at update 104: ") as error:
        require_finite_losses(losses, moved, 101)
    copy = pickle.loads(pickle.dumps(error.value))
    assert (copy.column, copy.update, str(copy)) == (LOSSES[column], 104, str(error.value))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_are_named(value: float) -> None:
    layer = torch.nn.Linear(2, 2)
    require_finite_weights(layer.named_parameters(), 3)
    with torch.no_grad():
        layer.bias[1] = value
    with pytest.raises(Diverged, match=r"weights of bias = (nan|inf) at update 3"):
        require_finite_weights(layer.named_parameters(), 3)


POISON = {
    "rlpd": ("critic.", "critic_loss|q_mean"),
    "ppo": ("value.", "policy_loss|vf_loss"),
    "appo": ("value.", "policy_loss|vf_loss"),
}


@pytest.mark.ray
@pytest.mark.parametrize("name", list(POISON))
@pytest.mark.parametrize("value", [np.nan, 1e38])
def test_a_poisoned_critic_ends_the_training_and_leaves_the_checkpoint(
    cluster: None, tmp_path: Path, name: Any, value: float
) -> None:
    from learner.training import Progress, save_checkpoint

    task = TrainingSetup(toy.PointReach, callbacks=Labeller, gamma=GAMMA)
    whole_batches: Any = {"ppo_minibatch_size": 256, "vtrace_batch_size": 32} if name == "appo" else {}
    learner = replace(LEARNER, algorithm=name, **whole_batches)
    algorithm = make_config(task, learner, Data("grm")).build_algo()
    algorithm.train()
    save_checkpoint(tmp_path / "checkpoint", algorithm, Progress(), "key", {})
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoint").rglob("*") if path.is_file()}
    sent = algorithm.env_runner.module.get_state()
    module = algorithm.learner_group._learner.module["default_policy"]
    prefix, column = POISON[name]
    with torch.no_grad():
        next(weights for key, weights in module.named_parameters() if key.startswith(prefix)).fill_(value)
    with pytest.raises(Diverged, match=rf"^({column}|weights of .*) ?\w* = (nan|-?inf) at update \d+: "):
        algorithm.train()
    for spread in (
        algorithm.acting.publish,
        algorithm.policy_state,
        lambda: save_checkpoint(tmp_path / "checkpoint", algorithm, Progress(), "key", {}),
    ):
        with pytest.raises(Diverged):
            spread()
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoint").rglob("*") if path.is_file()} == before
    for key, values in algorithm.env_runner.module.get_state().items():
        np.testing.assert_array_equal(values, sent[key])
    algorithm.stop()


def test_cloning_says_when_it_diverges(monkeypatch: Any) -> None:
    episodes = toy.demonstrations(4)
    observations, actions = (np.concatenate([e.columns[name] for e in episodes]) for name in ("obs", "actions"))
    lengths = np.array([len(e.columns["actions"]) for e in episodes])
    huge = np.full_like(observations, 3e38)
    huge[::2] *= -1
    with pytest.raises(Diverged, match=r"training_loss = nan at update 1: lower cloning\.learning_rate"):
        train_bc(huge, actions, lengths, (8,), CloningConfig(updates=40, check_every=20), seed=0)


def test_a_policy_that_is_not_finite_is_neither_written_nor_read(tmp_path: Path, monkeypatch: Any) -> None:
    from safetensors.numpy import save_file

    names = ("actor.mean.bias", "actor.observation_mean", "actor.observation_std")
    state = {"actor.mean.weight": np.full((2, 2), np.nan, np.float32), **dict.fromkeys(names, np.ones(2, np.float32))}
    with pytest.raises(BadInput, match=r"actor\.mean\.weight = 'nan or inf'"):
        save_policy(tmp_path / "policy.safetensors", state)
    assert not list(tmp_path.iterdir())
    save_file(state, tmp_path / "old.safetensors")
    for read in (load_policy, DeterministicPolicy.load):
        with pytest.raises(CheckpointError, match="diverged"):
            read(tmp_path / "old.safetensors")
