"""Checks a robot's limits file and shows it as a table.

    dopamine robot limits arm.toml

What the file holds: docs/robots.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from actors.robots.show import LimitsArguments, show_limits
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command


@dataclass(frozen=True)
class Arguments(LimitsArguments):
    """The limits file."""

    file: Annotated[Positional[Path], option("FILE")]
    """Limits of a robot, a TOML file."""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Print the limits, or what is wrong with them."""
    show_limits(parse(Arguments, argv, "dopamine robot limits", __doc__))


if __name__ == "__main__":
    main()
