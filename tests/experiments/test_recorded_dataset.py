"""Demonstrations from a LeRobotDataset: states and actions reach the policy in the environment's units."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from actors.demonstrations import record_missing
from actors.envs import make_env, scripts_of
from actors.foreign import foreign_of
from actors.maniskill import EnvConfig
from dopamine_rl.episodes.lerobot import ACTION, STATE
from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.raw import list_episodes, read_demonstration, write_demonstration
from dopamine_rl.episodes.raw_source import RawSource
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.types import Demonstration, EpisodeInfo
from experiments.job.recorded import recorded_plans
from experiments.runtime.console import Console
from experiments.settings import ExperimentConfig
from tests.actors.reaching import NAMES

ENV = EnvConfig(
    make="tests.actors.broken_envs:Wide", views=NAMES, horizon=9, stride=2, instruction="reach", kwargs='{"larger": 4}'
)
DATA = "data/chunk-000/file-000.parquet"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Demonstration]:
    """Five successes with a frame at every step."""
    folder, env = tmp_path_factory.mktemp("raw"), make_env(replace(ENV, make="tests.actors.broken_envs:Good", stride=1))
    for seed in range(5):
        record_missing(env, "expert", scripts_of(ENV, "tests.actors.reaching_expert:Forward")["expert"](), seed, folder)
    return [read_demonstration(path) for path in list_episodes(folder)]


@pytest.fixture
def dataset(recorded: list[Demonstration], tmp_path: Path) -> Path:
    """The same as LeRobot records it: actions in the robot's units, a row for every frame, cameras named its way."""
    root = tmp_path / "pegs"
    folders = [write_demonstration(tmp_path / "raw", episode) for episode in recorded]
    write_dataset(root, Named(RawSource(folders)), lossless=True, copy=False)
    foreign = foreign_of(make_env(ENV))
    states = [row for episode in recorded for row in episode.observations.tolist()]
    actions = [
        row
        for episode in recorded
        for row in [*(foreign.to_units(action).tolist() for action in episode.actions), [0.0]]
    ]
    _set_columns(root, {STATE: states, ACTION: actions})
    return root


class Named(RawSource):
    """Raw episodes whose cameras have the environment's names."""

    def __init__(self, source: RawSource) -> None:
        self._source = source

    def episodes(self) -> list[EpisodeInfo]:
        return [replace(info, cameras=NAMES) for info in self._source.episodes()]

    def frames(self, *args: Any) -> NDArray[np.uint8]:
        return self._source.frames(*args)

    def motion(self, episode_id: str) -> None:
        """None: they are written in the environment's units, below."""


def _set_columns(root: Path, columns: dict[str, list[list[float]]]) -> None:
    table = parquet.read_table(root / DATA)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.list_(pa.float32())))
    parquet.write_table(table, root / DATA)
    info = json.loads((root / "meta/info.json").read_text())
    for name, values in columns.items():
        info["features"][name] = {"dtype": "float32", "shape": [len(values[0])], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))


def _run(dataset: Path, out: Path, env: EnvConfig = ENV, **counts: int) -> Any:
    config = ExperimentConfig(env=env)
    demonstrations = replace(
        config.demonstrations, **{"policy": 2, "gate_successes": 1, "reward_model": 1, **counts}, folder=str(dataset)
    )
    foreign = foreign_of(make_env(env))
    return SimpleNamespace(
        config=replace(config, demonstrations=demonstrations),
        path=out,
        console=Console(),
        pool=SimpleNamespace(map=lambda jobs, on_progress, what: [foreign.spaces for _ in jobs]),
    )


def test_a_dataset_gives_the_demonstrations_that_were_recorded(
    recorded: list[Demonstration], dataset: Path, tmp_path: Path
) -> None:
    run = _run(dataset, tmp_path / "run")
    plans = recorded_plans(run)
    assert [len(plans[name].paths) for name in ("policy", "gate", "reward_model")] == [2, 1, 1]
    for path, original in zip([*plans["policy"].paths, *plans["gate"].paths], recorded, strict=False):
        read = read_demonstration(path)
        np.testing.assert_allclose(read.observations, original.observations, atol=1e-6)
        np.testing.assert_allclose(read.actions, original.actions, atol=1e-6)
        assert np.array_equal(read.task_rewards, original.task_rewards)
        assert read.success
        assert np.array_equal(read.frame_steps, np.union1d(np.arange(0, len(read.actions), 2), [len(read.actions)]))
        assert np.array_equal(read.frames, original.frames[read.frame_steps])
    times = {path: path.stat().st_mtime_ns for plan in plans.values() for path in plan.paths}
    again = {path: path.stat().st_mtime_ns for plan in recorded_plans(run).values() for path in plan.paths}
    assert again == times, "they are read once"


def test_a_policy_that_sees_pictures_gets_every_frame(dataset: Path, tmp_path: Path) -> None:
    env = replace(ENV, observation="pictures", policy_views=("front",))
    plans = recorded_plans(_run(dataset, tmp_path / "run", env))
    for name, every in (("policy", 1), ("gate", 2)):
        assert int(np.diff(read_demonstration(plans[name].paths[0]).frame_steps)[0]) == every


def test_what_cannot_be_learned_from_is_named(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"5 with actions': record 7 successes with actions"):
        recorded_plans(_run(dataset, tmp_path / "run", policy=6))
    narrow = replace(ENV, make="tests.actors.broken_envs:Good")
    with pytest.raises(EpisodeError, match=r"action\[0\] = \d.* its bounds are -1 to 1"):
        recorded_plans(_run(dataset, tmp_path / "narrow", narrow))
    assert not list((tmp_path / "narrow").rglob("episode_*"))
    table = parquet.read_table(dataset / DATA)
    parquet.write_table(table.drop_columns([STATE]), dataset / DATA)
    with pytest.raises(EpisodeError, match=r"observation\.state"):
        recorded_plans(_run(dataset, tmp_path / "columns"))
    info = json.loads((dataset / "meta/info.json").read_text())
    del info["features"][STATE]
    (dataset / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(EpisodeError, match=r"give a dataset with observation\.state, a row per frame"):
        recorded_plans(_run(dataset, tmp_path / "columns"))


def test_to_know_the_spaces_of_a_robot_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = foreign_of(make_env(ENV))
    monkeypatch.setattr(foreign.env, "reset", None)
    assert foreign.spaces.picture == foreign.env.observation_space[NAMES[0]].shape[:2]
