"""The simulated environment: what it shows and when, how episodes end, and that a seed names a start."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

from actors.envs import make_env
from actors.experts.peg import PegInsertionExpert
from actors.maniskill import EnvConfig, PegInsertionEnv
from dopamine_rl.errors import BadInput

ELSEWHERE = """
import hashlib, os
import actors.looks, actors.peg_scene  # the simulator, in seconds, once for both processes
from actors.envs import make_env
from actors.maniskill import EnvConfig
from dopamine_rl.errors import RenderingUnavailable
if (child := os.fork()) == 0:
    os.environ |= {"VK_ICD_FILENAMES": "/nonexistent.json", "VK_DRIVER_FILES": "/nonexistent.json"}
    for views in ("front",), ():
        try:
            make_env(EnvConfig(views=views))
        except RenderingUnavailable as error:
            print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
for start in ("insertion", "standard"):
    env = make_env(EnvConfig(views=(), start=start))
    for seed in (5, 6):
        print(hashlib.md5(env.reset(seed=seed)[0].tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def env() -> Iterator[PegInsertionEnv]:
    """The insertion start without pictures: its scene is built once."""
    env = make_env(EnvConfig(views=(), horizon=11, stride=4, oracle=True))
    yield env
    env.close()


@pytest.fixture(scope="module")
def seeing_env() -> Iterator[PegInsertionEnv]:
    env = make_env(EnvConfig(horizon=60, stride=4, image_size=32))
    yield env
    env.close()


def push(env: gymnasium.Env, seed: int, steps: int) -> None:
    """Shove the peg about, against the plate too, so that the engine has contacts to remember."""
    rng = np.random.default_rng(seed)
    direction = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
    for _ in range(steps):
        env.step(np.clip(direction + rng.normal(0, 0.3, direction.shape), -1, 1).astype(np.float32))


def test_a_seed_names_a_start_whatever_came_before(env: PegInsertionEnv) -> None:
    first = {seed: env.reset(seed=seed)[0] for seed in range(3)}
    rng = np.random.default_rng(0)
    for k in range(24):
        seed = int(rng.integers(3))
        assert env.reset(seed=seed)[0].tobytes() == first[seed].tobytes()
        push(env, k, int(rng.integers(1, 25)))
    assert first[0].tobytes() != first[1].tobytes()


def test_a_seed_names_a_start_in_every_process_and_no_process_simulates_without_a_vulkan_driver() -> None:
    """One other process for both, as most of its time goes into importing the simulator."""
    from actors.rendering import NO_VULKAN

    there = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True)
    assert there.returncode == 0, there.stderr
    *refusals, first, second, third, fourth = there.stdout.splitlines()
    assert refusals == [NO_VULKAN] * 2
    here = []
    for start in ("insertion", "standard"):
        env = make_env(EnvConfig(views=(), start=start))  # type: ignore[arg-type]
        env.reset(seed=9)
        push(env, 0, 5)
        hashes = {seed: hashlib.md5(env.reset(seed=seed)[0].tobytes()).hexdigest() for seed in (6, 5)}
        here += [hashes[5], hashes[6]]
        env.close()
    assert [first, second, third, fourth] == here


def test_the_standard_start_draws_the_geometry_anew() -> None:
    env = make_env(EnvConfig(views=(), start="standard"))
    sizes = []
    for seed in (1, 2):
        env.reset(seed=seed)
        sizes.append(env.state().radius)
    env.close()
    assert sizes[0] != sizes[1]


def test_the_insertion_start_keeps_to_its_bounds(env: PegInsertionEnv) -> None:
    for seed in range(20):
        env.reset(seed=seed)
        head = env.state().head
        # Settling in the grasp costs up to 3 mm.
        assert np.abs(head[1:3, 3]).max() < env.config.lateral_m + 0.003
        assert abs(head[0, 3] + env.state().half_length + env.config.standoff_m) < 0.003
        assert env._scene.grasped()


def test_observations_are_of_order_one(env: PegInsertionEnv) -> None:
    observation, _ = env.reset(seed=0)
    assert observation.shape == env.observation_space.shape
    assert observation.dtype == np.float32
    for _ in range(10):
        observation, *_ = env.step(np.ones(6, np.float32))
        assert np.abs(observation).max() < 10


def test_the_horizon_truncates_and_does_not_terminate(env: PegInsertionEnv) -> None:
    env.reset(seed=0)
    ends = [env.step(np.zeros(6, np.float32))[1:4] for _ in range(11)]
    assert [type(reward) for reward, *_ in ends] == [float] * 11
    assert ends[-1] == (0.0, False, True)
    assert ends[:-1] == [(0.0, False, False)] * 10


def test_a_positive_rotation_turns_that_way(env: PegInsertionEnv) -> None:
    env.reset(seed=0)
    before = env.state().tool[:3, :3]
    for _ in range(5):
        env.step(np.array([0, 0, 0, 0, 0, 1], np.float32))
    turned = env.state().tool[:3, :3] @ before.T
    assert np.arctan2(turned[1, 0], turned[0, 0]) > 0.05


def test_true_progress_grows_along_a_success() -> None:
    env = make_env(EnvConfig(views=(), oracle=True))
    expert = PegInsertionExpert()
    _, infos = env.reset(seed=0)
    expert.reset(env, np.random.default_rng(0))
    progress, ended = [infos["oracle_progress"]], False
    while not ended:
        *_, terminated, truncated, infos = env.step(expert.act(env))
        progress.append(infos["oracle_progress"])
        ended = terminated or truncated
    env.close()
    assert infos["success"]
    assert progress[-1] == 1.0
    assert progress[0] < 0.2
    # Not monotone: the expert may step back once to align.
    assert np.corrcoef(progress, np.arange(len(progress)))[0, 1] > 0.9


@pytest.mark.render
def test_pictures_come_at_scored_steps_only(seeing_env: PegInsertionEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = []
    original = seeing_env._scene.pictures
    monkeypatch.setattr(seeing_env._scene, "pictures", lambda: rendered.append(1) or original())
    expert = PegInsertionExpert()
    _, infos = seeing_env.reset(seed=0)
    expert.reset(seeing_env, np.random.default_rng(0))
    scored, ended, terminated = [0], False, False
    assert infos["scored_views"].shape == (3, 32, 32, 3)
    assert infos["scored_views"].dtype == np.uint8
    while not ended:
        _, reward, terminated, truncated, infos = seeing_env.step(expert.act(seeing_env))
        ended = terminated or truncated
        assert set(infos) <= {"success", "scored_views"}
        if "scored_views" in infos:
            scored.append(seeing_env.environment_step)
    last = seeing_env.environment_step
    assert terminated
    assert (reward, truncated, infos["success"]) == (1.0, False, True)
    assert scored == sorted({*range(0, last, 4), last})
    assert len(rendered) == len(scored)


@pytest.mark.render
def test_each_view_shows_something_else_and_the_same_twice(seeing_env: PegInsertionEnv) -> None:
    seeing_env.reset(seed=1)
    views = seeing_env.render_views()
    assert views.std(axis=(1, 2, 3)).min() > 10
    assert len({view.tobytes() for view in views}) == 3
    assert np.array_equal(views, seeing_env.render_views())


@pytest.mark.render
def test_the_simulators_truth_does_not_reach_pictures_or_observations(seeing_env: PegInsertionEnv) -> None:
    """Poison success, reward and everything the simulator's verdict holds: what is seen stays the same, bit for bit."""
    evaluate: Callable[[], dict[str, Any]] = seeing_env._scene.evaluate

    def poisoned() -> dict[str, Any]:
        truth = evaluate()
        return {"success": ~truth["success"], "peg_head_pos_at_hole": truth["peg_head_pos_at_hole"] + 1e3}

    def seen(verdict: Callable[[], dict[str, Any]]) -> tuple[list[bytes], list[float]]:
        seeing_env._scene.evaluate = verdict
        observation, infos = seeing_env.reset(seed=3)
        found, rewards = [observation.tobytes(), infos["scored_views"].tobytes()], []
        for _ in range(8):
            observation, reward, *_, infos = seeing_env.step(np.full(6, 0.3, np.float32))
            found.append(observation.tobytes())
            rewards.append(reward)
            # The episode's end is the verdict's business; the poisoned run shows pictures more often, not others.
            if seeing_env.environment_step % 4 == 0:
                found.append(infos["scored_views"].tobytes())
        return found, rewards

    try:
        true_run, poisoned_run = seen(evaluate), seen(poisoned)
    finally:
        seeing_env._scene.evaluate = evaluate
    assert true_run[0] == poisoned_run[0]
    assert true_run[1] != poisoned_run[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [("start", "middle"), ("standoff_m", 0.0), ("stride", 0), ("views", ("top",)), ("views", ("front", "front"))],
)
def test_bad_configs_are_named(field: str, value: object) -> None:
    with pytest.raises(BadInput, match=f"env.{field}"):
        EnvConfig(**{field: value})  # type: ignore[arg-type]


def test_an_action_of_another_shape_is_refused(env: PegInsertionEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(BadInput, match="action"):
        env.step(np.zeros(7, np.float32))


def test_the_config_imports_neither_torch_nor_the_simulator() -> None:
    code = "import sys, actors.maniskill; assert not {'torch', 'mani_skill', 'sapien'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
