"""States and actions of a recording survive its conversion to a LeRobotDataset."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from dopamine_rl.episodes.lerobot import ACTION, STATE, LeRobotSource, read_info
from dopamine_rl.episodes.lerobot_transitions import EnvironmentSpaces, read_transitions
from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.listing import open_source
from dopamine_rl.episodes.motion import PERIODS, read_motion
from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.errors import EpisodeError
from dopamine_rl.files import read_json
from dopamine_rl.types import Demonstration

STEP = [0.02, 0.5]


def recording(name: str, steps: int = 6, stride: int = 1) -> Demonstration:
    rng, shown = np.random.default_rng(steps), np.arange(0, steps + 1, stride)
    return Demonstration(
        episode_id=name,
        instructions=("reach",),
        frames=rng.integers(0, 255, (len(shown), 1, 32, 32, 3)).astype(np.uint8),
        frame_steps=shown,
        keyframes=np.array([0, len(shown) - 1]),
        stages=("reach",),
        observations=rng.normal(size=(steps + 1, 3)).astype(np.float32),
        actions=rng.uniform(-1.0, 1.0, (steps, 2)).astype(np.float32),
        task_rewards=np.eye(steps, dtype=np.float32)[-1],
        terminated=True,
        success=True,
        seed=0,
    )


def record(folder: Path, *episodes: Demonstration, about: object = None) -> Path:
    about = {"state": ["x", "y", "grip"], "action": ["x", "y"], "step": STEP} if about is None else about
    for episode in episodes:
        (write_demonstration(folder, episode) / PERIODS).write_text(json.dumps(about))
    return folder


def test_a_dataset_has_the_robots_own_names_and_units(tmp_path: Path) -> None:
    episodes = [recording("a"), recording("b", 9)]
    raw, root = record(tmp_path / "raw", *episodes), tmp_path / "dataset"
    write_dataset(root, open_source(raw))
    features = read_info(root)["features"]
    assert features[STATE] == {"dtype": "float32", "shape": [3], "names": ["x", "y", "grip"]}
    assert features[ACTION] == {"dtype": "float32", "shape": [2], "names": ["x", "y"]}
    column = np.array(parquet.read_table(root / "data/chunk-000/file-000.parquet").column(ACTION).to_pylist())
    np.testing.assert_allclose(column[:6], episodes[0].actions * STEP, rtol=1e-6)
    np.testing.assert_array_equal(column[6], 0.0)
    statistics = read_json(root / "meta/stats.json")
    np.testing.assert_allclose(statistics[ACTION]["max"], column.max(0), rtol=1e-6)
    assert [len(statistics[STATE][name]) for name in ("mean", "q50", "count")] == [3, 3, 1]
    spaces = EnvironmentSpaces(3, (-0.02, -0.5), (0.02, 0.5), None)
    back = read_transitions(LeRobotSource(root), "episode_000001", spaces, 1)
    np.testing.assert_allclose(back.actions, episodes[1].actions, atol=1e-6)
    np.testing.assert_array_equal(back.observations, episodes[1].observations)


def test_without_a_frame_at_every_step_there_are_no_actions(tmp_path: Path) -> None:
    raw = record(tmp_path / "raw", recording("a"), recording("b", stride=2))
    assert read_motion(raw / "b") is None
    write_dataset(tmp_path / "dataset", open_source(raw))
    assert {STATE, ACTION}.isdisjoint(read_info(tmp_path / "dataset")["features"])


def test_simulated_actions_have_no_names_and_stay_as_they_are(tmp_path: Path) -> None:
    episode = recording("a")
    write_demonstration(tmp_path, episode)
    motion = read_motion(tmp_path / "a")
    assert motion is not None
    assert (motion.state_names, motion.action_names) == ((), ())
    np.testing.assert_array_equal(motion.actions[:-1], episode.actions)


@pytest.mark.parametrize(
    "about", [{}, [], {"state": ["x"], "action": ["x", "y"], "step": STEP}, {"state": "xyz", "action": "xy", "step": 1}]
)
def test_names_that_do_not_fit_are_an_error(tmp_path: Path, about: object) -> None:
    raw = record(tmp_path, replace(recording("a")), about=about)
    with pytest.raises(EpisodeError, match=r"periods\.json: state, action, step"):
        read_motion(raw / "a")
