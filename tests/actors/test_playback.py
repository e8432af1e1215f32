"""ManiSkill's trajectory files: what its own recorder writes is read and shown again, malformed files are named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from actors.envs import make_env
from actors.maniskill import EnvConfig, SimulatedEnv
from actors.playback import check_trajectory, play_back
from actors.tasks import TASKS
from dopamine_rl.episodes.maniskill import list_trajectories, read_trajectories
from dopamine_rl.errors import BadInput, EpisodeError

STEPS = 5


def write(folder: Path, about: Any = None, **arrays: Any) -> Path:
    """Two trajectories as the recorder lays them out; `arrays` replaces or, with None, removes those of the second."""
    path = folder / "trajectory.h5"
    content: dict[str, Any] = {
        "actions": np.zeros((STEPS, 7), np.float32),
        "terminated": np.eye(1, STEPS, STEPS - 1, dtype=bool)[0],
        "truncated": np.zeros(STEPS, bool),
        "success": np.eye(1, STEPS, STEPS - 1, dtype=bool)[0],
        "env_states/actors/peg": np.zeros((STEPS + 1, 13), np.float32),
        "env_states/articulations/panda": np.zeros((STEPS + 1, 31), np.float32),
        "env_states/controller/arm/target_pose": np.zeros((STEPS + 1, 7), np.float32),
    }
    with h5py.File(path, "w") as file:
        for i, change in enumerate(({}, arrays)):
            for name, values in {**content, **change}.items():
                if values is not None:
                    file.create_dataset(f"traj_{i}/{name}", data=values)
    episodes = [
        {"episode_id": i, "episode_seed": 10 + i, "control_mode": "pd_joint_pos", "success": True} for i in (0, 1)
    ]
    default = {"env_info": {"env_id": "PegInsertionSide-v1", "env_kwargs": {}}, "episodes": episodes}
    path.with_suffix(".json").write_text(json.dumps(default if about is None else about(default)))
    return path


def test_trajectories_are_read_one_after_another(tmp_path: Path) -> None:
    first, second = read_trajectories(write(tmp_path, success=None, **{"env_states/actors/peg": None}))
    assert (first.episode_id, first.task, first.control_mode, first.seed) == (
        "traj_0",
        "PegInsertionSide-v1",
        "pd_joint_pos",
        10,
    )
    assert first.actions.shape == (STEPS, 7)
    assert first.success is not None
    assert first.success.tolist() == [False] * 4 + [True]
    assert first.env_states is not None
    assert {kind: sorted(bodies) for kind, bodies in first.env_states.items()} == {
        "actors": ["peg"],
        "articulations": ["panda"],
    }
    assert (second.seed, second.success) == (11, None)
    path = tmp_path / "trajectory.h5"
    assert list_trajectories(path) == [0, 1]
    assert [trajectory.seed for trajectory in read_trajectories(path, {1})] == [11]


@pytest.mark.parametrize(
    ("arrays", "field"),
    [
        ({"actions": None}, r"trajectory\.h5: traj_1/actions"),
        ({"actions": np.zeros(STEPS)}, r"trajectory\.h5: traj_1/actions"),
        ({"actions": np.full((STEPS, 7), np.nan)}, r"trajectory\.h5: traj_1/actions"),
        ({"truncated": np.zeros(3, bool)}, r"trajectory\.h5: traj_1 lengths"),
        ({"env_states/actors/peg": np.zeros((STEPS, 13))}, r"trajectory\.h5: traj_1/env_states/actors/peg"),
    ],
)
def test_malformed_trajectories_are_named(tmp_path: Path, arrays: dict[str, Any], field: str) -> None:
    reading = read_trajectories(write(tmp_path, **arrays))
    next(reading)
    with pytest.raises(EpisodeError, match=field):
        next(reading)


@pytest.mark.parametrize(
    ("about", "field"),
    [
        (lambda about: {**about, "episodes": 3}, "episodes"),
        (lambda about: {**about, "env_info": None}, r"env_info\.env_id"),
        (
            lambda about: {**about, "episodes": [{**about["episodes"][0], "episode_seed": None}]},
            r"episodes\[0\]\.episode_seed",
        ),
        (lambda about: {**about, "episodes": [{**about["episodes"][0], "episode_id": 5}]}, "traj_5"),
    ],
)
def test_malformed_descriptions_are_named(tmp_path: Path, about: Any, field: str) -> None:
    with pytest.raises(EpisodeError, match=rf"trajectory\.(json|h5): {field}"):
        list(read_trajectories(write(tmp_path, about)))


def test_missing_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(b"nothing")
    with pytest.raises(EpisodeError, match=r"trajectory\.h5: content"):
        next(read_trajectories(path))
    path.with_suffix(".json").unlink()
    with pytest.raises(EpisodeError, match=r"trajectory\.json: content"):
        next(read_trajectories(path))


def make(task: str, horizon: int = 60, views: tuple[str, ...] = ("front",)) -> SimulatedEnv:
    return make_env(
        EnvConfig(task, "standard", horizon=horizon, views=views, image_size=32, translation_m=0.05, rotation_rad=0.1)
    )


def record(folder: Path, env: SimulatedEnv, seeds: tuple[int, ...]) -> list[list[float]]:
    """Let ManiSkill's recorder write what our expert does, and three steps more; return the true progress of each."""
    import gymnasium
    import mani_skill.envs  # noqa: F401  (registers the tasks)
    from mani_skill.utils.wrappers.record import RecordEpisode

    task = env.config.task
    recorder = RecordEpisode(
        gymnasium.make(
            task, obs_mode="state", control_mode="pd_ee_delta_pose", sim_backend="physx_cpu", render_backend="none"
        ),
        str(folder),
        trajectory_name="trajectory",
        save_video=False,
        record_env_state=True,
    )
    truths = []
    for seed in seeds:
        expert = TASKS[task].scripts["expert"]()
        recorder.reset(seed=seed)
        env.reset(seed=seed, options={"pictures": False})
        expert.reset(env, np.random.default_rng(0))
        truth, ended = [env.true_progress()], False
        while not ended:
            action = expert.act(env)
            recorder.step(env._to_simulator(action))
            _, _, terminated, truncated, _ = env.step(action)
            truth.append(1.0 if terminated else env.true_progress())
            ended = terminated or truncated
        for _ in range(3):
            recorder.step(env._to_simulator(action))  # its Panda is a little behind ours
        truths.append(truth)
    recorder.close()
    return truths


@pytest.mark.render
def test_what_maniskill_records_is_shown_again(tmp_path: Path) -> None:
    """By its own Panda, which has no wrist camera; contacts are felt anew, within a step of the true ones."""
    env = make("PickCube-v1")
    (truth,) = record(tmp_path, env, (3,))
    (trajectory,) = read_trajectories(tmp_path / "trajectory.h5")
    assert trajectory.env_states is not None
    assert list(trajectory.env_states["articulations"]) == ["panda"]
    episode = play_back(env, trajectory, "again")
    last = len(truth) - 1
    assert (len(episode.actions), len(episode.observations)) == (last, last + 1), "it ends with its first success"
    assert (episode.success, episode.terminated, episode.task_rewards.sum()) == (True, True, 1.0)
    assert episode.frame_steps.tolist() == [*range(0, last, 4), last]
    assert episode.frames.shape == (len(episode.frame_steps), 1, 32, 32, 3)
    assert np.abs(episode.frames[0].astype(int) - episode.frames[-1]).max() > 20, "the arm has moved"
    cube = trajectory.env_states["actors"]["cube"][: last + 1, :3]
    assert np.allclose(episode.observations[:, 3:6], cube, atol=1e-5)
    assert episode.true_progress is not None
    near = [
        [abs(truth[max(0, min(step + off, last))] - value) for off in (-1, 0, 1)]
        for step, value in zip(episode.frame_steps, episode.true_progress, strict=True)
    ]
    assert np.min(near, axis=1).max() < 0.02
    held = next(step for step, value in enumerate(truth) if value >= 0.3)
    assert episode.stages == ("grasp", "carry")
    assert abs(episode.frame_steps[episode.keyframes[1]] - held) <= 3
    env.close()


@pytest.mark.render
def test_a_peg_of_another_seed_is_refused(tmp_path: Path) -> None:
    """Its size is no part of a state."""
    env = make("PegInsertionSide-v1", STEPS)
    record(tmp_path, env, (3,))
    (trajectory,) = read_trajectories(tmp_path / "trajectory.h5")
    episode = play_back(env, trajectory, "again")
    assert (episode.success, episode.stages, episode.keyframes.tolist()) == (False, ("grasp",), [0, 2])
    assert episode.frame_steps.tolist() == [0, 4, STEPS + 3]
    with pytest.raises(BadInput, match="its seed begins at"):
        play_back(env, dataclasses.replace(trajectory, seed=4), "again")
    assert trajectory.env_states is not None
    odd = {
        **trajectory.env_states,
        "actors": {**trajectory.env_states["actors"], "pug": np.zeros((STEPS + 4, 13), np.float32)},
    }
    with pytest.raises(BadInput, match="env_states/actors/pug"):
        play_back(env, dataclasses.replace(trajectory, env_states=odd), "again")
    env.close()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"task": "PickCube-v1"}, "give a trajectory of Peg"),
        ({"env_states": None}, "record_env_state"),
        ({"success": None}, "success"),
    ],
)
def test_what_cannot_be_replayed_is_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    first, _ = read_trajectories(write(tmp_path))
    check_trajectory(TASKS["PegInsertionSide-v1"], first)
    with pytest.raises(BadInput, match=named):
        check_trajectory(TASKS["PegInsertionSide-v1"], dataclasses.replace(first, **change))
