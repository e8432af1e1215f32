"""A person drives a robot, by keyboard or another teleoperator, and takes over from a policy.

    python -m actors.robots drive 192.168.0.7:5601
    python -m actors.robots drive 192.168.0.7:5601 --teleoperator my_arm:Leader

While a key that moves is held, the person has control; when it is let go, the policy gets it back. The policy is told
what was executed meanwhile. Keys also say how an episode ended, and that the scene is reset.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.robots.client import RemoteRobot
from actors.robots.keyboard import Keyboard
from dopamine_rl.callables import load_callable, read_keywords
from dopamine_rl.errors import BadInput, RobotError, RobotLost
from dopamine_rl.interfaces import Teleoperator

LABEL_OF = {
    "success": "success",
    "terminate_episode": "failure",
    "rerecord_episode": "discard",
    "ready": "ready",
    "stage": "stage",
}
HANDS_OFF_S = 0.5
"""Control is given back so long after the hands left."""
STATUS_S = 0.5


@dataclass(frozen=True)
class DriveArguments:
    """The robot's server, and what the person holds."""

    address: str
    """HOST:PORT of the robot's server."""
    teleoperator: str = ""
    """MODULE:CALLABLE that makes a Teleoperator; without it, the keyboard."""
    kwargs: str = "{}"
    """Keyword arguments of the teleoperator, a JSON object."""
    name: str = "person"
    """Shown to others."""
    token_file: Path | None = None
    """File with the server's token; without it, the environment variable DOPAMINE_TOKEN."""
    tls_ca: Path | None = None
    """PEM file of the server's certificate; turns on TLS."""


def drive(arguments: DriveArguments) -> None:
    """Drive until the person quits."""
    token = None if arguments.token_file is None else arguments.token_file.read_text(encoding="utf-8").strip()
    with RemoteRobot(arguments.address, token, "person", arguments.name, arguments.tls_ca) as robot:
        person = Person(robot, _teleoperator(arguments, robot))
        person.run()


def _teleoperator(arguments: DriveArguments, robot: RemoteRobot) -> Teleoperator:
    if arguments.teleoperator:
        made: Teleoperator = load_callable("teleoperator", arguments.teleoperator)(
            **read_keywords("kwargs", arguments.kwargs)
        )
        for part in ("connect", "get_action", "disconnect"):
            if not hasattr(made, part):
                fix = f"give it `{part}`: see dopamine_rl.interfaces.Teleoperator"
                raise BadInput("teleoperator", arguments.teleoperator, fix)
        return made
    keyboard = Keyboard(robot.limits, lambda: robot.observed.values)
    print(keyboard.help)
    return keyboard


class Person:
    """Passes on what a teleoperator does: control while hands are on, actions, and what the person says.

    Args:
        robot: connected, of rank person.
        teleoperator: what the person holds.
    """

    def __init__(self, robot: RemoteRobot, teleoperator: Teleoperator) -> None:
        self._robot, self._teleoperator = robot, teleoperator
        self._drives, self._off_s, self._shown_s = False, 0.0, 0.0

    def run(self) -> None:
        """Until the person quits, or the robot is lost."""
        self._teleoperator.connect()
        try:
            while self.turn():
                pass
        finally:
            self._teleoperator.disconnect()
            print()

    def turn(self) -> bool:
        """One control period; False once the person quits."""
        events = self._events()
        for event, label in LABEL_OF.items():
            if events.get(event):
                self._try(lambda label=label: self._robot.label(label))
        if events.get("stop"):
            self._robot.stop()
        elif events.get("rearm"):
            self._try(self._robot.rearm)
        now = time.monotonic()
        if events.get("is_intervention") and not events.get("stop"):
            self._off_s = now + HANDS_OFF_S
            self._try(self._move)
        elif self._drives and now > self._off_s:
            self._robot.give()
            self._drives = False
        elif self._drives:
            self._try(self._stay)
        else:
            time.sleep(self._robot.limits.period_s)
        if now > self._shown_s:
            self._shown_s = now + STATUS_S
            self._show(self._robot.status())
        return not events.get("quit", False)

    def _events(self) -> Mapping[str, bool]:
        ask = getattr(self._teleoperator, "get_teleop_events", None)
        events = {"is_intervention": True} if ask is None else ask()
        return {str(getattr(event, "value", event)): bool(value) for event, value in events.items()}

    def _move(self) -> None:
        if not self._drives:
            self._robot.take()
            self._robot.get_observation()
            self._drives = True
        self._robot.send_action(self._teleoperator.get_action())
        self._robot.get_observation()

    def _stay(self) -> None:
        """Between two touches: the last commanded positions, and no displacement."""
        axes, last = self._robot.limits.axes, self._robot.observed.values
        self._robot.send_action({name: last[name] if axis.kind == "position" else 0.0 for name, axis in axes.items()})
        self._robot.get_observation()

    def _try(self, call: Any) -> None:
        """What is refused is shown; a lost robot ends it."""
        try:
            call()
        except RobotLost:
            raise
        except RobotError as error:
            self._drives = self._drives and "has control" not in str(error)
            self._say(str(error))
            time.sleep(self._robot.limits.period_s)

    def _show(self, status: Mapping[str, Any]) -> None:
        """One line: who has control, whether the robot moves and why not, and what the person is asked for."""
        state = "EMERGENCY STOP" if status["latched"] else status["state"]
        parts = (state, f"control: {status['holder'] or 'nobody'}", status["reason"], status["hung"])
        self._say(" | ".join(filter(None, (*parts, f">>> {status['asked']}" if status["asked"] else ""))))

    def _say(self, text: str) -> None:
        print(f"\r{text[:150]:150}", end="", file=sys.stdout, flush=True)
