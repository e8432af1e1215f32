"""Batched simulation as a vector of environments: ends, resets and pictures of each, and labels of all."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from actors.any_config import ManiSkillConfig
from actors.any_maniskill import make
from actors.batched_maniskill import BatchedManiSkill, make_batched
from actors.batched_stand_in import REACHED, SPEED, BatchedPoints
from actors.vector_progress_reward import VectorProgressReward
from dopamine_rl.errors import BadInput
from dopamine_rl.types import TaskReference
from reward_service.local import BackgroundRewardClient
from reward_service.scorer import Scorer
from tests.fakes import FakeEngine

N, HORIZON = 8, 7
NEXT, SAME = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP


def points(mode: AutoresetMode = NEXT, **settings: Any) -> BatchedManiSkill:
    config = ManiSkillConfig("Points-v1", **{"horizon": HORIZON, "stride": 2, **settings})
    return BatchedManiSkill(config, BatchedPoints(N, len(config.cameras)), mode)


def home(observations: np.ndarray, share: np.ndarray | float = 1.0) -> np.ndarray:
    """Actions that bring the points towards the origin."""
    return np.clip(-observations / SPEED, -1, 1) * np.broadcast_to(share, len(observations))[:, None]


FASTER = np.where(np.arange(N) % 2, 1.0, 0.1)
"""Every second point arrives, after 4 or 5 steps; the others are too slow."""


def test_success_terminates_and_the_horizon_truncates_each_by_itself() -> None:
    env = points(cameras=())
    observations, infos = env.reset(seed=1)
    assert env.observation_space.contains(observations)
    assert infos == {"success": pytest.approx(np.zeros(N)), "_success": pytest.approx(np.ones(N))}
    ends: list[list[int]] = [[] for _ in range(N)]
    for step in range(1, HORIZON + 1):
        observations, rewards, terminated, truncated, infos = env.step(home(observations, FASTER))
        assert isinstance(observations, np.ndarray)
        assert (rewards == infos["success"]).all()
        for i in np.flatnonzero(terminated | truncated):
            ends[i].append(step if terminated[i] else -step)
    assert all(end[0] in (4, 5) for end in ends[1::2])
    assert ends[::2] == [[-HORIZON]] * (N // 2)


def test_next_step_resets_the_ended_alone_a_step_later() -> None:
    env = points(cameras=())
    observations, _ = env.reset(seed=1)
    ended = np.zeros(N, bool)
    for _ in range(30):
        before = observations
        observations, rewards, terminated, truncated, _ = env.step(home(before, FASTER))
        radius = np.linalg.norm(observations, axis=1)
        np.testing.assert_allclose(radius[ended], 1.0, atol=1e-6)
        np.testing.assert_allclose(observations[~ended], (before + SPEED * home(before, FASTER))[~ended], atol=1e-6)
        assert not np.stack([rewards, terminated, truncated])[:, ended].any()
        ended = terminated | truncated
    assert env.metadata["autoreset_mode"] is NEXT


def test_same_step_keeps_the_last_observation_and_info() -> None:
    env = points(SAME, report_dense=True)
    observations, _ = env.reset(seed=1)
    count = 0
    for _ in range(20):
        observations, _, terminated, truncated, infos = env.step(home(observations, FASTER))
        done = terminated | truncated
        assert done.any() == ("final_obs" in infos)
        for i in np.flatnonzero(done):
            count += 1
            last, final = infos["final_obs"][i], infos["final_info"]
            assert (np.linalg.norm(last) < REACHED) == terminated[i] == final["success"][i]
            assert final["_scored_views"][i]
            red = final["scored_views"][i, 0, 0, 0, 0]
            assert red == pytest.approx(250 * max(0.0, 1.0 - float(np.linalg.norm(last))), abs=1.0)
            assert infos["scored_views"][i].max() <= 1  # the new episode's first picture, at distance 1
            assert not infos["success"][i]
            assert np.linalg.norm(observations[i]) == pytest.approx(1.0, abs=1e-5)
    assert count > 6


def test_pictures_are_copied_where_a_frame_is_due_and_rendered_only_if_one_is() -> None:
    env = points(cameras=("front", "wrist"))
    simulator = env.simulator
    assert isinstance(simulator, BatchedPoints)
    observations, infos = env.reset(seed=1)
    assert infos["scored_views"].shape == (N, 2, 16, 16, 3)
    assert infos["_scored_views"].all()
    partly = 0
    for step in range(1, 15):
        renders = simulator.renders
        observations, *_, infos = env.step(home(observations, FASTER))
        if step < 4:  # none has ended
            assert ("scored_views" in infos) == (step % 2 == 0)
        assert ("scored_views" in infos) == (simulator.renders > renders)
        if "scored_views" in infos and not infos["_scored_views"].all():
            partly += 1
            near = (1.0 - np.linalg.norm(observations, axis=1)).clip(0.0) * 250
            shown = infos["scored_views"][:, 1, 0, 0, 0]
            np.testing.assert_allclose(shown, np.where(infos["_scored_views"], near, 0), atol=1.0)
    assert partly > 2


def test_a_policy_that_sees_pictures_gets_them_in_the_observation() -> None:
    env = points(observation="pictures", cameras=("front", "wrist"), image_size=16)
    observations, infos = env.reset(seed=0)
    assert env.observation_space.contains(observations)
    assert set(observations) == {"proprioception", "front", "wrist"}
    assert (infos["scored_views"][:, 1] == observations["wrist"]).all()
    observations, *_, infos = env.step(np.zeros((N, 2), np.float32))
    assert "scored_views" not in infos
    assert observations["front"].shape == (N, 16, 16, 3)


@pytest.mark.parametrize("mode", [NEXT, SAME])
def test_labels_of_all_come_with_one_bundle_a_step(mode: AutoresetMode) -> None:
    bundles = []

    class Client(BackgroundRewardClient):
        def submit_all(self, requests):  # type: ignore[no-untyped-def]
            bundles.append(len(requests))
            return super().submit_all(requests)

    goal = np.zeros((1, 16, 16, 3), np.uint8)
    goal[..., 0] = 250
    reference = TaskReference("reach", goal[0] * 0, goal[0], goal)
    env = VectorProgressReward(points(mode), Client(Scorer(FakeEngine())), reference, 0.9, stride=2, deadline_s=60.0)
    observations, _ = env.reset(seed=1)
    for step in range(1, 13):
        observations, rewards, terminated, _, infos = env.step(home(observations, FASTER))
        if step == 4:
            progress = 1.0 - np.linalg.norm(observations, axis=1)
            running = ~terminated
            np.testing.assert_allclose(infos["progress"][running], progress[running], atol=0.01)
        assert np.isfinite(rewards).all()
    assert env.counts.closed
    assert env.counts.answered == env.counts.asked > 3 * N
    assert max(bundles) <= N
    assert len(bundles) <= 12  # never more than one a step


def test_what_cannot_be_simulated_is_named() -> None:
    with pytest.raises(BadInput, match="num_envs = 4: give 1"):
        make_batched("PushCube-v1", 4, sim_backend="physx_cpu")
    with pytest.raises(BadInput, match="autoreset_mode = 'Disabled'"):
        points(AutoresetMode.DISABLED)
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="sim_backend = 'physx_cuda': run this where"):
            make_batched("PushCube-v1", 4)


@pytest.mark.render
def test_maniskill_itself_in_a_batch_of_one_is_what_it_is_alone() -> None:
    settings: dict[str, Any] = {"image_size": 32, "stride": 2, "horizon": 3, "report_dense": True, "action_scale": 0.5}
    alone, batch = make("PushCube-v1", **settings), make_batched("PushCube-v1", 1, sim_backend="physx_cpu", **settings)
    observation, info = alone.reset(seed=5)
    observations, infos = batch.reset(seed=5)
    for _ in range(4):
        assert (observations[0] == observation).all()
        assert info.keys() == {name for name in infos if not name.startswith("_")}
        for name, value in info.items():
            assert np.array_equal(infos[name][0], np.asarray(value, infos[name].dtype))
        observation, reward, terminated, truncated, info = alone.step(np.full(7, 0.5, np.float32))
        observations, *of_batch, infos = batch.step(np.full((1, 7), 0.5, np.float32))
        assert [values[0] for values in of_batch] == [reward, terminated, truncated]
        if truncated:
            break
    assert truncated
    batch.step(np.zeros((1, 7), np.float32))  # NEXT_STEP resets
    alone.close()
    batch.close()


def test_the_benchmark_says_what_it_measured(capsys: pytest.CaptureFixture[str]) -> None:
    from experiments.benchmarks.simulation import main

    main(["--num-envs", "3", "5", "--steps", "9", "--simulator", "stand-in", "--size", "16"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["simulator"], result["model"]) == ("stand-in", "instant")
    assert [row["num_envs"] for row in result["rows"]] == [3, 5]
    for row in result["rows"]:
        assert set(row["steps_per_s"]) == {"without_pictures", "with_pictures", "with_labels"}
        assert row["labels"]["answered"] == row["labels"]["asked"] > 0
