"""Serves a robot to clients on other computers, within its limits.

    python -m actors.robots serve my_robot:Arm --limits arm.toml
    python -m actors.robots serve my_robot:Arm --limits arm.toml --host 0.0.0.0 --tls-cert cert.pem --token-file token

It runs on the computer that the robot is attached to, in the environment of its driver, and needs numpy and msgpack
alone. Without a limits file no robot starts. Ctrl-C stops the robot and ends. This is no substitute for an emergency
stop in hardware.
"""

from __future__ import annotations

import os
import signal
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

from actors.robots.client import TOKEN_VARIABLE
from actors.robots.drivers import make_robot
from actors.robots.driving import Driving
from actors.robots.limits import load_limits
from actors.robots.server import Listening, RobotServer
from dopamine_rl.errors import BadInput


@dataclass(frozen=True)
class ServeArguments:
    """The robot, its limits, and how it is reached."""

    robot: str
    """MODULE:CALLABLE that makes the driver (dopamine_rl.interfaces.Robot)."""
    limits: Path | None = None
    """Limits of this robot, a TOML file."""
    kwargs: str = "{}"
    """Keyword arguments of the driver, a JSON object."""
    host: str = "127.0.0.1"
    """Address to listen on. Any address but loopback needs a token, and TLS or --insecure."""
    port: int = 5601
    """Port to listen on; 0 chooses a free one."""
    token_file: Path | None = None
    """File with the token that clients must know; without it, the environment variable DOPAMINE_TOKEN."""
    tls_cert: Path | None = None
    """PEM file with the server's certificate and, unless --tls-key is given, its key; turns on TLS."""
    tls_key: Path | None = None
    """PEM file with the private key."""
    insecure: bool = False
    """Listen off loopback without TLS."""
    dry_run: bool = False
    """Observe, and check every command, but tell the robot nothing."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise BadInput("port", self.port, "give 0 to 65535")


def serve(arguments: ServeArguments) -> None:
    """Serve the robot until the process is interrupted."""
    if arguments.limits is None:
        raise BadInput("limits", None, "give --limits FILE: without limits no robot starts (docs/robots.md)")
    limits = load_limits(arguments.limits)
    listening = listening_of(arguments)
    robot = make_robot(arguments.robot, arguments.kwargs, limits)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _interrupt)
    with Driving(robot, limits, arguments.dry_run) as driving, RobotServer(driving, listening) as server:
        print(f"serving {server.address}", flush=True)
        for line in summary(driving, listening):
            print(f"  {line}", flush=True)
        threading.Event().wait()


def summary(driving: Driving, listening: Listening) -> list[str]:
    """What a person should know of a robot in operation."""
    limits = driving.limits
    if limits.box is None:
        box = "workspace: none in the limits file"
    else:
        box = "workspace: checked" if driving.kinematic else "workspace: NOT checked, the driver has no tool_after"
    return [
        f"{limits.rate_hz:g} Hz; holds after {limits.hold_after_ms:g} ms without a command, stops after "
        f"{limits.stop_after_ms:g} ms",
        box,
        f"{'TLS' if listening.tls else 'no TLS'}, {'token required' if listening.token else 'no token'}",
        *(["dry run: the robot is told nothing"] if driving.dry_run else []),
        "Ctrl-C stops the robot. Keep a hand at its emergency stop.",
    ]


def listening_of(arguments: ServeArguments) -> Listening:
    """How the server is reached. Raises BadInput."""
    token = os.environ.pop(TOKEN_VARIABLE, "")
    if arguments.token_file is not None:
        try:
            token = arguments.token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise BadInput(
                "token_file", str(arguments.token_file), f"give a readable file ({error.strerror})"
            ) from None
    tls = None
    if arguments.tls_cert is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            tls.load_cert_chain(arguments.tls_cert, arguments.tls_key, password=lambda: "")
        except (OSError, ValueError) as error:
            fix = f"give a certificate and its key as PEM files ({error})"
            raise BadInput("tls_cert", str(arguments.tls_cert), fix) from None
    return Listening(arguments.host, arguments.port, token, tls, arguments.insecure)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
