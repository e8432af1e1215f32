"""ManiSkill's trajectories of any task become demonstrations, with the recorded states or by their actions alone."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from actors.any_playback import play_back
from actors.foreign import ForeignEnv, make_foreign
from actors.maniskill import EnvConfig
from dopamine_rl.episodes.maniskill import ManiSkillTrajectory, read_trajectories
from dopamine_rl.errors import BadInput

STEPS = 9


def recorded(folder: Path) -> ManiSkillTrajectory:
    """What ManiSkill's own recorder writes of an arm that reaches down."""
    import gymnasium
    import mani_skill.envs  # noqa: F401  (registers the tasks)
    from mani_skill.utils.wrappers.record import RecordEpisode

    kinds = {"obs_mode": "state", "control_mode": "pd_ee_delta_pose", "sim_backend": "physx_cpu"}
    env = RecordEpisode(
        gymnasium.make("PushCube-v1", render_backend="none", **kinds),
        str(folder),
        trajectory_name="trajectory",
        save_video=False,
        record_env_state=True,
    )
    env.reset(seed=3)
    for _ in range(STEPS):
        env.step(np.array([0.2, 0.1, -0.3, 0, 0, 0.2, -1], np.float32))
    env.close()
    [trajectory] = read_trajectories(folder / "trajectory.h5")
    return trajectory


def make(task: str = "PushCube-v1", **settings: object) -> ForeignEnv:
    kwargs = json.dumps({"task": task, "cameras": ["front"], "image_size": 32, **settings})
    made = make_foreign(
        EnvConfig(make="actors.any_maniskill:make", kwargs=kwargs, horizon=50, views=("front",), instruction="push")
    )
    assert isinstance(made, ForeignEnv)
    return made


@pytest.mark.render
def test_a_trajectory_is_played_back_with_or_without_its_states(tmp_path: Path) -> None:
    env, trajectory = make(), recorded(tmp_path)
    shown = play_back(env, trajectory, "trajectory_000000")
    assert shown.frame_steps.tolist() == [0, 4, 8, 9]
    assert shown.frames.shape == (4, 1, 32, 32, 3)
    assert shown.observations.shape == (STEPS + 1, *(env.observation_space.shape or ()))
    np.testing.assert_allclose(shown.actions, trajectory.actions, atol=1e-6)
    assert (shown.success, shown.instructions, shown.seed) == (False, ("push",), 3)
    acted = play_back(env, dataclasses.replace(trajectory, env_states=None), "again")
    np.testing.assert_allclose(acted.observations, shown.observations, atol=1e-3)  # the simulator repeats itself
    assert trajectory.env_states is not None
    cube = trajectory.env_states["actors"]["cube"].copy()
    cube[5:, 2] += 0.5  # the states are what is shown
    moved = {**trajectory.env_states, "actors": {**trajectory.env_states["actors"], "cube": cube}}
    lifted = play_back(env, dataclasses.replace(trajectory, env_states=moved), "lifted")
    assert np.abs(lifted.observations - shown.observations)[:5].max() < 1e-6
    assert np.abs(lifted.observations - shown.observations)[5:].max() == pytest.approx(0.5, abs=1e-3)
    refused = {
        "give a trajectory of PushCube-v1": {"task": "PokeCube-v1"},
        "make the environment with the trajectory's, pd_joint_pos": {"control_mode": "pd_joint_pos"},
        r"give \[T, 7\]": {"actions": trajectory.actions[:, :6]},
        "RecordEpisode": {"success": None},
        "with record_env_state=True": {"env_states": None, "success": np.arange(STEPS) == STEPS - 1},
        "env_states/actors/ball": {"env_states": {"actors": {"ball": cube}}},
    }
    for message, change in refused.items():
        with pytest.raises(BadInput, match=message):
            play_back(env, dataclasses.replace(trajectory, **change), "refused")
    env.close()
