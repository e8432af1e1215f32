"""Checks a limits file and shows it as a table.

python -m actors.robots limits arm.toml
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.robots.limits import describe, load_limits


@dataclass(frozen=True)
class LimitsArguments:
    """The limits file."""

    file: Path
    """Limits of a robot, a TOML file."""


def show_limits(arguments: LimitsArguments) -> None:
    """Print the limits. Raises BadInput, naming the entry, where they cannot be used."""
    limits = load_limits(arguments.file)
    rows = describe(limits)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\n{limits.rate_hz:g} control periods per second.")
    print(
        f"Without a command the robot holds after {limits.hold_after_ms:g} ms, "
        f"and stops after {limits.stop_after_ms:g} ms."
    )
    if limits.frozen_after_ms:
        print(f"It holds, too, where a picture stays the same during {limits.frozen_after_ms:g} ms of motion.")
    if limits.box is not None:
        print(f"Workspace, metres: {list(limits.box[0])} to {list(limits.box[1])}; needs a driver with tool_after.")
