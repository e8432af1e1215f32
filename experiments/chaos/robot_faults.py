"""The faults of a robot, its cameras, the way to it, and the people and programs around it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.robots.faults import Faults
from actors.robots.limits import Limits
from actors.robots.wire import pack, receive, split_address
from dopamine_rl.errors import RobotError

if TYPE_CHECKING:
    from experiments.chaos.robot_system import Drill

PIECES = 100
"""Messages of strangers."""
BEYOND_S = 0.6
"""How much longer than the watchdog waits a fault lasts."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Args:
        inject: begins it, ends it, and returns the time.monotonic() from which the robot had to hold.
        within_s: the time that the robot may take, without the two control periods that it always has; None where it
            need not hold.
    """

    inject: Callable[[Drill], float]
    within_s: Callable[[Limits], float] | None = None


def _at_once(limits: Limits) -> float:
    return 0.0


def _watchdog(limits: Limits) -> float:
    return limits.hold_after_ms / 1e3


def _frozen(limits: Limits) -> float:
    return 1.5 * limits.frozen_after_ms / 1e3  # only motion counts


def connection_breaks(drill: Drill) -> float:
    """The connection is closed."""
    began_s = time.monotonic()
    drill.link.cut()
    time.sleep(_watchdog(drill.limits) + BEYOND_S)
    return began_s


def network_is_silent(drill: Drill) -> float:
    """Nothing comes through."""
    began_s, for_s = time.monotonic(), _watchdog(drill.limits) + BEYOND_S
    drill.link.silence(for_s)
    time.sleep(for_s)
    return began_s


def network_is_slow(drill: Drill) -> float:
    """Everything arrives later than an action may, but what is on its way already."""
    began_s = time.monotonic() + drill.limits.period_s
    drill.link.faults = Faults(latency_ms=2.0 * drill.limits.hold_after_ms)
    time.sleep(2.0 * _watchdog(drill.limits) + BEYOND_S)
    drill.link.faults = Faults()
    return began_s


def policy_sends_nothing(drill: Drill) -> float:
    """It thinks for too long."""
    steps = drill.actor.steps
    drill.actor.pause_s = _watchdog(drill.limits) + BEYOND_S
    drill.wait(lambda: drill.actor.steps > steps, 5.0)
    began_s = time.monotonic()
    time.sleep(drill.actor.pause_s)
    drill.actor.pause_s = 0.0
    return began_s


def policy_sends_no_number(drill: Drill) -> float:
    """Its action is NaN."""
    cut_off = drill.actor.cut_off
    drill.actor.nonsense = True
    drill.wait(lambda: drill.actor.cut_off > cut_off, 10.0)
    drill.actor.nonsense = False
    return time.monotonic()


def strangers_send_garbage(drill: Drill) -> float:
    """Bytes that are no message, messages out of order, and without the token."""
    rng = drill.rng
    host, port = split_address("address", drill.address)
    for _ in range(PIECES):
        with suppress(OSError), socket.create_connection((host, port), 2.0) as connection:
            hello = {"kind": "hello", "n": 1, "proof": os.urandom(32), "rank": "person", "name": "stranger"}
            act = {"kind": "act", "n": int(rng.integers(4)), "action": dict.fromkeys(drill.limits.axes, 1e6)}
            pieces = [rng.bytes(int(rng.integers(1, 200))), pack(hello) + pack(act), pack(act)]
            connection.sendall(pieces[int(rng.integers(len(pieces)))])
            with suppress(RobotError):
                while True:
                    receive(connection, 1 << 16)
    return time.monotonic()


def _cameras(drill: Drill) -> list[str]:
    features: Mapping[str, Any] = drill.witness.observation_features
    return [name for name, kind in features.items() if isinstance(kind, tuple)]


@contextmanager
def _spoiled(drill: Drill, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[float]:
    """What the robot measures is changed; yields when it first was."""
    began = threading.Event()
    when: list[float] = []

    def spoil(observation: dict[str, Any]) -> dict[str, Any]:
        changed = change(dict(observation))
        if not began.is_set():
            when.append(time.monotonic())
            began.set()
        return changed

    drill.witness.spoil = spoil
    try:
        began.wait(10.0)
        yield when[0] if when else time.monotonic()
    finally:
        drill.witness.spoil = dict


def camera_freezes(drill: Drill) -> float:
    """One picture stays the same."""
    name = str(drill.rng.choice(_cameras(drill)))
    first: list[Any] = []

    def freeze(observation: dict[str, Any]) -> dict[str, Any]:
        first.append(np.copy(observation[name])) if not first else None
        return {**observation, name: first[0]}

    frozen = drill.driving.supervisor.counts["frozen"]
    with _spoiled(drill, freeze) as began_s:
        drill.wait(lambda: drill.driving.supervisor.counts["frozen"] > frozen, 2.0 * _frozen(drill.limits))
        time.sleep(drill.limits.period_s)
    return began_s


def camera_fails(drill: Drill) -> float:
    """It has no picture for three periods."""
    return _fails(drill, "get_observation", 3)


def robot_measures_nonsense(drill: Drill) -> float:
    """Where its tool is, is not a number."""
    name = next(filter(None, map(drill.limits.measured_by, drill.limits.axes)))
    with _spoiled(drill, lambda observation: {**observation, name: float("nan")}) as began_s:
        time.sleep(2.5 * drill.limits.period_s)
    return began_s


def robot_refuses(drill: Drill) -> float:
    """It refuses two commands."""
    return _fails(drill, "send_action", 2)


def _fails(drill: Drill, call: str, times: int) -> float:
    """A call of the driver fails so often; returns when it first did."""
    failed: list[float] = []

    def trouble(name: str) -> None:
        if name == call and len(failed) < times:
            failed.append(time.monotonic())
            raise RobotError(f"{name} fails on purpose")

    drill.witness.trouble = trouble
    drill.wait(lambda: len(failed) >= times, 15.0)
    time.sleep(2.0 * drill.limits.period_s)
    drill.witness.trouble = _fine
    return failed[0] if failed else time.monotonic()


def robot_blocks(drill: Drill) -> float:
    """A command takes longer than the watchdog waits."""
    begun: list[float] = []
    for_s = _watchdog(drill.limits) + BEYOND_S

    def trouble(name: str) -> None:
        if name == "send_action" and not begun:
            begun.append(time.monotonic())
            time.sleep(for_s)

    drill.witness.trouble = trouble
    drill.wait(lambda: begun, 10.0)
    time.sleep(for_s)
    drill.witness.trouble = _fine
    return begun[0] if begun else time.monotonic()


def joint_is_stuck(drill: Drill) -> float:
    """One measurement stays what it was."""
    name = next(filter(None, map(drill.limits.measured_by, drill.limits.axes)))
    first: list[float] = []

    def stick(observation: dict[str, Any]) -> dict[str, Any]:
        first.append(observation[name]) if not first else None
        return {**observation, name: first[0]}

    with _spoiled(drill, stick):
        time.sleep(8 * drill.limits.period_s)
    return time.monotonic()


def person_takes_over(drill: Drill) -> float:
    """They drive for five periods, and let go."""
    with drill.client("person") as person:
        began_s = time.monotonic()
        person.take()
        for _ in range(5):
            action = drill.rng.uniform(-1.0, 1.0, len(drill.limits.axes))
            person.send_action(dict(zip(drill.limits.axes, map(float, action), strict=True)))
        person.give()
    return began_s


def emergency_stop(drill: Drill) -> float:
    """Who only watches presses it; a person re-arms."""
    with drill.client("watch") as watcher, drill.client("person") as person:
        began_s = time.monotonic()
        watcher.stop()
        time.sleep(BEYOND_S)
        person.rearm()
    return began_s


def _fine(name: str) -> None:
    pass


FAULTS: Mapping[str, Fault] = {
    "connection breaks": Fault(connection_breaks, _at_once),
    "network is silent": Fault(network_is_silent, _watchdog),
    "network is slow": Fault(network_is_slow, _watchdog),
    "policy sends nothing": Fault(policy_sends_nothing, _watchdog),
    "policy sends no number": Fault(policy_sends_no_number),
    "strangers send garbage": Fault(strangers_send_garbage),
    "camera freezes": Fault(camera_freezes, _frozen),
    "camera fails": Fault(camera_fails, _at_once),
    "robot measures nonsense": Fault(robot_measures_nonsense, _at_once),
    "robot refuses": Fault(robot_refuses, _at_once),
    "robot blocks": Fault(robot_blocks, _watchdog),
    "joint is stuck": Fault(joint_is_stuck),
    "person takes over": Fault(person_takes_over, _at_once),
    "emergency stop": Fault(emergency_stop, _at_once),
}
"""All kinds by name."""
