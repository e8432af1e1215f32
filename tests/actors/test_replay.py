"""ManiSkill's trajectory files: what its own recorder writes is read and shown again, and what is malformed is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dopamine_rl.episodes.maniskill import read_trajectories
from dopamine_rl.errors import BadInput, EpisodeError

STEPS = 5


def write(folder: Path, about: Any = None, **arrays: Any) -> Path:
    """Two trajectories as the recorder lays them out; `arrays` replaces or, with None, leaves out those of the second."""
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
    assert (first.episode_id, first.task, first.control_mode, first.seed) == ("traj_0", "PegInsertionSide-v1", "pd_joint_pos", 10)  # fmt: skip
    assert first.actions.shape == (STEPS, 7)
    assert first.success is not None
    assert first.success.tolist() == [False] * 4 + [True]
    assert first.env_states is not None
    assert {kind: sorted(bodies) for kind, bodies in first.env_states.items()} == {"actors": ["peg"], "articulations": ["panda"]}  # fmt: skip
    assert (second.seed, second.success) == (11, None)


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
        (lambda about: {**about, "episodes": [{**about["episodes"][0], "episode_seed": None}]}, r"episodes\[0\]\.episode_seed"),
        (lambda about: {**about, "episodes": [{**about["episodes"][0], "episode_id": 5}]}, "traj_5"),
    ],
)  # fmt: skip
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


@pytest.mark.render
@pytest.mark.slow
def test_what_maniskill_records_is_shown_again(tmp_path: Path) -> None:
    import gymnasium
    import mani_skill.envs  # noqa: F401  (registers the task)
    from mani_skill.utils.wrappers.record import RecordEpisode

    from actors.maniskill import EnvConfig, make_env
    from actors.replay import render_trajectory

    recorder = RecordEpisode(
        gymnasium.make(
            "PegInsertionSide-v1", obs_mode="state", control_mode="pd_ee_delta_pose", sim_backend="physx_cpu", render_backend="none"
        ),
        str(tmp_path), trajectory_name="trajectory", save_video=False, record_env_state=True,
    )  # fmt: skip
    recorder.reset(seed=3)
    for _ in range(STEPS):
        recorder.step(np.full(7, 0.5, np.float32))
    qpos = recorder.unwrapped.agent.robot.get_qpos()[0].numpy()
    peg = recorder.unwrapped.peg.pose.raw_pose[0].numpy()
    recorder.close()

    (trajectory,) = read_trajectories(tmp_path / "trajectory.h5")
    assert trajectory.actions.shape == (STEPS, 7)
    env = make_env(EnvConfig(start="standard", views=("front",), image_size=32))
    begin, end = render_trajectory(env, trajectory, np.array([0, STEPS]))
    assert begin.shape == end.shape == (1, 32, 32, 3)
    assert np.abs(begin.astype(int) - end).max() > 20, "the arm has moved"
    assert np.allclose(env.state().qpos, qpos, atol=1e-5)
    assert np.allclose(env.state().peg[:3, 3], peg[:3], atol=1e-5)
    for bad in ([STEPS + 1], [-1]):
        with pytest.raises(BadInput, match="environment_steps"):
            next(render_trajectory(env, trajectory, np.array(bad)))
    env.close()
