"""A keyboard as a Teleoperator, in the terminal: a key held down moves one axis."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from actors.robots.limits import Limits
from dopamine_rl.errors import BadInput

PAIRS = ("da", "ws", "rf", "ik", "jl", "uo", "yh", "tg", "vb", "nm")
"""Keys that move the first, second, … axis forwards and back."""
EVENTS = {
    "1": "success",
    "0": "terminate_episode",
    "x": "rerecord_episode",
    "\r": "ready",
    "\n": "ready",
    ".": "stage",
    " ": "stop",
    "!": "rearm",
}
HELD_S = 0.6
"""A key counts as held for so long after the terminal repeated it; terminals begin to do so after half a second."""
TAP_S = 0.15
SPEED = 0.5
"""Share of the highest step."""


class Keyboard:
    """Moves the axes of a robot by keys; hands are on while one is held.

    Args:
        limits: of the robot.
        position: the last commanded positions, of axes of kind "position".
        read: returns the characters typed since the last call; None reads the terminal.
    """

    def __init__(
        self, limits: Limits, position: Callable[[], Mapping[str, float]], read: Callable[[], str] | None = None
    ) -> None:
        if len(limits.axes) > len(PAIRS):
            raise BadInput(
                "axes", len(limits.axes), f"a keyboard drives at most {len(PAIRS)}: use another teleoperator"
            )
        self._limits, self._position, self._read = limits, position, read or self._typed
        self._keys = {
            key: (name, sign)
            for name, pair in zip(limits.axes, PAIRS, strict=False)
            for key, sign in zip(pair, (1.0, -1.0), strict=True)
        }
        self._held: dict[str, float] = {}
        self._events: set[str] = set()
        self._settings: Any = None

    @property
    def help(self) -> str:
        """Which key does what."""
        moves = "  ".join(f"{pair[0]}/{pair[1]} {name}" for name, pair in zip(self._limits.axes, PAIRS, strict=False))
        return (
            f"{moves}\n1 success  0 failure  x discard  . next stage  Enter ready\n"
            "SPACE EMERGENCY STOP  ! re-arm  q quit"
        )

    def connect(self) -> None:
        """Read single keys. Raises BadInput where standard input is no terminal."""
        if not sys.stdin.isatty():
            raise BadInput("keyboard", "standard input", "start it in a terminal")
        import termios
        import tty

        self._settings = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)

    def get_action(self) -> dict[str, float]:
        """The last positions, and a step of each axis whose key is held."""
        self._poll()
        action = {
            name: self._position()[name] if axis.kind == "position" else 0.0 for name, axis in self._limits.axes.items()
        }
        for key in self._held:
            name, sign = self._keys[key]
            action[name] += sign * SPEED * self._limits.step_of(name)
        return action

    def get_teleop_events(self) -> dict[str, bool]:
        """See Teleoperator; also `quit`."""
        self._poll()
        events, self._events = self._events, set()
        return {**dict.fromkeys(events, True), "is_intervention": bool(self._held)}

    def disconnect(self) -> None:
        """Give the terminal back."""
        if self._settings is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._settings)
            self._settings = None

    def _poll(self) -> None:
        now = time.monotonic()
        for key in self._read():
            if key in self._keys:
                self._held[key] = now + (HELD_S if key in self._held else TAP_S + self._limits.period_s)
            elif key in EVENTS or key == "q":
                self._events.add(EVENTS.get(key, "quit"))
        self._held = {key: ends for key, ends in self._held.items() if ends > now}

    def _typed(self) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], 0.0)
        return os.read(sys.stdin.fileno(), 64).decode(errors="ignore") if ready else ""
