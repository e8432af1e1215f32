"""Notes what a robot is told, and judges it by arithmetic of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.robots.limits import Limits

SLACK = 1e-6
"""Share of a step by which an action may exceed it: rounding."""
SOON = 1.5
"""Periods after which an action no longer follows the one before."""
QUIET = ("hold", "stop", "reset")


@dataclass(frozen=True)
class Told:
    """One call of the driver.

    Args:
        when_s: time.monotonic() when it began.
        call: its name.
        values: of an action.
        tool: where the tool was before it, and would be after it.
    """

    when_s: float
    call: str
    values: Mapping[str, float]
    tool: tuple[Sequence[float], Sequence[float]] = ((), ())


class Witness:
    """A resettable driver with forward kinematics that notes what it is told, and can be made to fail.

    Args:
        robot: the driver.
    Attributes:
        told: every call that moves or stops the robot, in order.
        executed: what the driver says that it executed, in order.
        trouble: called before each of the driver's methods with its name; may block or raise.
        spoil: changes what is observed.
    """

    def __init__(self, robot: Any) -> None:
        self._robot = robot
        self.told: list[Told] = []
        self.executed: list[Mapping[str, float]] = []
        self.trouble: Callable[[str], None] = _nothing
        self.spoil: Callable[[dict[str, Any]], dict[str, Any]] = dict
        self._observed: Mapping[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._robot, name)

    def get_observation(self) -> Mapping[str, Any]:
        """The driver's."""
        self.trouble("get_observation")
        self._observed = self.spoil(self._robot.get_observation())
        return self._observed

    def send_action(self, action: Mapping[str, float]) -> Mapping[str, float]:
        """The driver's."""
        tool = tuple(tuple(self._robot.tool_after(self._observed, each)) for each in (None, action))
        self.told.append(Told(time.monotonic(), "send_action", dict(action), tool))  # type: ignore[arg-type]
        self.trouble("send_action")
        executed: Mapping[str, float] = self._robot.send_action(action)
        self.executed.append(executed)
        return executed

    def hold(self) -> None:
        """The driver's."""
        self.told.append(Told(time.monotonic(), "hold", {}))
        self._robot.hold()

    def stop(self) -> None:
        """The driver's."""
        self.told.append(Told(time.monotonic(), "stop", {}))
        self._robot.stop()

    def reset(self, seed: int) -> None:
        """The driver's."""
        self.told.append(Told(time.monotonic(), "reset", {}))
        self._robot.reset(seed)

    def tool_after(self, observation: Mapping[str, Any], action: Mapping[str, float] | None) -> Sequence[float]:
        """The driver's."""
        point: Sequence[float] = self._robot.tool_after(observation, action)
        return point


def _nothing(call: str) -> None:
    pass


def violations(limits: Limits, told: Sequence[Told]) -> list[str]:
    """The actions that leave the limits of a robot whose actions are displacements: what, and where in `told`.

    An action follows the one before it, or begins at rest where a hold lies between; after a pause either may be.
    """
    found = []
    step = np.array([limits.step_of(name) for name in limits.axes])
    change = np.array([axis.acceleration for axis in limits.axes.values()]) * limits.period_s**2
    before, last_s = np.zeros(len(step)), -np.inf
    for index, entry in enumerate(told):
        if entry.call in QUIET:
            before = np.zeros(len(step))
            continue
        paused = entry.when_s - last_s > SOON * limits.period_s
        values = np.array([entry.values[name] for name in limits.axes])
        if not np.isfinite(values).all():
            found.append(f"{index}: not finite")
        if (np.abs(values) > step * (1.0 + SLACK)).any():
            found.append(f"{index}: a step of {np.abs(values / step).max():.3g} times the limit")
        starts = (before, np.zeros(len(step))) if paused else (before,)
        if not any((np.abs(values - start) <= change + SLACK * step).all() for start in starts):
            found.append(f"{index}: {np.abs((values - before) / change).max():.3g} times the acceleration")
        if limits.box is not None and _outside(limits, entry.tool[1]) > max(SLACK, _outside(limits, entry.tool[0])):
            found.append(f"{index}: the tool leaves the workspace")
        before, last_s = values, entry.when_s
    return found


def _outside(limits: Limits, point: Sequence[float]) -> float:
    """Distance of a point to the workspace, metres."""
    low, high = np.asarray(limits.box, np.float64)
    return float(np.linalg.norm(np.asarray(point) - np.clip(point, low, high)))


def unexecuted(executed: Sequence[Mapping[str, float]], reported: Sequence[NDArray[np.float32]]) -> int:
    """How many reported actions the robot did not execute, in this order."""
    done = [np.array(list(action.values()), np.float32) for action in executed]
    place, missing = 0, 0
    for action in reported:
        found = next((index for index in range(place, len(done)) if np.array_equal(done[index], action)), None)
        missing += found is None
        place = place if found is None else found + 1
    return missing
