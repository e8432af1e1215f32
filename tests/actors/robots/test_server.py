"""A real server on a real connection, before a robot that can misbehave."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.robots.client import RemoteRobot
from actors.robots.limits import Limits
from actors.robots.server import Listening, RobotServer
from actors.robots.wire import LENGTH, pack, receive
from dopamine_rl.errors import BadInput, RobotError, RobotLost
from tests.actors.robots.arms import LIMITS, RATE_HZ, STRICT, TestArm, served
from tests.reward_service.certificates import write_certificate

TOKEN = "a token of some length"


@pytest.fixture
def arm() -> TestArm:
    return TestArm()


@pytest.fixture
def limits() -> Limits:
    return LIMITS


@pytest.fixture
def server(arm: TestArm, limits: Limits) -> Iterator[RobotServer]:
    with served(arm, Listening(token=TOKEN), limits) as made:
        yield made


@pytest.fixture
def robot(server: RobotServer) -> Iterator[RemoteRobot]:
    with RemoteRobot(server.address, TOKEN, name="arm", timeout_s=3.0) as made:
        made.take()
        yield made


def person_at(server: RobotServer) -> RemoteRobot:
    return RemoteRobot(server.address, TOKEN, rank="person", name="Kim", timeout_s=3.0)


def suppressed(call: Callable[..., Any], *args: Any, **fields: Any) -> None:
    with contextlib.suppress(RobotError):
        call(*args, **fields)


def until(condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, "it does not happen"
        time.sleep(0.005)


def test_a_remote_robot_executes_and_observes_as_the_driver_does(robot: RemoteRobot, arm: TestArm) -> None:
    assert robot.observation_features == arm.observation_features
    assert robot.limits == LIMITS
    executed = robot.send_action({"x": 0.05})
    assert executed == pytest.approx({"x": 0.05})
    observation = robot.get_observation()
    assert (observation["x"], set(observation)) == (pytest.approx(0.05), {"x", "top"})
    np.testing.assert_array_equal(observation["top"], np.full((4, 4, 3), 7))
    assert abs(time.monotonic() - robot.observed.observed_s) < 0.5
    assert robot.send_action({"x": 0.9}) == pytest.approx({"x": 0.15})  # 5 per s at 50 Hz
    assert robot.executed.by == "policy"
    with pytest.raises(RobotError, match="not a finite number"):
        robot.send_action({"x": np.nan})


def test_a_client_is_never_faster_than_the_control_rate(robot: RemoteRobot) -> None:
    robot.send_action({"x": 0.0})
    first, began = robot.executed.period, time.monotonic()
    for _ in range(10):
        robot.send_action({"x": 0.0})
        robot.get_observation()
    periods = robot.executed.period - first
    assert periods >= 10
    assert (time.monotonic() - began) * RATE_HZ >= periods - 2.0


@pytest.mark.parametrize("limits", [STRICT])
def test_without_commands_the_robot_holds_in_time_and_then_stops(robot: RemoteRobot, arm: TestArm) -> None:
    robot.send_action({"x": 0.1})
    last_s = time.monotonic()
    begun = len(arm.calls("hold"))
    until(lambda: arm.calls("stop"))
    (held_s, _), (stopped_s, _) = arm.calls("hold")[begun], arm.calls("stop")[0]
    assert held_s - last_s < (STRICT.hold_after_ms / 1e3) + 2 * STRICT.period_s + 0.05
    assert stopped_s - last_s > STRICT.stop_after_ms / 1e3 - 0.05
    with pytest.raises(RobotError, match="stopped"):
        robot.send_action({"x": 0.2})
    robot.take()
    assert robot.send_action({"x": 0.9})["x"] == pytest.approx(0.2)  # from the pose where it stands


@pytest.mark.parametrize("limits", [STRICT])
def test_hold_and_stop_run_while_the_driver_blocks(robot: RemoteRobot, arm: TestArm, server: RobotServer) -> None:
    robot.send_action({"x": 0.1})
    begun = len(arm.calls("hold"))
    arm.released.clear()
    blocked = threading.Thread(target=lambda: suppressed(robot.send_action, {"x": 0.2}))
    blocked.start()
    until(lambda: len(arm.calls("hold")) > begun)
    with person_at(server) as person:
        until(lambda: "send_action blocks" in person.status()["hung"])
        person.stop()
        until(lambda: arm.calls("stop"))
        told = len(arm.calls("send_action"))
        arm.released.set()
        until(lambda: len(arm.calls("stop")) > 1)  # once more, now that the call has returned
        assert person.status()["latched"]
    blocked.join()
    assert len(arm.calls("send_action")) == told


def test_a_person_takes_over_and_gives_back(robot: RemoteRobot, arm: TestArm, server: RobotServer) -> None:
    robot.send_action({"x": 0.1})
    with person_at(server) as person:
        person.take()
        told = threading.Thread(target=lambda: person.send_action({"x": -0.9}))
        told.start()
        seen = []
        until(lambda: seen.append((robot.send_action({"x": 0.9})["x"], robot.executed.by)) or seen[-1][1] == "person")
        told.join()
        assert seen[-1][0] == pytest.approx(0.0)  # executed for the person, told to the policy
        person.label("success")
    until(lambda: robot.status()["in_control"])
    assert robot.send_action({"x": 0.9})["x"] == pytest.approx(arm.calls("send_action")[-2][1] + 0.1)
    assert robot.executed.label == (1, "success")


def test_an_emergency_stop_is_open_to_all_and_ended_by_a_person(robot: RemoteRobot, server: RobotServer) -> None:
    with RemoteRobot(server.address, TOKEN, rank="watch") as watcher, person_at(server) as person:
        with pytest.raises(RobotError, match="watches"):
            watcher.take()
        watcher.stop()
        for refused in (lambda: robot.send_action({"x": 0.0}), robot.take, robot.rearm):
            with pytest.raises(RobotError):
                refused()
        person.rearm()
        robot.take()
        robot.send_action({"x": 0.0})


def test_a_lost_client_loses_control_and_the_robot_holds(robot: RemoteRobot, arm: TestArm, server: RobotServer) -> None:
    robot.send_action({"x": 0.1})
    held = len(arm.calls("hold"))
    robot.disconnect()
    until(lambda: len(arm.calls("hold")) > held)
    with pytest.raises(RobotLost):
        robot.get_observation()
    robot.connect()
    robot.take()
    assert robot.send_action({"x": 0.9})["x"] == pytest.approx(0.2)


def test_a_reset_is_the_drivers_and_no_command_counts_meanwhile(robot: RemoteRobot, arm: TestArm) -> None:
    robot.begin_reset(30)
    with pytest.raises(RobotError, match="being reset"):
        robot.send_action({"x": 0.0})
    until(lambda: not robot.status()["resetting"])
    assert robot.send_action({"x": 0.3})["x"] == pytest.approx(0.3)


def test_a_command_that_the_driver_refuses_holds_the_robot(robot: RemoteRobot, arm: TestArm) -> None:
    arm.fails, begun = "send_action", len(arm.calls("hold"))
    robot.send_action({"x": 0.1})
    assert (robot.executed.by, robot.executed.reason) == ("nobody", "the driver refused: ValueError: refused")
    until(lambda: len(arm.calls("hold")) > begun)
    arm.fails = ""
    assert robot.send_action({"x": 0.05})["x"] == pytest.approx(0.05)


def test_a_camera_that_fails_for_long_ends_in_an_emergency_stop(robot: RemoteRobot, arm: TestArm) -> None:
    arm.fails = "get_observation"
    until(lambda: "get_observation failed: TimeoutError: camera" in robot.status()["reason"])
    until(lambda: arm.calls("stop"))
    robot.get_observation()  # the last one
    with pytest.raises(RobotError, match="camera"):
        robot.get_observation()


def test_a_dry_run_tells_the_robot_nothing(arm: TestArm) -> None:
    with served(arm, dry_run=True) as server, RemoteRobot(server.address, "") as robot:
        robot.take()
        assert robot.send_action({"x": 0.9})["x"] == pytest.approx(0.1)
        time.sleep(0.2)
        assert (arm.told, robot.about["dry_run"]) == ([], True)


def spoken(server: RobotServer, *messages: bytes) -> dict[str, Any]:
    """The server's last answer to bytes after a valid hello."""
    with RemoteRobot(server.address, TOKEN) as robot:
        connection = robot._socket
        assert connection is not None
        connection.sendall(b"".join(messages))
        return receive(connection, 1 << 20)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (LENGTH.pack(1 << 30), "at most"),
        (LENGTH.pack(3) + b"abc", "not a m"),
        (pack({"kind": "ping", "n": 1}), "message 1 after"),
        (pack({"kind": "ping", "n": 99}), "message 99 after"),
        (pack({"kind": "connect", "n": 7}), "unknown kind"),
        (pack({"kind": "ping", "n": [[[[[[1]]]]]]}), "too deep"),
        (pack({"kind": "ping", "n": "7"}), "message '7' after"),
    ],
)
def test_what_is_no_message_ends_the_connection(server: RobotServer, message: bytes, reason: str) -> None:
    """A hello and five pings precede it, so the next number is 7."""
    assert reason in spoken(server, message)["reason"]
    until(lambda: server.connections == 0)


@pytest.mark.parametrize("token", ["", "another token of some length"])
def test_who_does_not_know_the_token_is_turned_away(server: RobotServer, token: str) -> None:
    with pytest.raises(RobotError, match="token is wrong"):
        RemoteRobot(server.address, token).connect()


def test_a_recorded_hello_opens_no_second_connection(server: RobotServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    monkeypatch.setattr("actors.robots.client.pack", lambda message: sent.append(pack(message)) or sent[-1])
    with RemoteRobot(server.address, TOKEN):
        pass
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), 2.0) as connection:
        receive(connection, 1 << 16)
        connection.sendall(sent[0])
        assert "token" in receive(connection, 1 << 16)["reason"]


@pytest.mark.parametrize("connections", [60, pytest.param(4000, marks=pytest.mark.long)])
def test_any_bytes_move_nothing_and_leave_nothing_behind(server: RobotServer, arm: TestArm, connections: int) -> None:
    """Up to 20 000 messages that are malformed, out of order, or without the token."""
    rng, host, port = np.random.default_rng(0), *server.address.split(":")
    threads = threading.active_count()
    kinds = ["act", "take", "hold", "observe", "ping", "hello", "reset", "label", "give", "rearm", "status", "ask"]
    values: list[Any] = [
        None,
        -1,
        2**63,
        0.5,
        float("nan"),
        "x",
        b"\x00",
        [],
        {},
        {"x": float("nan")},
        {"x": [1]},
        {"y": 1},
    ]

    def garbage() -> bytes:
        kind = rng.integers(4)
        if kind == 0:
            return rng.bytes(int(rng.integers(1, 60)))
        fields = {
            key: values[rng.integers(len(values))] for key in ("action", "sent_s", "after", "seed", "label", "text")
        }
        whole = {"kind": kinds[rng.integers(len(kinds))], "n": int(rng.integers(0, 4)), **fields}
        data = bytearray(pack(whole))
        if kind == 1:
            data[rng.integers(4, len(data))] ^= 1 << int(rng.integers(8))
        return bytes(data)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(connections):
        with socket.create_connection((host, int(port)), 2.0) as connection:
            try:
                for _ in range(5):
                    connection.sendall(garbage())
            except OSError:
                pass
    with RemoteRobot(server.address, TOKEN) as robot:  # valid numbers, wild contents, without control
        for _ in range(100):
            fields = {key: values[rng.integers(len(values))] for key in ("action", "sent_s", "after", "seed", "label")}
            kind = kinds[rng.integers(len(kinds))].replace("take", "act").replace("hello", "ping")
            suppressed(robot._ask, kind, **fields)
            assert robot.is_connected
    assert arm.calls("send_action") == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kB
    until(lambda: server.connections == 0, 8.0)
    until(lambda: threading.active_count() <= threads + 1, 8.0)


def test_off_loopback_a_server_asks_for_tls_and_a_token() -> None:
    for listening, field in [
        ({"host": "0.0.0.0", "token": TOKEN}, "host"),
        ({"host": "0.0.0.0", "insecure": True}, "token"),
    ]:
        with pytest.raises(BadInput) as error:
            Listening(**listening)  # type: ignore[arg-type]
        assert error.value.field == field
    with pytest.raises(BadInput):
        Listening(token="short")
    Listening("0.0.0.0", token=TOKEN, insecure=True)


def test_tls_carries_everything_and_a_stranger_is_not_trusted(arm: TestArm, tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "arm")
    other, _ = write_certificate(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with served(arm, Listening(token=TOKEN, tls=context)) as server:
        with RemoteRobot(server.address, TOKEN, tls_ca=certificate) as robot:
            robot.take()
            assert robot.send_action({"x": 0.01})["x"] == pytest.approx(0.01)
        with pytest.raises(RobotLost):
            RemoteRobot(server.address, TOKEN, tls_ca=other).connect()
        with pytest.raises(RobotLost):
            RemoteRobot(server.address, TOKEN, timeout_s=1.0).connect()
