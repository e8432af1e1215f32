"""Scripted experts succeed, scripted failures fail, and both are recorded as they happened."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actors.demonstrations import episode_folder, find_keyframes, record, record_missing
from actors.envs import make_env
from actors.maniskill import EnvConfig, PegInsertionEnv
from actors.tasks import TASKS
from dopamine_rl.episodes.raw import list_episodes, read_demonstration
from dopamine_rl.errors import BadInput

SCRIPTS = TASKS["PegInsertionSide-v1"].scripts
STANDARD = EnvConfig(views=(), start="standard", translation_m=0.05, rotation_rad=0.1, horizon=150)


@pytest.fixture(scope="module")
def env() -> Iterator[PegInsertionEnv]:
    env = make_env(EnvConfig(views=()))
    yield env
    env.close()


@pytest.fixture(scope="module")
def standard_env() -> Iterator[PegInsertionEnv]:
    env = make_env(STANDARD)
    yield env
    env.close()


def run(env: PegInsertionEnv, kind: str, seed: int) -> tuple[bool, list[int]]:
    """Whether the episode succeeded, and the stage at every step."""
    env.reset(seed=seed)
    expert = SCRIPTS[kind]()
    expert.reset(env, np.random.default_rng(seed))
    stages = [expert.stage]
    terminated = truncated = False
    while not (terminated or truncated):
        action = expert.act(env)
        assert action.dtype == np.float32
        assert env.action_space.contains(action)
        *_, terminated, truncated, _infos = env.step(action)
        stages.append(expert.stage)
    return terminated, stages


@pytest.mark.parametrize("seed", range(100, 104))
def test_the_expert_inserts_a_held_peg(env: PegInsertionEnv, seed: int) -> None:
    success, stages = run(env, "expert", seed)
    assert success
    assert stages == sorted(stages)


@pytest.mark.parametrize("seed", [100, 101])
def test_the_expert_solves_the_standard_start(standard_env: PegInsertionEnv, seed: int) -> None:
    success, stages = run(standard_env, "expert", seed)
    assert success
    assert stages == sorted(stages)
    assert set(stages) == {0, 1, 2}


@pytest.mark.parametrize("kind", ["near_miss", "stall", "retreat"])
def test_failures_fail(env: PegInsertionEnv, kind: str) -> None:
    assert not any(run(env, kind, seed)[0] for seed in (100, 101))


def test_a_near_miss_ends_at_the_plate_beside_the_hole(env: PegInsertionEnv) -> None:
    run(env, "near_miss", 102)
    state = env.state()
    assert abs(state.head[0, 3] + state.half_length) < 0.002
    assert 0.0035 < np.abs(state.head[1:3, 3]).max() < 0.02


def test_a_dropped_peg_stays_out(standard_env: PegInsertionEnv) -> None:
    success, _ = run(standard_env, "drop", 100)
    assert not success
    assert not standard_env._scene.grasped()


def test_noise_is_part_of_the_action_that_is_returned(env: PegInsertionEnv) -> None:
    from actors.experts.peg import PegInsertionExpert

    env.reset(seed=0)
    actions = []
    for noise in (0.0, 0.3):
        expert = PegInsertionExpert(noise)
        expert.reset(env, np.random.default_rng(0))
        actions.append(expert.act(env))
    assert not np.array_equal(*actions)


def test_keyframes_are_stage_changes_snapped_to_frames() -> None:
    names = ("reach", "grasp", "align", "insert")
    keyframes, stages = find_keyframes([0, 0, 1, 1, 3, 3, 3], range(7), names)
    assert keyframes.tolist() == [0, 2, 4, 6]
    assert stages == ("reach", "grasp", "insert")
    keyframes, stages = find_keyframes([2, 2, 3], range(3), names)
    assert keyframes.tolist() == [0, 1, 2]
    assert stages == ("align", "insert")
    keyframes, stages = find_keyframes([2, 3], range(2), names)
    assert keyframes.tolist() == [0, 1]
    assert stages == ("align",)


@pytest.mark.parametrize(("change", "frame"), [(1, 1), (5, 1), (6, 2), (7, 2), (8, 2), (15, 3), (16, 3)])
def test_a_keyframe_is_the_frame_nearest_to_the_step_at_which_a_stage_began(change: int, frame: int) -> None:
    steps = [0, 4, 8, 12, 16]
    keyframes, _ = find_keyframes([0] * change + [1] * (17 - change), steps, ("align", "insert"))
    assert keyframes.tolist() == [0, frame, 4]


def test_stages_that_begin_between_the_same_frames_have_one_each() -> None:
    keyframes, stages = find_keyframes([0, 1, 2, 2, 2, 2, 2, 2, 2], [0, 4, 8], ("reach", "align", "insert"))
    assert (keyframes.tolist(), stages) == ([0, 1, 2], ("reach", "align"))
    keyframes, stages = find_keyframes([0, 1, 2, *[2] * 10], [0, 4, 8, 12], ("reach", "align", "insert"))
    assert (keyframes.tolist(), stages) == ([0, 1, 2, 3], ("reach", "align", "insert"))


def test_a_demonstration_needs_pictures(env: PegInsertionEnv) -> None:
    with pytest.raises(BadInput, match="views"):
        record(env, SCRIPTS["expert"](), 0, np.random.default_rng(0))


@pytest.mark.render
def test_what_is_there_is_not_recorded_again(tmp_path: Path) -> None:
    env = make_env(EnvConfig(image_size=32, stride=8, views=("wrist",)))
    try:
        record_missing(env, "expert", SCRIPTS["expert"](), 0, tmp_path)
        written = episode_folder("expert", 0, tmp_path).stat().st_mtime_ns
        for seed in (0, 1):
            record_missing(env, "expert", SCRIPTS["expert"](), seed, tmp_path)
    finally:
        env.close()
    folders = [episode_folder("expert", seed, tmp_path) for seed in (0, 1)]
    assert folders == list_episodes(tmp_path)
    assert folders[0].stat().st_mtime_ns == written
    episode = read_demonstration(folders[1])
    assert episode.success
    assert episode.terminated
    steps = len(episode.actions)
    assert episode.frame_steps.tolist() == sorted({*range(0, steps, 8), steps})
    assert episode.frames.shape == (len(episode.frame_steps), 1, 32, 32, 3)
    assert episode.observations.shape == (steps + 1, 30)
    assert episode.actions.shape == (steps, 6)
    assert episode.task_rewards.sum() == 1.0
    assert episode.keyframes[0] == 0
    assert episode.keyframes[-1] == len(episode.frames) - 1
