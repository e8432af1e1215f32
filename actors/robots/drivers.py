"""Makes the driver that a user names, and completes one without `hold` and `stop`, as LeRobot's robots are."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from actors.robots.limits import Limits
from actors.robots.motion import still
from dopamine_rl.callables import load_callable, read_keywords
from dopamine_rl.errors import BadInput, RobotError
from dopamine_rl.interfaces import KinematicRobot, ResettableRobot, Robot

NEEDED = ("observation_features", "action_features", "is_connected", "connect", "get_observation", "send_action")
PATIENCE_S = 0.5
"""How long `stop` waits for a call that blocks."""


def make_robot(name: str, keywords: str, limits: Limits) -> Robot:
    """The driver that MODULE:CALLABLE makes.

    Args:
        keywords: of the callable, a JSON object.
    Raises:
        BadInput: there is no such callable, or what it makes is no Robot.
    """
    arguments = read_keywords("kwargs", keywords)
    try:
        robot = load_callable("MODULE:CLASS", name)(**arguments)
    except TypeError as error:
        raise BadInput("kwargs", keywords, f"give the arguments of {name} ({error})") from None
    missing = [part for part in NEEDED if not hasattr(robot, part)]
    if missing:
        raise BadInput("MODULE:CLASS", name, f"give it {', '.join(missing)}: see dopamine_rl.interfaces.Robot")
    if all(callable(getattr(robot, part, None)) for part in ("hold", "stop")):
        made: Robot = robot
        return made
    kinds = {(True, True): _KinematicResettable, (True, False): _Kinematic, (False, True): _Resettable}
    return kinds.get((isinstance(robot, KinematicRobot), isinstance(robot, ResettableRobot)), Completed)(robot, limits)


class Completed:
    """A driver without `hold` and `stop`, as a Robot.

    To hold, it is told to stay at its measured pose, as soon as the call that blocks has returned. To stop, its motors
    are switched off (`disable_torque` of the robot or its `bus`); it holds where there is no such method.

    Args:
        robot: the driver; its methods are called one at a time.
        limits: of the robot; say which observation measures which entry of an action.
    """

    def __init__(self, robot: Any, limits: Limits) -> None:
        self.robot, self._limits, self._lock = robot, limits, threading.Lock()

    @property
    def observation_features(self) -> Mapping[str, type | tuple[int, ...]]:
        """See Robot."""
        features: Mapping[str, type | tuple[int, ...]] = self.robot.observation_features
        return features

    @property
    def action_features(self) -> Mapping[str, type]:
        """See Robot."""
        features: Mapping[str, type] = self.robot.action_features
        return features

    @property
    def is_connected(self) -> bool:
        """See Robot."""
        return bool(self.robot.is_connected)

    def connect(self) -> None:
        """See Robot."""
        self.robot.connect()

    def get_observation(self) -> Mapping[str, Any]:
        """See Robot."""
        with self._lock:
            observation: Mapping[str, Any] = self.robot.get_observation()
        return observation

    def send_action(self, action: Mapping[str, float]) -> Mapping[str, float]:
        """See Robot."""
        with self._lock:
            executed: Mapping[str, float] = self.robot.send_action(dict(action))
        return executed

    def hold(self) -> None:
        """Stay at the measured pose."""
        with self._lock:
            self.robot.send_action(still(self._limits, self.robot.get_observation()))

    def stop(self) -> None:
        """Hold, and switch the motors off where the driver can."""
        free = self._lock.acquire(timeout=PATIENCE_S)
        try:
            for owner in (self.robot, getattr(self.robot, "bus", None)):
                if callable(switch_off := getattr(owner, "disable_torque", None)):
                    switch_off()
                    return
            if not free:
                raise RobotError("the driver's call still blocks, and it has no `stop`")
            self.robot.send_action(still(self._limits, self.robot.get_observation()))
        finally:
            if free:
                self._lock.release()

    def disconnect(self) -> None:
        """See Robot."""
        self.robot.disconnect()


class _Kinematic(Completed):
    def tool_after(self, observation: Mapping[str, Any], action: Mapping[str, float] | None) -> Sequence[float]:
        point: Sequence[float] = self.robot.tool_after(observation, action)
        return point


class _Resettable(Completed):
    def reset(self, seed: int) -> None:
        with self._lock:
            self.robot.reset(seed)


class _KinematicResettable(_Kinematic, _Resettable):
    pass
