"""All algorithms through one table: what they accept, and that the newer ones learn, are labelled, and resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.appo.torch import appo_torch_learner
from ray.rllib.algorithms.impala.torch import impala_torch_learner

from dopamine_rl.errors import BadInput
from dopamine_rl.policy import DeterministicPolicy, save_policy
from learner.algorithms.bc import train_bc
from learner.algorithms.common import TrainingSetup
from learner.algorithms.table import ALGORITHMS, Data, make_config
from learner.config import SAC, Algorithm, CloningConfig, LearnerConfig, unused
from tests.learner import toy
from tests.learner.labeller import GAMMA, Labeller

LEARNER = LearnerConfig(
    hidden=(32, 32),
    initial_std=0.5,
    num_env_runners=0,
    num_envs_per_env_runner=4,
    rollout_fragment_length=32,
    steps_per_iteration=256,
    vtrace_batch_size=128,
    ppo_lr=3e-3,
    learning_starts=100,
    batch_size=64,
)
TASK = TrainingSetup(toy.PointReach, callbacks=Labeller, gamma=GAMMA, seed=1)


@pytest.fixture
def cloned(tmp_path: Path) -> str:
    """A cloned policy with other widths than the learner's."""
    episodes = toy.demonstrations(3)
    observations, actions = (np.concatenate([e.columns[name] for e in episodes]) for name in ("obs", "actions"))
    lengths = np.array([len(e.columns["actions"]) for e in episodes])
    state = train_bc(observations, actions, lengths, (24,), CloningConfig(updates=20, check_every=10), seed=0).state
    save_policy(tmp_path / "bc.safetensors", state)
    return str(tmp_path / "bc.safetensors")


def test_the_table_has_every_algorithm_and_only_ppo_waits_for_labels() -> None:
    assert set(ALGORITHMS) == set(get_args(Algorithm))
    assert [name for name, entry in ALGORITHMS.items() if entry.waits_for_labels] == ["ppo"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_accepts_the_defaults(name: Algorithm, cloned: str) -> None:
    make_config(TASK, LearnerConfig(name, num_env_runners=2), Data("grm", initial_policy=cloned)).validate()


def test_settings_of_other_algorithms_are_named() -> None:
    """Those that a preset set for RLPD, say, are no error where another algorithm is chosen."""
    preset = {"critics": 6, "updates_per_step": 3.0, "practice": True, "ppo_lr": 1e-3, "hidden": (64,)}
    assert set(unused(LearnerConfig(**preset))) == {"ppo_lr"}
    for name in ("ppo", "appo", "impala"):
        assert set(unused(LearnerConfig(algorithm=name, **preset))) == {"critics", "updates_per_step", "practice"}
    assert unused(LearnerConfig(algorithm="ppo", vtrace_batch_size=64)) == {"vtrace_batch_size": 64}
    assert unused(LearnerConfig(algorithm="appo", vtrace_batch_size=64)) == {}


def test_sac_is_rlpd_with_the_settings_of_sac() -> None:
    set_otherwise = {"residual_scale": 0.3, "updates_per_step": 3.0, "critics": 10, "practice": True}
    learner = LearnerConfig("sac", hidden=(8,), **set_otherwise)  # type: ignore[arg-type]
    assert {name: getattr(learner, name) for name in SAC} == SAC
    assert learner.hidden == (8,)
    assert LearnerConfig(**set_otherwise).critics == 10  # type: ignore[arg-type]
    data = Data("grm", demonstrations="of a preset's run", initial_policy="bc.safetensors")
    assert make_config(TASK, learner, data).demonstrations is None


@pytest.mark.parametrize(
    ("algorithm", "changes", "lack"),
    [
        ("sac", {"promote": 5}, "no demonstrations"),
        ("sac", {"choose": True}, "no clone"),
        ("ppo", {"n_step": 3}, "no replay buffer"),
        ("appo", {"imitation": 0.1}, "no replay buffer"),
        ("appo", {"gae_lambda": 0.9}, "GAE"),
        ("impala", {"ppo_minibatch_size": 64}, "minibatches"),
        ("impala", {"ppo_epochs": 4}, "passes"),
        ("impala", {"ppo_clip": 0.1}, "clipping"),
        ("impala", {"vtrace_batch_size": 0}, "at least 1"),
    ],
)
def test_a_setting_that_the_algorithm_cannot_honour_is_refused(
    algorithm: Algorithm, changes: Mapping[str, Any], lack: str
) -> None:
    (name,) = changes
    with pytest.raises(BadInput, match=rf"learner\.{name} = .*{lack}"):
        LearnerConfig(algorithm, **changes)


def slow_vtrace(rewards: Any, values: Any, ratios: Any, terminated: bool) -> Any:
    """V-trace targets of one fragment, by their definition: `values` has one more entry, of the last observation."""
    count, ratios = len(rewards), np.minimum(ratios, 1.0)
    after = np.array(values[1:])
    after[-1] *= not terminated
    targets = np.empty(count)
    for start in range(count):
        targets[start] = values[start] + sum(
            GAMMA ** (t - start) * ratios[start : t + 1].prod() * (rewards[t] + GAMMA * after[t] - values[t])
            for t in range(start, count)
        )
    return targets


@pytest.mark.parametrize("name", ["appo", "impala"])
def test_every_fragment_is_bootstrapped_from_its_last_observation(name: Algorithm, monkeypatch: Any) -> None:
    """Fragments of all lengths, cut, truncated and terminated ones, in one batch."""
    learner = replace(LEARNER, algorithm=name, rollout_fragment_length=7)
    config = make_config(TASK, learner)
    runner = config.env_runner_cls(config=config, worker_index=0)
    fragments = [fragment for _ in range(9) for fragment in runner.sample()]
    next(fragment for fragment in fragments if not fragment.is_done).is_terminated = True
    rewards = [np.array(fragment.get_rewards()) for fragment in fragments]
    ended = [(fragment.is_terminated, fragment.is_truncated) for fragment in fragments]
    assert min(map(len, rewards)) < max(map(len, rewards)) == 7
    assert {(False, False), (False, True), (True, False)} == set(ended)

    calls, module = [], appo_torch_learner if name == "appo" else impala_torch_learner
    vtrace = module.vtrace_torch

    def watched(**arguments: Any) -> Any:
        targets = vtrace(**arguments)
        calls.append((arguments, targets[0].flatten().numpy()))
        return targets

    monkeypatch.setattr(module, "vtrace_torch", watched)
    built = config.build_learner(spaces=runner.get_spaces())
    built.build()
    with torch.no_grad():  # an older policy acted: the ratios are not all 1
        built.module["default_policy"].actor.mean.bias += 0.3
    built.update(episodes=fragments, timesteps={})

    arguments, targets = calls[0]
    flat = {key: value.flatten().detach().numpy() for key, value in arguments.items() if torch.is_tensor(value)}
    ratios = np.exp(flat["target_action_log_probs"] - flat["behaviour_action_log_probs"])
    first = 0
    for each, (terminated, _) in zip(rewards, ended, strict=True):
        steps = slice(first, first + len(each))
        values = flat["values"][first : first + len(each) + 1]
        np.testing.assert_allclose(
            targets[steps], slow_vtrace(each, values, ratios[steps], terminated), rtol=1e-4, atol=1e-5
        )
        first += len(each) + 1
    assert first == len(targets)
    assert len(np.unique(np.round(ratios, 3))) > 10


@pytest.mark.ray
@pytest.mark.parametrize(("name", "reports", "enough"), [("appo", 16, 0.5), ("impala", 30, 0.5), ("sac", 2, 0.0)])
def test_it_learns_from_the_labellers_reward_and_resumes(
    cluster: None, tmp_path: Path, name: Algorithm, reports: int, enough: float
) -> None:
    config = make_config(TASK, replace(LEARNER, algorithm=name), Data("grm"))
    algorithm, rate = config.build_algo(), 0.0
    assert toy.success_rate(DeterministicPolicy(algorithm.policy_state())) < 0.3
    before = algorithm.policy_state()
    for _ in range(reports):
        report = algorithm.train()
        rate = toy.success_rate(DeterministicPolicy(algorithm.policy_state()))
        if rate > enough:
            break
    after = algorithm.policy_state()
    assert rate >= enough
    assert (after["actor.mean.weight"] != before["actor.mean.weight"]).any()
    steps = report["env_runners"]["num_env_steps_sampled_lifetime"]
    np.testing.assert_array_equal(  # env runners act with the weights that are saved
        algorithm.env_runner.module.get_state()["policy.actor.mean.bias" if name == "sac" else "actor.mean.bias"],
        after["actor.mean.bias"],
    )

    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    resumed = config.copy(copy_frozen=False).build_algo()
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    state = resumed.policy_state()
    assert state.keys() == after.keys()
    assert all((state[key] == values).all() for key, values in after.items())
    assert resumed.train()["env_runners"]["num_env_steps_sampled_lifetime"] > steps
    for each in (algorithm, resumed):
        each.stop()


@pytest.mark.ray
@pytest.mark.parametrize("name", ["appo", "sac"])
def test_it_starts_from_a_clone_of_any_width(cluster: None, cloned: str, name: Algorithm) -> None:
    algorithm = make_config(TASK, replace(LEARNER, algorithm=name), Data("grm", initial_policy=cloned)).build_algo()
    points = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    clone = DeterministicPolicy.load(Path(cloned))
    np.testing.assert_allclose(DeterministicPolicy(algorithm.policy_state())(points), clone(points), atol=1e-6)
    algorithm.stop()
