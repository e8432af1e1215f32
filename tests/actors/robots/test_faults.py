"""Faults happen as they are asked for, and what protects the robot sees them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from actors.robots.client import RemoteRobot
from actors.robots.faults import Faults, FaultyLink, FaultyRobot
from actors.robots.limits import AxisLimits, Limits
from dopamine_rl.errors import BadInput, RobotError, RobotLost
from tests.actors.robots.arms import LIMITS, TestArm, served

WATCHED = Limits(50.0, 3000.0, 6000.0, {"x": AxisLimits("position", 5.0, 500.0, -1.0, 1.0, error=0.05)})


def test_a_stuck_joint_is_seen_and_held() -> None:
    with served(FaultyRobot(TestArm(), Faults(stuck="x")), limits=WATCHED) as server:
        with RemoteRobot(server.address, "") as robot:
            robot.take()
            reasons = []
            for _ in range(4):
                robot.send_action({"x": 0.9})
                reasons.append(robot.executed.reason)
        assert any("x does not follow" in reason for reason in reasons)


def test_a_frozen_camera_shows_its_first_picture() -> None:
    robot = FaultyRobot(TestArm(), Faults(frozen="top"))
    first = robot.get_observation()["top"]
    robot._robot.get_observation = lambda: {"x": 0.0, "top": np.zeros((4, 4, 3), np.uint8)}
    np.testing.assert_array_equal(robot.get_observation()["top"], first)


def test_a_share_of_the_commands_is_refused_and_the_others_are_executed() -> None:
    robot, refused = FaultyRobot(TestArm(), Faults(refuse=0.3)), 0
    for _ in range(100):
        try:
            robot.send_action({"x": 0.0})
        except RobotError:
            refused += 1
    assert 15 < refused < 45


@contextmanager
def through(arm: TestArm, faults: Faults, limits: Limits = LIMITS) -> Iterator[RemoteRobot]:
    """A robot behind a way with faults."""
    with (
        served(arm, limits=limits) as server,
        FaultyLink(server.address, faults) as link,
        RemoteRobot(link.address, "") as robot,
    ):
        yield robot


@pytest.mark.parametrize("faults", [Faults(latency_ms=30.0), Faults(jitter_ms=60.0), Faults(loss=0.3)])
def test_a_slow_way_is_slow_and_carries_everything(faults: Faults) -> None:
    with through(TestArm(), faults) as robot:
        spent = []
        for _ in range(12):
            began = time.monotonic()
            robot.status()
            spent.append(time.monotonic() - began)
        assert 0.05 < max(spent) < 3.0
        assert abs(robot._offset_s) < 0.15  # one computer, one clock


def test_an_action_that_was_late_on_the_way_does_not_move_the_robot() -> None:
    strict = replace(LIMITS, hold_after_ms=100.0)
    with through(TestArm(), Faults(latency_ms=150.0), strict) as robot:
        robot.take()
        with pytest.raises(RobotError, match=r"ms old|stopped"):
            robot.send_action({"x": 0.1})


def observe_for_ever(robot: RemoteRobot) -> None:
    while True:
        robot.get_observation()


def test_a_connection_breaks_when_it_should_and_can_be_made_again() -> None:
    with served(TestArm()) as server, FaultyLink(server.address, Faults(disconnect_every_s=0.5)) as link:
        robot = RemoteRobot(link.address, "")
        for _ in range(2):
            robot.connect()
            with pytest.raises(RobotLost):
                observe_for_ever(robot)


def test_what_the_robot_does_not_have_cannot_be_broken() -> None:
    for faults, field in [(Faults(stuck="y"), "faults.stuck"), (Faults(frozen="side"), "faults.frozen")]:
        with pytest.raises(BadInput) as error:
            FaultyRobot(TestArm(), faults)
        assert error.value.field == field
    with pytest.raises(BadInput):
        Faults(loss=1.5)


@pytest.mark.parametrize("again", [False, True])
def test_a_frozen_camera_holds_the_robot_until_it_shows_something_new(again: bool) -> None:
    """`again`: the driver fills the same array for every picture, which must not look frozen."""
    arm, picture = TestArm(), np.zeros((4, 4, 3), np.uint8)
    limits = replace(LIMITS, frozen_after_ms=200.0)

    def observe() -> dict[str, object]:
        picture[0, 0] = len(arm.told) % 200
        return {"x": arm.x, "top": picture if again else picture.copy()}

    arm.get_observation = observe  # type: ignore[method-assign]
    robot = FaultyRobot(arm, Faults())
    with served(robot, limits=limits) as server, RemoteRobot(server.address, "") as policy:
        policy.take()

        def swing(count: int) -> None:
            for step in range(count):
                policy.send_action({"x": 0.05 * (step % 4 - 2)})

        swing(30)
        robot.faults = Faults(frozen="top")
        with pytest.raises(RobotError, match="camera top shows the same picture while the robot moves"):
            swing(60)
        told = len(arm.calls("send_action"))
        assert arm.calls("hold")
        with RemoteRobot(server.address, "", "person") as person:
            person.take()
            person.send_action({"x": 0.0})  # a person sees for themselves
            assert len(arm.calls("send_action")) > told
            assert person.status()["counts"]["frozen"] == 1
            robot.faults = Faults()
            person.send_action({"x": 0.05})
        policy.get_observation()
        policy.send_action({"x": 0.0})


def test_pictures_that_stay_the_same_while_nothing_moves_are_no_fault() -> None:
    with (
        served(TestArm(), limits=replace(LIMITS, frozen_after_ms=40.0)) as server,
        RemoteRobot(server.address, "") as robot,
    ):
        robot.take()
        for _ in range(20):
            robot.send_action({"x": 0.0})
        assert robot.executed.by == "policy"
