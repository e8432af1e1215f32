"""Drives one robot: a thread that acts and observes in every control period, and one that protects it.

The first makes all calls of the driver but `hold` and `stop`. The second, the guard, asks the Supervisor several times
a period whether the robot must hold or stop, and has each of the two done in a thread of its own. So a call that blocks
delays neither, and a `hold` that blocks does not delay a `stop`. A driver that blocks is reported, and held.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from actors.robots.cameras import FrozenCameras
from actors.robots.limits import Limits
from actors.robots.motion import MotionFilter, still
from actors.robots.supervisor import HOLD, STOP, Motion, Supervisor
from dopamine_rl.errors import RobotError
from dopamine_rl.interfaces import KinematicRobot, ResettableRobot, Robot

logger = logging.getLogger(__name__)
CHECKS_PER_PERIOD = 8
FINEST_S = 0.002
CONNECT_S = 300.0
RECENT = 64
"""Periods that are remembered, for clients that are told late."""
BLIND_PERIODS = 10
"""Control periods in a row whose observation may fail."""


@dataclass(frozen=True)
class Period:
    """What happened in one control period.

    Args:
        number: counts periods.
        observed_s: when the observation was complete; acted_s: when the action had been sent, 0.0 if none was.
        executed: the action that was really executed; one that does not move, where none was.
        by: who asked for it, "brake", or "nobody".
        reason: why the robot does not move; "" where it moves.
    """

    number: int
    observed_s: float
    acted_s: float
    executed: Mapping[str, float]
    by: str
    reason: str


class Driving:
    """One robot in operation. Use as a context; entering it connects the robot.

    Args:
        robot: its driver.
        limits: of the robot.
        dry_run: observe and decide, but tell the robot nothing.
    Raises:
        BadInput: the limits are not those of this robot.
    """

    def __init__(self, robot: Robot, limits: Limits, dry_run: bool = False) -> None:
        numbers = [name for name, kind in robot.observation_features.items() if not isinstance(kind, tuple)]
        limits.check_robot(robot.action_features, numbers)
        if dry_run:  # a robot that is not told to move does not follow
            limits = replace(limits, axes={name: replace(axis, error=0.0) for name, axis in limits.axes.items()})
        self.robot, self.limits, self.dry_run = robot, limits, dry_run
        self.kinematic = isinstance(robot, KinematicRobot)
        tool_after = robot.tool_after if isinstance(robot, KinematicRobot) else None
        self.supervisor = Supervisor(limits, MotionFilter(limits, tool_after))
        unchecked = dry_run or not limits.frozen_after_ms
        self._cameras = FrozenCameras(0 if unchecked else max(2.0, limits.frozen_after_ms / 1e3 * limits.rate_hz))
        self.changed = threading.Condition()
        """Guards the supervisor and everything below; notified after every period."""
        self.observation: Mapping[str, Any] = {}
        self._recent: deque[Period] = deque(maxlen=RECENT)
        self.ticked, self.overruns, self._blind = 0, 0, 0
        self.calling, self._called_s, self._last_call = "", 0.0, ""
        self._reset_seed: int | None = None
        self._ended, self._failure = threading.Event(), ""
        self._protectors = {HOLD: _Caller(HOLD, self._hold), STOP: _Caller(STOP, self._stop)}
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._drive, self._guard)]

    def __enter__(self) -> Driving:
        for thread in self._threads:
            thread.start()
        with self.changed:
            begun = self.changed.wait_for(lambda: self._recent or self._failure, CONNECT_S)
        if not begun or self._failure:
            self._ended.set()
            raise RobotError(
                self._failure or f"the driver's {self.calling or 'connect'} takes more than {CONNECT_S:g} s"
            )
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.supervisor.protect(STOP, "the server ends")
        time.sleep(2 * self._check_s)  # the guard stops it
        self._ended.set()
        for thread in self._threads:
            thread.join(1.0)
        for protector in self._protectors.values():
            protector.end()

    @property
    def hung(self) -> str:
        """The driver's call that blocks, and since when; "" if none blocks for long."""
        call, since = self.calling, self._called_s
        blocked_s = time.monotonic() - since if call else 0.0
        return f"{call} blocks for {blocked_s:.1f} s" if 1e3 * blocked_s > self.limits.hold_after_ms else ""

    def after(self, number: int, timeout_s: float) -> Period:
        """The first recent period later than that number; waits for it. Raises RobotError if it does not come."""
        with self.changed:
            self.changed.wait_for(
                lambda: self._failure or (self._recent and self._recent[-1].number > number), timeout_s
            )
            if not self._recent or self._recent[-1].number <= number:
                raise RobotError(self._failure or self.hung or self.supervisor.reason or "no observation in time")
            return next(period for period in self._recent if period.number > number)

    def observed(self, number: int, timeout_s: float) -> tuple[Period, Mapping[str, Any]]:
        """The latest period and its observation, if later than that number; waits for it. Raises RobotError."""
        with self.changed:
            self.after(number, timeout_s)
            return self._recent[-1], self.observation

    def request_reset(self, seed: int) -> None:
        """Have the driver reset the robot, between two periods."""
        if not isinstance(self.robot, ResettableRobot):
            raise RobotError("this robot cannot reset itself")
        with self.changed:
            self._reset_seed = seed
            self.supervisor.reset(True, time.monotonic())

    def _drive(self) -> None:
        try:
            if not self.robot.is_connected:
                self._call("connect", self.robot.connect)
            observation = self._observe()
            due, number = time.monotonic(), 0
            while not self._ended.is_set():
                number += 1
                observation = self._period(number, observation)
                due += self.limits.period_s
                late_s = time.monotonic() - due
                if late_s > 0.0:
                    self.overruns += 1
                    due += late_s
                self._ended.wait(max(0.0, -late_s))
            self._call("disconnect", self.robot.disconnect)
        except Exception as error:  # whatever the driver does
            logger.exception("The driver failed.")
            with self.changed:
                self._failure = f"the driver's {self._last_call} failed: {type(error).__name__}: {error}"
                self.supervisor.emergency_stop(self._failure)
                self.changed.notify_all()

    def _period(self, number: int, observation: Mapping[str, Any]) -> Mapping[str, Any]:
        """One control period: reset if asked to, act, observe, and publish. Returns the observation."""
        if self._reset_seed is not None and isinstance(self.robot, ResettableRobot):
            seed, robot = self._reset_seed, self.robot
            self._call("reset", lambda: robot.reset(seed))
            observation = self._observe()
            with self.changed:
                self._reset_seed = None
                self.supervisor.reset(False, time.monotonic())
        with self.changed:
            self.ticked = number
            motion = self.supervisor.tick(time.monotonic(), observation)
        executed: Mapping[str, float] = still(self.limits, observation)
        acted_s, by, refusal = 0.0, "nobody", ""
        if motion is not None:
            by = motion.by
            try:
                executed, acted_s = self._act(motion), time.monotonic()
            except Exception as error:  # a driver may refuse a command
                by, refusal = "nobody", f"the driver refused: {type(error).__name__}: {error}"
        try:
            observation, self._blind = self._observe(), 0
        except Exception as error:  # a camera may miss a picture
            self._blind += 1
            if self._blind > BLIND_PERIODS:
                raise
            with self.changed:
                self.supervisor.protect(HOLD, f"no observation: {type(error).__name__}: {error}")
            return observation
        moved = motion is not None and not refusal and self.supervisor.moves
        frozen = self._cameras.frozen(observation, moved)
        with self.changed:
            if refusal:
                self.supervisor.protect(HOLD, refusal)
            self.supervisor.see(frozen)
            reason = self.supervisor.reason
            self.observation = observation
            self._recent.append(Period(number, time.monotonic(), acted_s, executed, by, reason))
            self.changed.notify_all()
        return observation

    def _act(self, motion: Motion) -> Mapping[str, float]:
        values = motion.values
        if not self.dry_run:
            answer = self._call("send_action", lambda: self.robot.send_action(dict(values)))
            values = {name: float(answer[name]) for name in values}
        with self.changed:
            self.supervisor.executed(motion, values)
        return values

    def _observe(self) -> Mapping[str, Any]:
        return check_observation(self.robot, self._call("get_observation", self.robot.get_observation))

    def _call(self, name: str, call: Callable[[], Any]) -> Any:
        self._called_s, self.calling, self._last_call = time.monotonic(), name, name
        try:
            return call()
        finally:
            self.calling = ""

    @property
    def _check_s(self) -> float:
        return max(FINEST_S, self.limits.period_s / CHECKS_PER_PERIOD)

    def _guard(self) -> None:
        reported = False
        while not self._ended.wait(self._check_s):
            with self.changed:
                if self.hung and not reported and not self.supervisor.resetting and self._recent:
                    logger.warning("The driver's %s; the robot holds.", self.hung)
                    self.supervisor.protect(HOLD, f"the driver's {self.hung}")
                reported = bool(self.hung)
                owed = self.supervisor.due(time.monotonic())
            if owed is not None and not self.dry_run:
                self._protectors[owed].ask()

    def _hold(self) -> None:
        self.robot.hold()

    def _stop(self) -> None:
        self.robot.stop()


class _Caller:
    """Calls one function in a thread of its own whenever it is asked to; being asked twice meanwhile counts once."""

    def __init__(self, name: str, call: Callable[[], None]) -> None:
        self._name, self._call, self._asked, self._ended = name, call, threading.Event(), False
        threading.Thread(target=self._run, daemon=True).start()

    def ask(self) -> None:
        self._asked.set()

    def end(self) -> None:
        self._ended = True
        self._asked.set()

    def _run(self) -> None:
        while self._asked.wait() and not self._ended:
            self._asked.clear()
            try:
                self._call()
            except Exception:  # whatever the driver does
                logger.exception("The driver's %s failed.", self._name)


def check_observation(robot: Robot, observation: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entries of an observation that its features name. Raises RobotError for one that is missing or malformed."""
    for name, kind in robot.observation_features.items():
        value = observation.get(name)
        if isinstance(kind, tuple):
            known = isinstance(value, (bytes, bytearray)) or (
                isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.shape == tuple(kind)
            )
            if not known:
                raise RobotError(f"picture {name} is {_kind_of(value)}, not uint8 {tuple(kind)} or a JPEG")
        elif isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise RobotError(f"observation {name} is {_kind_of(value)}, not a number")
    return {name: observation[name] for name in robot.observation_features}


def _kind_of(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return "missing" if value is None else type(value).__name__
