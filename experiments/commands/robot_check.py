"""Checks a robot's driver, and says how to mend what a training cannot use.

    dopamine robot check my_robot:Arm --limits arm.toml
    dopamine robot check my_robot:Arm --limits arm.toml --move

The contract is dopamine_rl.interfaces.Robot (docs/robots.md). Without --move the robot is told nothing but to stay
where it is; with it each axis makes one step within its limits, and one back. Keep a hand at its emergency stop. The
last line is JSON: ok, broken (rules), findings. Exit status 1: a rule is broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from actors.robots.check import CheckArguments, check
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command


@dataclass(frozen=True)
class Arguments(CheckArguments):
    """The driver, and whether it may move."""

    robot: Annotated[Positional[str], option("MODULE:CALLABLE")]
    """Makes the driver."""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Check the driver, print the findings, and exit with status 1 if a rule is broken."""
    check(parse(Arguments, argv, "dopamine robot check", __doc__))


if __name__ == "__main__":
    main()
