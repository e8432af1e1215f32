"""A robot for tests that can be made to misbehave, and a server around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from actors.robots.driving import Driving
from actors.robots.limits import AxisLimits, Limits
from actors.robots.server import Listening, RobotServer

RATE_HZ = 50.0
LIMITS = Limits(RATE_HZ, 3000.0, 6000.0, {"x": AxisLimits("position", 5.0, 500.0, -1.0, 1.0)})
"""Of a patient robot, for busy computers."""
STRICT = replace(LIMITS, hold_after_ms=300.0, stop_after_ms=900.0)
"""Of one that holds soon."""


PLAIN = Listening()


class TestArm:
    """One axis that follows at once. Everything it is told is noted with the time.

    Args:
        blocks: an event that lets send_action return; None lets it return at once.
    """

    __test__ = False

    def __init__(self) -> None:
        self.x, self.is_connected = 0.0, False
        self.told: list[tuple[float, str, float]] = []
        self.released = threading.Event()
        self.released.set()
        self.fails = ""
        self.observation_features: Mapping[str, Any] = {"x": float, "top": (4, 4, 3)}
        self.action_features = {"x": float}

    def connect(self) -> None:
        self.is_connected = True

    def get_observation(self) -> dict[str, Any]:
        if self.fails == "get_observation":
            raise TimeoutError("camera")
        return {"x": self.x, "top": np.full((4, 4, 3), 7, np.uint8), "more": 1.0}

    def send_action(self, action: Mapping[str, float]) -> dict[str, float]:
        self._note("send_action", action["x"])
        self.released.wait(5.0)
        if self.fails == "send_action":
            raise ValueError("refused")
        self.x = action["x"]
        return {"x": action["x"]}

    def hold(self) -> None:
        self._note("hold", self.x)

    def stop(self) -> None:
        self._note("stop", self.x)

    def disconnect(self) -> None:
        self.is_connected = False

    def reset(self, seed: int) -> None:
        time.sleep(0.1)
        self.x = seed / 100

    def calls(self, name: str) -> list[tuple[float, float]]:
        return [(when, value) for when, call, value in list(self.told) if call == name]

    def _note(self, call: str, value: float) -> None:
        self.told.append((time.monotonic(), call, value))


@contextmanager
def served(
    robot: Any,
    listening: Listening = PLAIN,
    limits: Limits = LIMITS,
    **rest: Any,
) -> Iterator[RobotServer]:
    with Driving(robot, limits, **rest) as driving, RobotServer(driving, listening) as server:
        yield server
