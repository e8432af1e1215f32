"""A person takes a robot over from a policy and gives it back, by keys."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from actors.robots.client import RemoteRobot
from actors.robots.drive import DriveArguments, Person, drive
from actors.robots.keyboard import Keyboard
from actors.robots.server import RobotServer
from dopamine_rl.errors import BadInput, RobotError
from tests.actors.robots.arms import LIMITS, TestArm, served


class Typing:
    """Keys that a test presses."""

    def __init__(self) -> None:
        self.keys = ""

    def __call__(self) -> str:
        keys, self.keys = self.keys, ""
        return keys


@pytest.fixture
def arm() -> TestArm:
    return TestArm()


@pytest.fixture
def server(arm: TestArm) -> Iterator[RobotServer]:
    with served(arm) as made:
        yield made


def test_a_person_takes_over_while_a_key_is_held_and_the_policy_goes_on(server: RobotServer, arm: TestArm) -> None:
    typing = Typing()
    with RemoteRobot(server.address, "") as policy, RemoteRobot(server.address, "", "person", "Kim") as hand:
        policy.take()
        policy.send_action({"x": 0.1})
        person = Person(hand, Keyboard(hand.limits, lambda: hand.observed.values, typing))
        seen: list[tuple[str, float]] = []
        ends = threading.Event()

        def act() -> None:
            while not ends.is_set():
                try:
                    value = policy.send_action({"x": 0.1})["x"]
                    seen.append((policy.executed.by, value))
                except RobotError:
                    time.sleep(0.005)  # between the take-over and the first step of the person

        acting = threading.Thread(target=act)
        acting.start()
        for _ in range(6):
            typing.keys = "d"
            person.turn()
        assert "person Kim" in hand.status()["holder"]
        ends_s = time.monotonic() + 3.0
        while "Kim" in hand.status()["holder"] and time.monotonic() < ends_s:
            person.turn()
        assert "policy" in hand.status()["holder"]
        while seen[-1] != ("policy", 0.1) and time.monotonic() < ends_s + 3.0:
            time.sleep(0.01)
        ends.set()
        acting.join()
    driven = [value for by, value in seen if by == "person"]
    assert max(driven) > 0.3  # six half steps of 0.05 beyond 0.1, or nearly
    jumps = [abs(after - before) for (_, before), (_, after) in itertools.pairwise(arm.calls("send_action"))]
    assert max(jumps) <= 0.1 + 1e-9  # 5 per s at 50 Hz
    assert seen[-1] == ("policy", pytest.approx(0.1))


def test_keys_say_what_happened_and_stop_the_robot(server: RobotServer) -> None:
    typing = Typing()
    with RemoteRobot(server.address, "", "person", "Kim") as hand:
        person = Person(hand, Keyboard(hand.limits, lambda: hand.observed.values, typing))
        for key, label in [("1", "success"), ("0", "failure"), ("x", "discard"), ("\r", "ready")]:
            typing.keys = key
            assert person.turn()
            assert hand.status()["label"][1] == label
        typing.keys = "d "
        person.turn()
        assert hand.status()["latched"]
        typing.keys = "!"
        person.turn()
        assert not hand.status()["latched"]
        typing.keys = "q"
        assert not person.turn()


def test_a_leader_arm_drives_all_the_time(server: RobotServer) -> None:
    """LeRobot's teleoperators that say nothing of events."""

    class Leader:
        def connect(self) -> None: ...

        def disconnect(self) -> None: ...

        def get_action(self) -> dict[str, float]:
            return {"x": 0.3}

        def get_teleop_events(self) -> dict[str, bool]:
            raise AssertionError

    Leader.get_teleop_events = None  # type: ignore[assignment]
    with RemoteRobot(server.address, "", "person") as hand:
        person = Person(hand, Leader())
        for _ in range(8):
            person.turn()
        assert hand.get_observation()["x"] == pytest.approx(0.3)


def test_what_cannot_drive_is_named(server: RobotServer) -> None:
    with pytest.raises(BadInput, match="start it in a terminal"):
        drive(DriveArguments(server.address))
    with pytest.raises(BadInput, match="give it `connect`"):
        drive(DriveArguments(server.address, teleoperator="builtins:dict"))
    assert LIMITS.step_of("x") == pytest.approx(0.1)
