from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from dopamine_rl.errors import BadInput
from dopamine_rl.policy import DeterministicPolicy, save_policy
from dopamine_rl.shaping import shaped_reward
from learner.algorithms.bc import train_bc
from learner.algorithms.common import TrainingSetup
from learner.algorithms.rlpd import RLPD, RLPDConfig, make_rlpd_config, store_fragment
from learner.config import CloningConfig, LearnerConfig
from learner.demonstrations import save_demonstrations
from learner.replay import ColumnarReplay
from tests.learner import toy
from tests.learner.labeller import GAMMA, Labeller

LEARNER = LearnerConfig(
    hidden=(64, 64),
    critics=4,
    batch_size=128,
    learning_starts=100,
    num_env_runners=0,
    steps_per_iteration=250,
)
TASK = TrainingSetup(toy.PointReach, gamma=GAMMA, seed=1)


def replaced(config: LearnerConfig, **changes: Any) -> LearnerConfig:
    return LearnerConfig(**{**vars(config), **changes})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Demonstrations and a cloned policy."""
    folder, episodes = tmp_path_factory.mktemp("toy"), toy.demonstrations(4)
    save_demonstrations(folder / "demos.npz", episodes)
    observations, actions = (np.concatenate([e.columns[name] for e in episodes]) for name in ("obs", "actions"))
    lengths = np.array([len(e.columns["actions"]) for e in episodes])
    cloned = train_bc(observations, actions, lengths, (64, 64), CloningConfig(updates=200), seed=0)
    save_policy(folder / "bc.safetensors", cloned.state)
    return {"demonstrations": str(folder / "demos.npz"), "initial_policy": str(folder / "bc.safetensors")}


def solve(algorithm: RLPD, reports: int) -> float:
    rate = 0.0
    for _ in range(reports):
        algorithm.train()
        rate = toy.success_rate(DeterministicPolicy(algorithm.policy_state()))
        if rate >= 0.95:
            break
    return rate


@pytest.mark.ray
def test_rlpd_solves_the_toy_task_from_sparse_reward_and_four_demonstrations(cluster: None, files: Any) -> None:
    algorithm = make_rlpd_config(TASK, LEARNER, "sparse", files["demonstrations"]).build_algo()
    report = algorithm.train()
    assert {"episode_return_mean", "task_success_rate", "task_return_mean"} <= set(report["env_runners"])
    assert solve(algorithm, 14) >= 0.95
    algorithm.stop()


@pytest.mark.ray
def test_labels_arrive_whole_and_replayed_rewards_are_the_labellers(cluster: None, files: Any) -> None:
    class Recorder(Labeller):
        def on_sample_end(self, *, samples: list[SingleAgentEpisode], **kwargs: Any) -> None:
            super().on_sample_end(samples=samples, **kwargs)
            for episode in samples:
                written.setdefault(episode.id_, []).extend(np.asarray(episode.get_rewards()).tolist())

    written: dict[str, list[float]] = {}
    task = TrainingSetup(toy.PointReach, callbacks=Recorder, gamma=GAMMA, seed=1)
    algorithm = make_rlpd_config(task, LEARNER, "grm").build_algo()
    algorithm.train()
    online = algorithm.feed.online
    assert max(len(rewards) for rewards in written.values()) > 3 * LEARNER.rollout_fragment_length
    for name, rewards in written.items():
        np.testing.assert_array_equal(online.times(name), np.arange(len(rewards)))
        columns = online.columns(online.rows(name))
        shaped = shaped_reward(
            columns["task_reward"], columns["potential"], columns["next_potential"], GAMMA, online.mode
        )
        np.testing.assert_allclose(shaped, rewards, atol=1e-7)
        np.testing.assert_array_equal(columns["next_obs"][:-1], columns["obs"][1:])
        np.testing.assert_allclose(columns["potential"], toy.potential(columns["obs"]), atol=1e-6)
    assert set(online.episodes.values()) == {"toy"}
    algorithm.stop()


@pytest.mark.ray
def test_a_checkpoint_holds_both_replays_and_learning_goes_on(cluster: None, files: Any, tmp_path: Path) -> None:
    config = make_rlpd_config(TASK, LEARNER, "sparse", files["demonstrations"])
    first = config.build_algo()
    first.train()
    first.save_to_path(tmp_path / "checkpoint")
    second = RLPD.from_checkpoint(str(tmp_path / "checkpoint"))
    assert len(second.feed.online) == len(first.feed.online) > LEARNER.learning_starts
    assert second.feed.online.episodes == first.feed.online.episodes
    mine, theirs = first.policy_state(), second.policy_state()
    assert all((mine[name] == theirs[name]).all() for name in mine)
    assert second.learner_group._learner.updater.updates == first.learner_group._learner.updater.updates > 0
    for _ in range(3):
        for algorithm in (first, second):
            algorithm._learn(2)
    mine, theirs = first.policy_state(), second.policy_state()
    assert all((mine[name] == theirs[name]).all() for name in mine)
    before = second.learner_group._learner.updater.updates
    second.train()
    assert second.learner_group._learner.updater.updates >= before + 2 * LEARNER.steps_per_iteration
    for algorithm in (first, second):
        algorithm.stop()


@pytest.mark.ray
def test_own_successes_join_the_demonstrations_and_the_checkpoint(cluster: None, files: Any, tmp_path: Path) -> None:
    others: dict[str, Any] = {"n_step": 3, "prefer": "rising_potential", "imitation": 0.1}
    config = make_rlpd_config(TASK, replaced(LEARNER, promote=2, **others), "sparse", **files)
    first = config.build_algo()
    for _ in range(4):
        first.train()
    assert len(first.feed.promoted) == 2
    assert len(first.feed.demo.episodes) == 4 + 2
    for name in first.feed.promoted:
        stored = first.feed.demo.columns(first.feed.demo.rows(name))
        assert stored["task_reward"].sum() == 1.0
        np.testing.assert_array_equal(stored["next_obs"][:-1], stored["obs"][1:])
    first.save_to_path(tmp_path / "checkpoint")
    second = RLPD.from_checkpoint(str(tmp_path / "checkpoint"))
    assert second.feed.promoted == first.feed.promoted
    assert second.feed.demo.episodes == first.feed.demo.episodes
    for algorithm in (first, second):
        algorithm.stop()


@pytest.mark.ray
def test_nothing_is_learned_before_enough_lies_in_the_replay(cluster: None) -> None:
    config = make_rlpd_config(TASK, replaced(LEARNER, learning_starts=300), "sparse")
    algorithm = config.build_algo()
    report = algorithm.train()
    assert "updates" not in report.get("learners", {}).get("default_policy", {})
    assert algorithm.learner_group._learner.updater.updates == 0
    algorithm.train()
    assert algorithm.learner_group._learner.updater.updates > 0
    algorithm.stop()


@pytest.mark.ray
def test_a_residual_begins_at_the_clone_and_does_not_fall_below_it(cluster: None, files: Any) -> None:
    learner = replaced(LEARNER, residual_scale=0.3, initial_std=0.1, critic_warmup_updates=300)
    algorithm = make_rlpd_config(TASK, learner, "sparse", **files).build_algo()
    clone = DeterministicPolicy.load(Path(files["initial_policy"]))
    observations = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    np.testing.assert_allclose(
        DeterministicPolicy(algorithm.policy_state())(observations), clone(observations), atol=1e-6
    )
    for _ in range(3):
        algorithm.train()
    moved = DeterministicPolicy(algorithm.policy_state())
    assert not np.allclose(moved(observations), clone(observations), atol=1e-3)
    assert np.abs(moved(observations) - clone(observations)).max() <= 0.3 + 1e-6
    assert toy.success_rate(moved) >= toy.success_rate(clone)
    algorithm.stop()


@pytest.mark.ray
def test_actors_and_the_saved_policy_choose_by_the_learners_critics(cluster: None, files: Any, tmp_path: Path) -> None:
    learner = replaced(LEARNER, residual_scale=0.3, critic_sees_potential=False, choose=True)
    algorithm = make_rlpd_config(TASK, learner, "sparse", **files).build_algo()
    algorithm.train()
    module = algorithm.env_runner.module
    ours = algorithm.learner_group._learner.module["default_policy"]
    for mine, theirs in zip(module.target.parameters(), ours.target.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    observations = np.random.default_rng(0).uniform(-1.2, 1.2, (200, 2)).astype(np.float32)
    acted = module.forward_inference({"obs": torch.from_numpy(observations)})["actions"].numpy()
    save_policy(tmp_path / "policy.safetensors", algorithm.policy_state())
    np.testing.assert_allclose(
        DeterministicPolicy.load(tmp_path / "policy.safetensors")(observations), acted, atol=1e-4
    )
    clone = DeterministicPolicy.load(Path(files["initial_policy"]))(observations)
    chosen = np.isclose(acted, clone, atol=1e-5).all(-1)
    assert 0 < chosen.sum() < 200
    algorithm.stop()


@pytest.mark.ray
def test_remote_env_runners_feed_the_same_replay(cluster: None, files: Any) -> None:
    learner = replaced(LEARNER, num_env_runners=2, num_cpus_per_env_runner=0.5, steps_per_iteration=200)
    task = TrainingSetup(toy.PointReach, callbacks=Labeller, gamma=GAMMA, seed=1)
    algorithm = make_rlpd_config(task, learner, "grm", **files).build_algo()
    report = algorithm.train()
    online = algorithm.feed.online
    assert len(online) >= 200
    assert set(online.episodes.values()) == {"toy"}
    for name in online.episodes:
        columns = online.columns(online.rows(name))
        np.testing.assert_array_equal(columns["next_obs"][:-1], columns["obs"][1:])
    assert math.isfinite(report["learners"]["default_policy"]["critic_loss"])
    algorithm.stop()


@pytest.mark.ray
def test_a_killed_env_runner_costs_its_open_fragment_and_no_more(cluster: None) -> None:
    import ray

    learner = replaced(LEARNER, num_env_runners=2, num_cpus_per_env_runner=0.5, steps_per_iteration=100)
    task = TrainingSetup(toy.PointReach, callbacks=Labeller, gamma=GAMMA, seed=1)
    algorithm = make_rlpd_config(task, learner, "grm").build_algo()
    algorithm.train()
    before = len(algorithm.feed.online)
    ray.kill(algorithm.env_runner_group._worker_manager.actors()[1], no_restart=False)
    for _ in range(3):
        algorithm.train()
    online = algorithm.feed.online
    assert len(online) >= before + 300
    for name in online.episodes:
        np.testing.assert_array_equal(np.diff(online.times(name)), 1)
    algorithm.stop()


def test_a_fragment_without_labels_is_stored_as_it_is() -> None:
    replay = ColumnarReplay(50, 2, 2, GAMMA, "grm")
    episode = SingleAgentEpisode(
        observations=[np.full(2, t, np.float32) for t in range(4)],
        actions=[np.zeros(2, np.float32)] * 3,
        rewards=[0.0, 0.0, 1.0],
        truncated=True,
        len_lookback_buffer=0,
    )
    store_fragment(replay, episode.to_numpy())
    columns = replay.columns()
    np.testing.assert_array_equal(columns["task_reward"], [0, 0, 1])
    assert not columns["terminated"].any()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda config: config.learners(num_learners=2), "num_learners"),
        (lambda config: config.rlpd(LearnerConfig(residual_scale=0.3), "sparse"), "initial_policy"),
    ],
)
def test_what_rlpd_cannot_do_is_refused(change: Any, field: str) -> None:
    config = make_rlpd_config(TASK, LEARNER, "sparse")
    assert isinstance(config, RLPDConfig)
    change(config)
    with pytest.raises(BadInput, match=field):
        config.validate()


@pytest.mark.parametrize(
    "change",
    [
        {"critics": 1},
        {"demo_share": 1.5},
        {"residual_scale": -1.0},
        {"tau": 0.0},
        {"batch_size": 0},
        {"sample_timeout_s": 0.0},
        {"patience_s": math.nan},
        {"restart_delay_s": -1.0},
        {"n_step": 0},
        {"algorithm": "ppo", "n_step": 3},
        {"algorithm": "ppo", "prefer": "high_potential"},
        {"algorithm": "ppo", "imitation": 1.0},
        {"imitation": -0.1},
        {"imitation": math.nan},
        {"imitation_temperature": 0.0},
        {"initial_alpha": math.nan},
        {"promote": -1},
        {"promote": 3, "demo_share": 0.0},
        {"algorithm": "ppo", "promote": 3},
        {"choose": True, "critic_sees_potential": False},
        {"choose": True, "residual_scale": 0.3},
        {"choose": True, "residual_scale": 0.3, "critic_sees_potential": False, "entropy_backup": True},
        {"algorithm": "ppo", "choose": True, "residual_scale": 0.3, "critic_sees_potential": False},
        {"prefer_candidates": 1},
        {"progress_window": 0},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="learner"):
        replaced(LEARNER, **change)
