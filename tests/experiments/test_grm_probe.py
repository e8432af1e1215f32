"""`dopamine grm probe`: the environment is the demonstration's, what does not fit it is named, figures are written."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.maniskill import EnvConfig
from actors.tasks import TASKS
from dopamine_rl.config import dump_toml
from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.errors import BadInput
from dopamine_rl.grm.checkpoint import save_grm
from dopamine_rl.grm.model import build_grm
from experiments import cli
from experiments.commands import grm_probe
from experiments.job.demonstrations import SETTINGS, environment_folder, recorded_in
from experiments.runtime.ending import UsageError
from experiments.settings import ExperimentConfig
from tests.dopamine_rl.grm_toys import TINY
from tests.experiments.test_grm_score import recorded

PEG = "PegInsertionSide-v1"
ENV = EnvConfig(views=("front", "wrist"), image_size=56, standoff_m=0.04)


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `dopamine demos` leaves it, with a success and a failure of 56 pixels."""
    folder = tmp_path_factory.mktemp("demos")
    for name, success in (("expert_000001", True), ("stall_000001", False)):
        write_demonstration(folder, recorded(name, 1, success))
    (folder / SETTINGS).write_text(json.dumps({**asdict(ENV), "oracle": True, "trajectories": None}))
    return folder


def arguments(*words: object) -> grm_probe.Arguments:
    return grm_probe.parse([str(word) for word in words])


def refused(call: Callable[[], Any], field: str, fix: str) -> None:
    with pytest.raises(BadInput) as caught:
        call()
    assert caught.value.field == field
    assert fix in caught.value.fix


def test_the_environment_is_the_one_that_the_demonstration_was_recorded_in(demos: Path, tmp_path: Path) -> None:
    assert recorded_in(demos / "expert_000001") == replace(ENV, oracle=True)
    given = arguments("m", "--demo", demos / "expert_000001", "--task", "PegInsertionSide", "--out", tmp_path / "o")
    env = grm_probe.environment(given)
    assert env == ENV
    plan = grm_probe.read_plan(given, env)
    assert (plan.instruction, plan.size, plan.views) == ("push the block", (56, 56), 2)


def test_a_run_s_demonstration_has_the_run_s_environment_unless_that_has_changed_since(tmp_path: Path) -> None:
    config = replace(ExperimentConfig(), env=ENV)
    (tmp_path / "config.toml").write_text(dump_toml(config))
    folder = tmp_path / "demonstrations" / environment_folder(ENV) / "reward_model_stride_1" / "expert_001000"
    folder.mkdir(parents=True)
    assert recorded_in(folder) == ENV
    (tmp_path / "config.toml").write_text(dump_toml(replace(config, env=replace(ENV, geometry_seed=1))))
    refused(lambda: recorded_in(folder), "--env", "name the preset")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"views": 3}', '{"horizon": 0}', '{"views": ["front", "rear"]}'])
def test_settings_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / SETTINGS).write_text(text)
    refused(lambda: recorded_in(tmp_path / "expert_1"), "--env", "name the preset")


def test_what_does_not_fit_is_named_with_the_fix(demos: Path, tmp_path: Path) -> None:
    good = demos / "expert_000001"
    alone = write_demonstration(tmp_path / "alone", recorded("expert_1", 1))

    def environment(*words: object) -> Callable[[], Any]:
        return lambda: grm_probe.environment(arguments("m", *words))

    def plan(*words: object) -> Callable[[], Any]:
        given = arguments("m", *words)
        return lambda: grm_probe.read_plan(given, ENV)

    refused(environment("--demo", alone), "--env", "name the preset")
    refused(environment("--demo", tmp_path / "none"), "--demo", "no such file")
    refused(environment("--demo", demos), "--demo", "it holds 2 episodes: give one")
    refused(environment("--demo", good, "--task", "Sweep"), "--task", "give one of PickCube")
    refused(
        environment("--demo", good, "--task", "PlugCharger"), "--task", "give PegInsertionSide, or leave it out: it"
    )
    preset = ("--env", "laptop", "--task", "PlugCharger")
    refused(environment("--demo", good, *preset), "--task", "PegInsertionSide, or leave it out: --env laptop is for it")
    refused(environment("--demo", good, "--env", "lap"), "--env", "laptop")
    refused(plan("--demo", demos), "--demo", "it holds 2 episodes")
    refused(plan("--demo", demos / "stall_000001"), "--demo", "it failed")
    three = grm_probe.environment(arguments("m", "--demo", good, "--env", "smoke"))
    refused(
        lambda: grm_probe.read_plan(arguments("m", "--demo", good), three),
        "--env",
        "3 views of 112x112, the demonstration 2 views of 56x56: name the preset",
    )


def test_a_task_without_a_hole_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    write_demonstration(tmp_path, recorded("expert_1", 1))
    cube = EnvConfig(task="PickCube-v1", start="standard")
    (tmp_path / SETTINGS).write_text(json.dumps(asdict(cube)))
    given = arguments("m", "--demo", tmp_path / "expert_1")
    refused(lambda: grm_probe.run(given), "--demo", "a demonstration of PegInsertionSide or PlugCharger")


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["--demo", "d"], "MODEL"),
        (["m", "--url", "http://a", "--demo", "d"], "MODEL"),
        (["m"], "--demo"),
        (["m", "--demo", "d", "--seed", "-1"], "--seed"),
        (["m", "--demo", "d", "--deadline-s", "0"], "--deadline-s"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(words: list[str], field: str) -> None:
    with pytest.raises(UsageError, match=field):
        arguments(*words)


def test_a_report_of_something_else_is_not_replaced(demos: Path, tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_text("{}")
    given = arguments("m", "--demo", demos / "expert_000001", "--out", tmp_path)
    refused(lambda: grm_probe.run(given), "--out", "give another folder")


@pytest.mark.render
def test_a_model_is_probed_in_the_simulator(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = TASKS[PEG].place
    assert place is not None
    few = replace(place, gaps_m=(0.03, 0.003), offsets_m=(0.0, 0.004, 0.03))
    monkeypatch.setitem(TASKS, PEG, replace(TASKS[PEG], place=few))
    model, out = tmp_path / "grm", tmp_path / "out"
    save_grm(build_grm(TINY), model, {})
    cli.main(["grm", "probe", str(model), "--demo", str(demos / "expert_000001"), "--threads", "1", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    last = json.loads(lines[-1])
    assert json.loads((out / "probe.json").read_text()) == last
    assert (out / "probe.png").stat().st_size > 5000
    assert (last["task"], last["states"], last["invalid"]) == (PEG, 18, 0)
    assert last["truth"]["probe_rank"] == pytest.approx(1.0)
    assert last["truth"]["probe_trade"] < 0 < len(last["model_version"])
    assert np.shape(last["progress"]) == np.shape(last["truth"]["progress"]) == (2, 3)
    assert last["probe_rank"] == min(last["ranks"])
    assert last["probe_trade"] == pytest.approx(last["progress"][1][2] - last["progress"][0][0])
    table = "\n".join(lines)
    assert "3 mm away and 30 mm off minus 30 mm away and aligned; wanted below 0" in table
    [row] = [line.split() for line in lines if line.split()[:1] == ["probe_rank"]]
    assert row[2] == "1.000"
