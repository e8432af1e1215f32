"""Practice wanders about a demonstration's path, in front of where its last stage begins."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from actors.envs import make_env
from actors.experts.practice import CLEARANCE_M, Practice
from actors.geometry import pose, position_and_quaternion
from actors.maniskill import EnvConfig, PegInsertionEnv
from actors.peg_state import off_hole_m
from actors.tasks import TASKS
from dopamine_rl.errors import BadInput
from dopamine_rl.paths import path_progress
from dopamine_rl.types import Demonstration
from tests.dopamine_rl.test_raw_episodes import make_demonstration


@pytest.fixture(scope="module")
def env() -> Iterator[PegInsertionEnv]:
    env = make_env(EnvConfig(views=(), lateral_m=0.03))
    yield env
    env.close()


@pytest.fixture(scope="module")
def demonstration(env: PegInsertionEnv) -> Demonstration:
    """The expert's, with a blank picture at every step."""
    env.reset(seed=100)
    expert = TASKS["PegInsertionSide-v1"].scripts["expert"]()
    expert.reset(env, np.random.default_rng(0))
    poses, stages, terminated = [position_and_quaternion(env.state().tool)], [expert.stage], False
    while not terminated:
        *_, terminated, _truncated, _infos = env.step(expert.act(env))
        poses.append(position_and_quaternion(env.state().tool))
        stages.append(expert.stage)
    last = len(poses) - 1
    return replace(
        make_demonstration(),
        frame_steps=np.arange(last + 1),
        keyframes=np.array([0, stages.index(2), last]),
        tool_poses=np.stack(poses),
    )


def test_it_stays_before_the_plate_and_sees_what_is_aside(env: PegInsertionEnv, demonstration: Demonstration) -> None:
    assert demonstration.tool_poses is not None
    practice, poses, off_m, gaps_m = Practice(demonstration), [], [], []
    for seed in (1, 2):
        observation, _ = env.reset(seed=seed)
        practice.reset(env, np.random.default_rng(seed))
        truncated = False
        while not truncated:
            observation, _, terminated, truncated, _ = env.step(practice.act(env))
            assert not terminated
            poses.append(position_and_quaternion(env.state().tool))
            off_m.append(off_hole_m(observation))
            gaps_m.append(-env.state().half_length - env.state().head[0, 3])
    assert max(off_m) > 0.03
    assert min(off_m) < 0.005
    assert min(gaps_m) > -0.01
    assert min(gaps_m) < 0.01 + CLEARANCE_M
    progress = path_progress(
        np.stack(poses), [(demonstration.tool_poses, np.linspace(0.0, 1.0, len(demonstration.tool_poses)))]
    )
    assert np.corrcoef(progress, off_m)[0, 1] < -0.6


def test_the_same_seed_goes_the_same_way(env: PegInsertionEnv, demonstration: Demonstration) -> None:
    actions = []
    for _ in range(2):
        env.reset(seed=3)
        practice = Practice(demonstration)
        practice.reset(env, np.random.default_rng(3))
        actions.append(np.stack([practice.act(env) for _ in range(3)]))
    np.testing.assert_array_equal(*actions)


def test_a_pose_is_seven_numbers() -> None:
    turned = pose([1.0, 2.0, 3.0], Rotation.from_rotvec([0.0, 0.0, np.pi / 2]).as_matrix())
    assert position_and_quaternion(turned) == pytest.approx([1.0, 2.0, 3.0, 0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)])


def test_a_demonstration_that_says_too_little_is_refused(demonstration: Demonstration) -> None:
    with pytest.raises(BadInput, match="tool_poses"):
        Practice(replace(demonstration, tool_poses=None))
    with pytest.raises(BadInput, match="where the precise part begins"):
        Practice(replace(demonstration, keyframes=np.array([0, 5]), stages=("insert",)))
