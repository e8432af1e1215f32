"""A driver to begin from: an imaginary arm that moves along x and y, and a camera that looks down on it.

Replace the bodies by calls of your robot's own library. example.toml beside this file holds its limits.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

AXES = ("x.pos", "y.pos")
SIDE = 32
TARGET_M = (0.4, 0.3)
REACHED_M = 0.02


class ExampleArm:
    """Two axes with positions in metres, and a target that it should reach."""

    def __init__(self) -> None:
        self.is_connected = False
        self.observation_features = {**dict.fromkeys(AXES, float), "success": float, "top": (SIDE, SIDE, 3)}
        self.action_features = dict.fromkeys(AXES, float)
        self._position, self._lock = np.zeros(2), threading.Lock()

    def connect(self) -> None:
        """Open the port, wake the motors, start the cameras."""
        self.is_connected = True

    def get_observation(self) -> dict[str, Any]:
        """Read the joints and take a picture."""
        x, y = self._position
        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        for channel, point in enumerate((self._position, np.array(TARGET_M))):
            row, column = (point * SIDE).clip(0, SIDE - 2).astype(int)
            picture[row : row + 2, column : column + 2, channel] = 255
        reached = np.linalg.norm(self._position - TARGET_M) < REACHED_M
        return {"x.pos": float(x), "y.pos": float(y), "success": float(reached), "top": picture}

    def send_action(self, action: Mapping[str, float]) -> dict[str, float]:
        """Send target positions; return what was really sent."""
        with self._lock:
            self._position = np.array([action[name] for name in AXES])
        return dict(action)

    def hold(self) -> None:
        """Make the present position the target. Called from another thread, while a call above may block."""

    def stop(self) -> None:
        """Apply the brakes, or switch the motors off. Called from another thread."""

    def disconnect(self) -> None:
        """Close the port."""
        self.is_connected = False

    def tool_after(self, observation: Mapping[str, Any], action: Mapping[str, float] | None) -> Sequence[float]:
        """Optional. Forward kinematics, with which the workspace box is checked: [x, y, z] in metres."""
        where = observation if action is None else action
        return [where["x.pos"], where["y.pos"], 0.0]

    def reset(self, seed: int) -> None:
        """Optional. Drive to a start; without it a script of yours or a person does it."""
        self._position = np.random.default_rng(seed).uniform(0.0, 0.2, 2)


def make() -> ExampleArm:
    """What `dopamine robot serve actors.robots.example:make` calls; a class will do as well."""
    return ExampleArm()
