"""`dopamine demos`: it records what is asked for, keeps what is there, and refuses what cannot be."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from actors.maniskill import EnvConfig
from actors.tasks import TASKS
from dopamine_rl.episodes.maniskill import read_trajectories
from dopamine_rl.episodes.raw import list_episodes, read_demonstration, read_outcome
from dopamine_rl.errors import BadInput
from experiments.commands import demos
from experiments.job.demonstrations import DemosArguments, environment, plan
from experiments.runtime.arguments import parse, read_preset
from experiments.runtime.storage import only_writer
from experiments.settings import ExperimentConfig
from tests.actors.test_playback import make
from tests.actors.test_playback import record as record_trajectories
from tests.actors.test_playback import write as write_trajectories

PULL = ["PullCube", "--size", "32", "--stride", "4"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["PickCup", "-n", "1"], "TASK = 'PickCup': write PickCube; available: PickCube"),
        (["peg", "-n", "1"], "TASK = 'peg': write PegInsertionSide; available: PickCube"),
        (["PickCube", "-n", "-1"], "-n = -1"),
        (["PickCube", "-n", "0"], "-n = 0"),
        (["PickCube", "-n", "1", "--failures", "-2"], "--failures = -2"),
        (["PickCube", "-n", "1", "--workers", "0"], "--workers = 0"),
        (["PickCube", "-n", "1", "--seed", "-1"], "--seed = -1"),
        (["PickCube", "-n", "1", "--size", "5"], "--size = 5: choose 16 to 1024"),
        (["PickCube", "-n", "1", "--look", "dark"], "--look = 'dark': give one of plain, light"),
        (["PickCube", "-n", "1", "--views", "side"], "--views = 'side': give one of front, wrist, close"),
        (["PickCube", "-n", "1", "--stride", "0"], "--stride = 0: choose 1 to"),
        (["PickCube", "-n", "1", "--env", "lap"], "--env = 'lap': write laptop; available: full"),
        (["PickCube", "-n", "1", "--env", "laptop"], "--env = 'laptop': choose a preset of this task"),
        (
            ["PullCube", "-n", "0", "--failures", "1", "--kind", "drop"],
            "--kind = 'drop': give one of beside, near_miss",
        ),
        (
            ["PickCube", "-n", "0", "--failures", "1", "--kind", "near-mis"],
            "--kind = 'near-mis': write near_miss; available: beside",
        ),
        (["PickCube", "-n", "2", "--kind", "beside"], "--failures = 0: give at least 1: beside is a kind of failure"),
        (["PickCube", "-n", "0", "--failures", "2", "--kind", "retry"], "-n = 0: give at least 1: retry is a kind of"),
        (
            ["PegInsertionSide", "-n", "0", "--failures", "2", "--env", "laptop", "--kind", "drop_at_end"],
            "--kind = 'drop_at_end': nothing can be dropped from the insertion start, whose gripper stays shut: "
            "leave out --env laptop, or give one of beside, near_miss",
        ),
    ],
)
def test_what_cannot_be_is_named(
    words: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        demos.main([*words, "--out", str(tmp_path / "raw")])
    assert ended.value.code in (1, 2)
    assert named in capsys.readouterr().err
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("name", ["thesis.tex", "photos/holiday.jpg"])
def test_a_folder_of_other_things_is_left_alone(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    assert "--out = " in refused([*PULL, "-n", "1", "--out", str(tmp_path)], capsys)
    assert [path.name for path in tmp_path.iterdir()] == [Path(name).parts[0]]


def test_more_episodes_are_the_same_ones_and_more() -> None:
    few, many = (plan(TASKS["PickCube-v1"], DemosArguments("PickCube", n, failures=n, seed=40)) for n in (3, 9))
    assert set(few) < set(many)
    assert few[0] == ("expert", 40)
    assert sum(script == "near_miss" for script, _ in many) == 5


def test_kinds_that_succeed_take_the_expert_s_place_and_others_are_failures() -> None:
    def kinds(n: int, failures: int, *kind: str, start: str = "standard", name: str = "PickCube") -> list[str]:
        arguments = DemosArguments(name, n, failures=failures, kind=kind, seed=6000)
        task = TASKS[f"{name}-v1"]
        return [script for script, _ in plan(task, arguments, start)]

    assert kinds(3, 0, "pause", "retry") == ["pause", "retry", "pause"]
    assert kinds(1, 2, "oscillate", "drop_at_end") == ["expert", "oscillate", "drop_at_end"]
    assert kinds(1, 1, "beside", "pause") == ["pause", "beside"]
    assert kinds(1, 2, "pause") == ["pause", "near_miss", "stall"]
    of_all = kinds(0, 8, name="PegInsertionSide")
    assert "drop" in of_all
    assert kinds(0, 8, name="PegInsertionSide", start="insertion") == [
        *(kind for kind in of_all if kind != "drop"),
        "near_miss",
    ]


def test_a_preset_gives_its_environment_and_a_look_changes_nothing_else(tmp_path: Path) -> None:
    def env(*words: str) -> EnvConfig:
        task = TASKS["PegInsertionSide-v1"]
        return environment(task, parse(DemosArguments, ["PegInsertionSide", "-n", "1", *words], "demos", ""))

    trained = read_preset(ExperimentConfig, "laptop", "--env").env
    assert env("--env", "laptop") == replace(trained, oracle=True)
    (tmp_path / "wide.toml").write_text("[env]\nlateral_m = 0.03\n")
    assert env("--env", str(tmp_path / "wide.toml")).lateral_m == 0.03
    with pytest.raises(BadInput, match=r"--env = .*none\.toml"):
        env("--env", str(tmp_path / "none.toml"))
    assert env("--env", "laptop", "--look", "camera", "--size", "64") == replace(
        trained, oracle=True, look="camera", image_size=64
    )
    assert env("--look", "light") == replace(env(), look="light")
    assert (env().start, env().image_size) == ("standard", 112)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        demos.main(words)
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_trajectories_that_cannot_be_replayed_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_trajectories(tmp_path)
    words = ["PegInsertionSide", "--trajectories", str(path), "--out", str(tmp_path / "raw")]
    assert "give a trajectory of PickCube-v1" in refused(["PickCube", *words[1:]], capsys)
    assert "-n = 0" in refused([*words, "-n", "0"], capsys)
    assert "--failures = 2: leave it out" in refused([*words, "--failures", "2"], capsys)
    assert "--env = 'laptop': leave it out" in refused([*words, "--env", "laptop"], capsys)
    assert "-n = None: say how many" in refused(["PickCube"], capsys)
    states = ("env_states/actors/peg", "env_states/articulations/panda", "env_states/controller/arm/target_pose")
    write_trajectories(tmp_path, lambda about: {**about, "episodes": about["episodes"][1:]}, **dict.fromkeys(states))
    assert "traj_1/env_states = None: record it with record_env_state=True" in refused(words, capsys)
    path.with_suffix(".json").unlink()
    assert "trajectory.json: content" in refused(words, capsys)
    path.unlink()
    assert "--trajectories" in refused(words, capsys)
    assert not (tmp_path / "raw").exists()


@pytest.mark.ray
@pytest.mark.render
@pytest.mark.slow
@pytest.mark.long
def test_trajectories_become_episodes_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = make("PullCube-v1", views=())
    record_trajectories(tmp_path, env, (5, 6))
    env.close()
    won = [bool(trajectory.success.any()) for trajectory in read_trajectories(tmp_path / "trajectory.h5")]
    words = [*PULL, "--views", "front", "--out", str(tmp_path / "raw")]
    replayed = [*words, "--trajectories", str(tmp_path / "trajectory.h5")]
    demos.main([*replayed, "--workers", "1"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["episodes"], result["successes"]) == (2, sum(won))
    assert [read_outcome(folder).success for folder in list_episodes(tmp_path / "raw")] == won
    folders = list_episodes(tmp_path / "raw")
    assert [path.name for path in folders] == ["trajectory_000000", "trajectory_000001"]
    episode = read_demonstration(folders[1])
    assert (episode.seed, episode.stages, episode.frames.shape[1:]) == (6, ("reach", "pull"), (1, 32, 32, 3))
    assert (
        json.loads((tmp_path / "raw" / "demos.json").read_text())["trajectories"]["control_mode"] == "pd_ee_delta_pose"
    )
    demos.main([*replayed, "-n", "1"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["episodes_per_s"] == 0.0
    assert "trajectories = {'file'" in refused([*words, "-n", "1"], capsys)


@pytest.mark.ray
@pytest.mark.render
@pytest.mark.slow
def test_episodes_are_recorded_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def record(*words: str) -> dict[str, object]:
        demos.main([*PULL, *words, "--out", str(tmp_path)])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    result = record("-n", "1", "--kind", "pause", "--seed", "7", "--workers", "1")
    assert (result["episodes"], result["successes"], result["failures"]) == (1, 1, {})
    paused = tmp_path / "pause_000007"
    assert read_demonstration(paused).stages.count("pause") >= 1
    shutil.rmtree(paused)
    result = record("-n", "1", "--failures", "1", "--seed", "7", "--workers", "2")
    assert (result["episodes"], result["successes"], result["failures"]) == (2, 1, {"near_miss": 1})
    episodes = {path.name: read_demonstration(path) for path in list_episodes(tmp_path)}
    assert {name: episode.success for name, episode in episodes.items()} == {
        "expert_000007": True,
        "near_miss_000007": False,
    }
    assert all(episode.true_progress is not None for episode in episodes.values())
    written = {path: path.stat().st_mtime_ns for path in list_episodes(tmp_path)}
    settings = json.loads((tmp_path / "demos.json").read_text())
    del settings["look"]  # as written before there were looks
    (tmp_path / "demos.json").write_text(json.dumps(settings))
    result = record("-n", "1", "--failures", "1", "--seed", "7")
    assert result["episodes_per_s"] == 0.0
    assert {path: path.stat().st_mtime_ns for path in list_episodes(tmp_path)} == written
    with pytest.raises(SystemExit):
        record("-n", "1", "--seed", "7", "--stride", "2")
    assert "stride" in capsys.readouterr().err


def test_a_cluster_that_is_gone_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(SystemExit):
        demos.main(["PickCube", "-n", "1", "--out", str(tmp_path / "raw")])
    assert "RAY_ADDRESS" in capsys.readouterr().err


def test_a_folder_that_others_record_into_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with only_writer(tmp_path), pytest.raises(SystemExit) as ended:
        demos.main(["PickCube", "-n", "1", "--out", str(tmp_path)])
    assert ended.value.code == 1
    assert "another command is writing to this folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
