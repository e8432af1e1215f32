"""Looks change what pictures show and nothing else: the same seed is the same episode, drawn the same way each time."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actors.demonstrations import record
from actors.envs import make_env
from actors.maniskill import LOOKS, EnvConfig, SimulatedEnv
from actors.tasks import TASKS
from actors.tasks.task import EXPERT
from dopamine_rl.config import load_preset
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Demonstration
from experiments.settings import ExperimentConfig

OTHERS = LOOKS[1:]
QUICK = "PegInsertionSide-v1"
"""The task whose standard start is drawn in the quick tests; the others are in the long ones."""


def config(look: str, task: str = "PegInsertionSide-v1", start: str = "insertion") -> EnvConfig:
    return EnvConfig(
        task=task,
        start=start,
        look=look,
        image_size=32,
        views=("front", "wrist"),
        horizon=8,
        stride=4,
        translation_m=0.05,
        rotation_rad=0.1,
        oracle=True,
    )  # type: ignore[arg-type]


def episode(env: SimulatedEnv, seed: int) -> Demonstration:
    """The first steps of the expert's episode."""
    return record(env, TASKS[env.config.task].scripts[EXPERT](), seed, np.random.default_rng(seed))


def check_same_but_pictures(one: Demonstration, other: Demonstration) -> None:
    assert one.observations.tobytes() == other.observations.tobytes()
    assert one.actions.tobytes() == other.actions.tobytes()
    assert one.true_progress is not None
    assert other.true_progress is not None
    assert one.true_progress.tobytes() == other.true_progress.tobytes()
    assert one.frames.shape == other.frames.shape
    assert (one.frames[:, 0] != other.frames[:, 0]).any(axis=(1, 2, 3)).all()


@pytest.fixture(scope="module")
def plain() -> Iterator[SimulatedEnv]:
    """The grasped start, whose scene is kept from episode to episode."""
    env = make_env(config("plain"))
    yield env
    env.close()


@pytest.mark.render
@pytest.mark.parametrize("look", OTHERS)
def test_a_look_is_drawn_from_the_seed_and_changes_pictures_alone(plain: SimulatedEnv, look: str) -> None:
    env = make_env(config(look))
    first, other, again = (episode(env, seed) for seed in (3, 4, 3))
    env.close()
    check_same_but_pictures(episode(plain, 3), first)
    assert first.frames.tobytes() == again.frames.tobytes()
    fresh, plains = first.frames.astype(int) - other.frames, episode(plain, 3).frames.astype(int) - first.frames
    assert np.abs(fresh[0, 0]).mean() > 1.0
    assert np.abs(plains[0, 0]).mean() > 1.0


@pytest.mark.render
def test_one_scene_does_not_lend_its_look_to_another(plain: SimulatedEnv) -> None:
    before = episode(plain, 5).frames
    for look in OTHERS:
        env = make_env(config(look))
        env.reset(seed=5)
        assert episode(plain, 5).frames.tobytes() == before.tobytes()
        env.close()


@pytest.mark.render
@pytest.mark.slow
@pytest.mark.parametrize("task", [pytest.param(name, marks=[pytest.mark.long] * (name != QUICK)) for name in TASKS])
def test_every_task_has_every_look(task: str) -> None:
    """From the standard start, which builds the scene anew for every episode."""
    found = []
    for look in LOOKS:
        env = make_env(config(look, task, "standard"))
        env.reset(seed=8)
        found.append(episode(env, 7))
        env.close()
    for other in found[1:]:
        check_same_but_pictures(found[0], other)


def test_without_cameras_a_look_needs_no_driver() -> None:
    env = make_env(dataclasses.replace(config("light"), views=()))
    observation, infos = env.reset(seed=0)
    env.close()
    assert np.isfinite(observation).all()
    assert "scored_views" not in infos


def test_a_look_is_a_setting(tmp_path: Path) -> None:
    preset = tmp_path / "dim.toml"
    preset.write_text('[env]\nlook = "light"\n')
    assert load_preset(ExperimentConfig, preset).env.look == "light"
    with pytest.raises(BadInput, match=r"env\.look.*plain, light, texture"):
        EnvConfig(look="night")  # type: ignore[arg-type]
