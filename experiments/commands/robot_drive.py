"""A person drives a robot by keyboard or another teleoperator, and takes over from a policy.

    dopamine robot drive 192.168.0.7:5601
    dopamine robot drive 192.168.0.7:5601 --teleoperator my_arm:Leader

While a key that moves is held, the person has control; when it is let go, the policy gets it back. Keys also say how an
episode ended, that the scene is reset, and stop the robot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from actors.robots.drive import DriveArguments, drive
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command


@dataclass(frozen=True)
class Arguments(DriveArguments):
    """The robot's server, and what the person holds."""

    address: Annotated[Positional[str], option("HOST:PORT")]
    """The robot's server."""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Drive until the person quits."""
    drive(parse(Arguments, argv, "dopamine robot drive", __doc__))


if __name__ == "__main__":
    main()
