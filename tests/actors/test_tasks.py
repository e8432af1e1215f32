"""Every simulated task: its expert succeeds and is recorded with rising progress, its failures fail and fall short."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from actors.demonstrations import ATTEMPTS, SPARE_SEEDS, record, record_as_meant
from actors.envs import check_task, make_env
from actors.maniskill import EnvConfig, SimulatedEnv
from actors.tasks import TASKS
from actors.tasks.task import EXPERT
from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import Expert
from dopamine_rl.types import Demonstration

FAILURES = [(name, kind) for name, task in TASKS.items() for kind in sorted(set(task.failures))]
OTHERS = [name for name in TASKS if "Cube" in name][1:]
"""Cube tasks after the first, whose experts are filmed in the long tests alone."""
TOLERANCE = 0.05
"""True progress of an expert falls by no more than this: it may step back, or the object slips in the grasp."""
PEG_TOLERANCE = 0.2
"""The peg's progress weighs its tilt, which changes while it is lifted."""


def config(name: str, views: tuple[str, ...] = ()) -> EnvConfig:
    task = TASKS[name]
    return EnvConfig(
        task=name,
        start="standard",
        horizon=task.horizon,
        stride=task.stride,
        views=views,
        image_size=32,
        translation_m=0.05,
        rotation_rad=0.1,
        oracle=True,
    )


@pytest.fixture(scope="module")
def blind(request: pytest.FixtureRequest) -> Iterator[SimulatedEnv]:
    """A task without pictures; one scene serves all the tests of a task."""
    env = make_env(config(request.param))
    yield env
    env.close()


def true_progress(env: SimulatedEnv, script: Expert, seed: int) -> tuple[bool, np.ndarray]:
    """Whether an episode succeeds, and its true progress at every step."""
    _, infos = env.reset(seed=seed)
    script.reset(env, np.random.default_rng(seed))
    progress, ended = [infos["oracle_progress"]], False
    while not ended:
        action = script.act(env)
        assert action.dtype == np.float32
        assert env.action_space.contains(action)
        *_, terminated, truncated, infos = env.step(action)
        progress.append(infos["oracle_progress"])
        ended = terminated or truncated
    return infos["success"], np.array(progress)


@pytest.mark.parametrize(("blind", "kind"), FAILURES, indirect=["blind"])
def test_a_failure_fails_and_its_progress_stays_below_success(blind: SimulatedEnv, kind: str) -> None:
    for seed in (2000, 2002, 2003):
        success, progress = true_progress(blind, TASKS[blind.config.task].scripts[kind](), seed)
        if not success:  # one that succeeds by accident is not recorded
            break
    assert not success
    assert progress.max() < 1.0
    if kind in ("drop", "retreat"):
        assert progress[-1] < progress.max() - 0.1


@pytest.mark.parametrize("blind", TASKS, indirect=True)
def test_a_seed_names_an_episode_whatever_came_before(blind: SimulatedEnv) -> None:
    seen = []
    for seed in (5, 6, 5):
        observations = [blind.reset(seed=seed)[0]]
        script = TASKS[blind.config.task].scripts[EXPERT]()
        script.reset(blind, np.random.default_rng(0))
        observations += [blind.step(script.act(blind))[0] for _ in range(8)]
        seen.append(np.stack(observations).tobytes())
    assert seen[0] == seen[2] != seen[1]


@pytest.mark.parametrize("name", TASKS)
def test_half_of_a_tasks_failures_are_near_misses_and_all_have_a_script(name: str) -> None:
    task = TASKS[name]
    assert 2 * task.failures.count("near_miss") >= len(task.failures)
    assert set(task.failures) < set(task.scripts)
    assert {"front", "close"} == set(task.cameras)


@pytest.mark.render
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * (n in OTHERS)) for n in TASKS])
def test_an_experts_episode_is_recorded_with_keyframes_and_rising_progress(name: str) -> None:
    env = make_env(config(name, ("front", "wrist", "close")))
    try:
        script = TASKS[name].scripts[EXPERT]()
        episode = record(env, script, 2000, np.random.default_rng(0))
    finally:
        env.close()
    assert episode.success
    assert episode.instructions == TASKS[name].instructions
    assert episode.frames.shape == (len(episode.frame_steps), 3, 32, 32, 3)
    assert episode.frames.std(axis=(2, 3, 4)).min() > 5
    assert (np.diff(episode.keyframes) > 0).all()
    assert list(episode.stages) == [stage for stage in script.stages if stage in episode.stages]
    assert len(episode.stages) >= 2
    progress = episode.true_progress
    assert progress is not None
    assert progress[0] < 0.1
    assert progress[-1] == 1.0
    falls = (np.maximum.accumulate(progress) - progress).max()
    assert falls < (PEG_TOLERANCE if name == "PegInsertionSide-v1" else TOLERANCE)


def _episode(success: bool, seed: int) -> Demonstration:
    return Demonstration(
        f"near_miss_{seed % SPARE_SEEDS:06d}",
        ("do it",),
        np.zeros((2, 1, 32, 32, 3), np.uint8),
        np.array([0, 1]),
        np.array([0, 1]),
        ("act",),
        np.zeros((2, 10), np.float32),
        np.zeros((1, 7), np.float32),
        np.zeros(1, np.float32),
        success,
        success,
        seed,
    )


@pytest.mark.parametrize("blind", ["PullCube-v1"], indirect=True)
def test_a_script_that_ends_otherwise_than_meant_is_tried_with_spare_seeds(
    blind: SimulatedEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeeding = [True, True, False]
    monkeypatch.setattr("actors.demonstrations.record", lambda *given: _episode(succeeding.pop(0), given[2]))
    assert record_as_meant(blind, "near_miss", 7, tmp_path).seed == 7 + 2 * SPARE_SEEDS
    assert record_as_meant(blind, "near_miss", 7, tmp_path).seed == 7 + 2 * SPARE_SEEDS  # read, not recorded again
    succeeding += [True] * ATTEMPTS
    with pytest.raises(BadInput, match="near_miss"):
        record_as_meant(blind, "near_miss", 8, tmp_path)
    assert not (tmp_path / "near_miss_000008").exists()


def test_a_task_without_an_insertion_start_says_so() -> None:
    with pytest.raises(BadInput, match=r"env\.start"):
        check_task(EnvConfig(task="PickCube-v1"))


@pytest.mark.parametrize("start", ["standard", "insertion"])
def test_an_unknown_task_is_named_whatever_the_start(start: Literal["standard", "insertion"]) -> None:
    with pytest.raises(BadInput, match=r"env\.task = 'PlugCharger': write PlugCharger-v1; available: PickCube-v1"):
        check_task(EnvConfig(task="PlugCharger", start=start))
