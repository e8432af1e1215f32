"""Serves a robot to policies and people on other computers, within its limits.

    dopamine robot serve my_robot:Arm --limits arm.toml
    dopamine robot serve my_robot:Arm --limits arm.toml --host 0.0.0.0 --tls-cert cert.pem --token-file token

Without a limits file no robot starts. Ctrl-C stops the robot and ends. This is no substitute for an emergency stop in
hardware. On a computer with nothing but the driver, numpy and msgpack: python -m actors.robots serve (docs/robots.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from actors.robots.serve import ServeArguments, serve
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command, interruptible


@dataclass(frozen=True)
class Arguments(ServeArguments):
    """The robot, its limits, and how it is reached."""

    robot: Annotated[Positional[str], option("MODULE:CALLABLE")]
    """Makes the driver (dopamine_rl.interfaces.Robot)."""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted; Ctrl-C exits with status 0."""
    arguments = parse(Arguments, argv, "dopamine robot serve", __doc__)
    with interruptible("Stopped.", status=0):
        serve(arguments)


if __name__ == "__main__":
    main()
