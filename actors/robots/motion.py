"""Keeps a sequence of actions within a robot's limits. Arithmetic alone: no clock, no thread, no robot.

Every control period moves each axis by v, and v is chosen as near to what the action asks for as these allow:

    |v| ≤ step,    |v − v before| ≤ acceleration · period²,    and the axis can brake in time before `low` and `high`

An axis that keeps its acceleration limit cannot stop at once, so the last one looks ahead: braking by A per period, v
takes the distance v + (v − A) + (v − 2A) + … The largest v that fits is `braking_speed`. As each step leaves the next
one room to brake, all limits hold together, for any actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actors.robots.limits import Limits
from dopamine_rl.errors import RobotError

ToolAfter = Callable[[Mapping[str, Any], "Mapping[str, float] | None"], Sequence[float]]
"""See dopamine_rl.interfaces.KinematicRobot."""
ROUNDING = 1e-6
"""Share of a step by which a driver may report more than it was asked for."""


SMALL = 0.1
"""Share of a step that may go unseen in a picture."""


class MotionRefused(RobotError):
    """An action that must not be executed, nor anything like it; the robot holds."""


def braking_speed(distance: ArrayLike, braking: ArrayLike) -> NDArray[np.float64]:
    """The largest first step, of steps that shrink by `braking` each, which together cover no more than a distance.

    Args:
        distance: to the limit; beyond it (below 0) the answer is 0.
        braking: above 0.
    """
    room, braking = np.maximum(distance, 0.0), np.asarray(braking, np.float64)
    count = np.maximum(np.ceil((np.sqrt(1.0 + 8.0 * np.minimum(room / braking, 1e12)) - 1.0) / 2.0), 1.0)
    return np.asarray((room + braking * count * (count - 1.0) / 2.0) / count)


def still(limits: Limits, observation: Mapping[str, Any]) -> dict[str, float]:
    """The action that does not move: the measured pose, and displacements of 0."""
    return {
        name: float(observation[limits.measured_by(name)]) if axis.kind == "position" else 0.0
        for name, axis in limits.axes.items()
    }


class MotionFilter:
    """Limits one action after the other. A motion begins at rest, at the measured pose.

    Args:
        limits: of the robot.
        tool_after: where its tool goes; None: the workspace is not checked.
    """

    def __init__(self, limits: Limits, tool_after: ToolAfter | None = None) -> None:
        self._limits, self._tool_after = limits, tool_after
        axes = limits.axes.values()
        self._names = tuple(limits.axes)
        self._absolute = np.array([axis.kind == "position" for axis in axes])
        self._low, self._high = np.array([axis.low for axis in axes]), np.array([axis.high for axis in axes])
        self._step = np.array([limits.step_of(name) for name in self._names])
        self._braking = np.array([axis.acceleration * limits.period_s**2 for axis in axes])
        self._error = np.array([axis.error or np.inf for axis in axes])
        self._measured = [limits.measured_by(name) for name in self._names]
        self._position = self._speed = np.zeros(len(self._names))
        self.moving = False

    def end(self) -> None:
        """The motion is over; the next action begins at the measured pose again."""
        self.moving = False

    @property
    def moves(self) -> bool:
        """Whether the last action moved an axis by more than a small share of its step."""
        return self.moving and bool((np.abs(self._speed) > SMALL * self._step).any())

    def admit(self, action: Mapping[str, float], observation: Mapping[str, Any]) -> dict[str, float]:
        """The action to execute now: the given one, limited.

        Args:
            action: a finite number for each axis.
            observation: the latest.
        Raises:
            MotionRefused: the action or the measurement cannot be used, the robot does not follow, or its tool would
                leave the workspace.
        """
        wanted = check_action(self._names, action)
        self._locate(observation)
        return self._move(np.where(self._absolute, wanted - self._position, wanted), observation)

    def brake(self, observation: Mapping[str, Any]) -> dict[str, float] | None:
        """The action that slows a motion down where no new action came in time; None if nothing moves.

        Raises:
            MotionRefused: see `admit`.
        """
        if not self.moving or not self._speed.any():
            return None
        self._locate(observation)
        return self._move(np.zeros(len(self._names)), observation)

    def _locate(self, observation: Mapping[str, Any]) -> None:
        """Where the next step begins: at rest where the robot is; later, for a target, where the last one ended."""
        measured = self._measure(observation)
        if self.moving:
            self._check_following(measured)
            measured = np.where(self._absolute, self._position, measured)
        else:
            self._speed = np.zeros(len(self._names))
        self._position = measured

    def _move(self, speed: NDArray[np.float64], observation: Mapping[str, Any]) -> dict[str, float]:
        room = [
            np.where(np.isnan(gap), np.inf, gap) for gap in (self._position - self._low, self._high - self._position)
        ]
        back, ahead = (np.minimum(self._step, braking_speed(gap, self._braking)) for gap in room)
        speed = np.clip(speed, self._speed - self._braking, self._speed + self._braking)
        speed = np.clip(speed, -back, ahead)  # the last word: a measured position may lie beyond what was foreseen
        values = dict(zip(self._names, self._executed(speed), strict=True))
        self._check_tool(observation, values)
        self.moving = True
        self._position, self._speed = self._position + speed, speed
        return values

    def confirm(self, executed: Mapping[str, float]) -> None:
        """What the driver really executed of the last admitted action: the next one goes on from there.

        Raises:
            MotionRefused: it is more than was admitted.
        """
        values = check_action(self._names, executed)
        before = self._position - self._speed
        speed = np.where(self._absolute, values - before, values)
        slack = ROUNDING * self._step + 1e-9 * np.where(self._absolute, np.abs(values), 0.0)
        least, most = np.minimum(self._speed, 0.0), np.maximum(self._speed, 0.0)
        wrong = (speed < least - slack) | (speed > most + slack)
        if wrong.any():
            name = self._names[int(np.argmax(wrong))]
            raise MotionRefused(
                f"the driver says that it executed {name} = {executed[name]:g}, which was not asked for"
            )
        self._position, self._speed = before + speed, speed

    def _executed(self, speed: NDArray[np.float64]) -> list[float]:
        target = self._position + speed
        inside = (self._position >= self._low) & (self._position <= self._high)
        target = np.where(inside, np.clip(target, self._low, self._high), target)  # rounding
        return [float(value) for value in np.where(self._absolute, target, speed)]

    def _measure(self, observation: Mapping[str, Any]) -> NDArray[np.float64]:
        """Measured positions, NaN where there is none."""
        values = np.full(len(self._names), np.nan)
        for index, name in enumerate(self._measured):
            if name:
                values[index] = observation[name]
                if not np.isfinite(values[index]):
                    raise MotionRefused(f"the robot measures {name} = {observation[name]}")
        return values

    def _check_following(self, measured: NDArray[np.float64]) -> None:
        off = np.abs(measured - self._position) > self._error
        if off.any():
            index = int(np.argmax(off))
            raise MotionRefused(
                f"{self._names[index]} does not follow: commanded {self._position[index]:g}, "
                f"measured {measured[index]:g}"
            )

    def _check_tool(self, observation: Mapping[str, Any], values: Mapping[str, float]) -> None:
        if self._tool_after is None or self._limits.box is None:
            return
        after = self._outside(self._tool_after(observation, values))
        if after > 0.0 and after >= self._outside(self._tool_after(observation, None)):
            raise MotionRefused(f"the tool would be {1e3 * after:.3g} mm outside the workspace")

    def _outside(self, point: Sequence[float]) -> float:
        """How far a point lies outside the workspace, metres."""
        here, (low, high) = np.asarray(point, np.float64), np.asarray(self._limits.box, np.float64)
        if here.shape != (3,) or not np.isfinite(here).all():
            raise MotionRefused(f"the driver says that the tool is at {list(point)}")
        return float(np.linalg.norm(here - np.clip(here, low, high)))


def check_action(names: Sequence[str], action: Mapping[str, Any]) -> NDArray[np.float64]:
    """The entries of an action in the order of names. Raises MotionRefused for others, or what is not finite."""
    if set(action) != set(names):
        raise MotionRefused(
            f"an action has the entries {', '.join(names)}, not {', '.join(map(str, action)) or 'none'}"
        )
    for name, value in action.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
            raise MotionRefused(f"{name} = {value} is not a finite number")
    values = np.array([float(action[name]) for name in names])
    if not (np.abs(values) < 1e9).all():
        raise MotionRefused("an entry of the action is too large for any robot")
    return values
