"""The suite for drivers passes the example, and names what is wrong with broken ones."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.robots.__main__ import main
from actors.robots.check import check_driver
from actors.robots.drivers import Completed, make_robot
from actors.robots.example import ExampleArm
from actors.robots.limits import Limits, load_limits
from dopamine_rl.errors import BadInput

FILE = Path(__file__).resolve().parents[3] / "actors" / "robots" / "example.toml"


@pytest.fixture(scope="module")
def limits() -> Limits:
    return load_limits(FILE)


def broken(robot: Any, limits: Limits, **rest: Any) -> list[str]:
    return [finding.rule for finding in check_driver(robot, limits, **rest) if finding.state == "broken"]


def test_the_example_is_in_order_also_where_it_moves(limits: Limits) -> None:
    unhurried = replace(limits, rate_hz=5.0)
    findings = check_driver(ExampleArm(), unhurried, move=True)
    assert {finding.state for finding in findings} == {"ok"}
    assert {"x.pos moves", "hold", "stop", "tool_after", "keeps its rate"} <= {finding.rule for finding in findings}


class Unlike(ExampleArm):
    def get_observation(self) -> dict[str, Any]:
        return {**super().get_observation(), "top": np.zeros((3, 3, 3), np.uint8)}


class Blind(ExampleArm):
    def get_observation(self) -> dict[str, Any]:
        return {**super().get_observation(), "x.pos": math.nan}


class Mute(ExampleArm):
    def send_action(self, action: Any) -> Any:
        return None


class Mirrored(ExampleArm):
    def send_action(self, action: Any) -> Any:
        return super().send_action({name: -value for name, value in action.items()})


class Slow(ExampleArm):
    def get_observation(self) -> dict[str, Any]:
        time.sleep(0.06)
        return super().get_observation()


class Hanging(ExampleArm):
    def hold(self) -> None:
        time.sleep(3.0)


class Raising(ExampleArm):
    def stop(self) -> None:
        raise OSError("no port")


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (Unlike, "observations"),
        (Blind, "observations"),
        (Mute, "says what it executed"),
        (Mirrored, "x.pos moves"),
        (Slow, "keeps its rate"),
        (Hanging, "does not hang"),
        (Raising, "does not raise"),
    ],
)
def test_a_broken_driver_is_named(kind: Any, rule: str, limits: Limits) -> None:
    assert rule in broken(kind(), limits, move=kind is Mirrored, deadline_s=1.0 if kind is Hanging else 30.0)


def test_other_limits_are_not_this_robots(limits: Limits) -> None:
    robot = ExampleArm()
    robot.action_features = {"x.pos": float}
    assert broken(robot, limits) == ["limits"]


class LeRobotLike:
    """As LeRobot's robots are: without hold and stop, its motors behind a bus."""

    def __init__(self) -> None:
        self._arm = ExampleArm()
        self.bus, self.off = self, 0
        self.observation_features, self.action_features = self._arm.observation_features, self._arm.action_features

    @property
    def is_connected(self) -> bool:
        return self._arm.is_connected

    def __getattr__(self, name: str) -> Any:
        if name in ("connect", "disconnect", "get_observation", "send_action"):
            return getattr(self._arm, name)
        raise AttributeError(name)

    def disable_torque(self) -> None:
        self.off += 1


def test_a_driver_without_hold_and_stop_is_completed(limits: Limits) -> None:
    robot = make_robot("tests.actors.robots.test_check:LeRobotLike", "{}", limits)
    assert isinstance(robot, Completed)
    states = {finding.rule: finding.state for finding in check_driver(robot, limits)}
    assert states["holds while a call blocks"] == "note"
    assert "broken" not in states.values()
    assert robot.robot.off == 1
    robot.send_action({"x.pos": 0.3, "y.pos": 0.2})
    robot.hold()
    assert robot.get_observation()["x.pos"] == pytest.approx(0.3)


def test_what_is_no_driver_is_named(limits: Limits) -> None:
    for name, keywords, field in [
        ("actors.robots.example:AXES", "{}", "MODULE:CLASS"),
        ("builtins:object", "{}", "MODULE:CLASS"),
        ("actors.robots.example:make", '{"port": 1}', "kwargs"),
    ]:
        with pytest.raises(BadInput) as error:
            make_robot(name, keywords, limits)
        assert error.value.field == field


def test_the_commands_of_a_robots_computer(capsys: pytest.CaptureFixture[str]) -> None:
    main(["limits", str(FILE)])
    assert "20 control periods per second" in capsys.readouterr().out
    main(["check", "actors.robots.example:make", "--limits", str(FILE)])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ok"]
    for words, text in [
        (["check", "actors.robots.example:make"], "give --limits FILE"),
        (["serve", "actors.robots.example:make", "--limits", "none.toml"], "give the robot's limits file"),
    ]:
        with pytest.raises(SystemExit):
            main(words)
        assert text in capsys.readouterr().err
