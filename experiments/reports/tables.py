"""Metrics as text: aligned columns for a terminal, Markdown tables, JSON values."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dopamine_rl.metrics import Interval
from dopamine_rl.texts import markdown, one_line

MOST_COLUMNS = 120
STATES = {"ok": "green", "missing": "bold red", "optional": "yellow"}
"""Colours of status words."""


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as indented lines with aligned columns of any width; the first row is the header."""
    console = Console(width=10_000, no_color=True, highlight=False, file=io.StringIO())
    with console.capture() as capture:
        console.print(_table([[one_line(cell) for cell in row] for row in rows], padding=(0, 2, 0, 0)), soft_wrap=True)
    return "\n".join(f"  {line.rstrip()}".rstrip() for line in capture.get().splitlines())


def show(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a table at most 120 characters wide; the first row is the header. Piped, it is plain text."""
    terminal = Console(highlight=False)
    if terminal.is_terminal:
        terminal.print(_table(rows, padding=(0, 2, 0, 0)), width=min(terminal.width, MOST_COLUMNS))
        return
    piped = Console(width=MOST_COLUMNS, no_color=True, highlight=False, file=io.StringIO())
    with piped.capture() as capture:
        piped.print(_table(rows, padding=(0, 2, 0, 0)))
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _table(rows: Sequence[Sequence[str]], padding: tuple[int, int, int, int]) -> Table:
    table = Table(box=None, padding=padding, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(Text(name))
    for row in rows[1:]:
        table.add_row(*(Text(cell, STATES.get(cell, "")) for cell in row))
    return table


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; the first row is the header."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(markdown(cell) for cell in row)} |" for row in lines)


def number(value: float) -> str:
    """Three decimals, or a dash for no value."""
    return f"{value:.3f}" if math.isfinite(value) else "–"


def short(figure: Interval, interval: bool = True) -> str:
    """Value and, with `interval`, its interval; two decimals."""
    if not math.isfinite(figure.value):
        return "–"
    limits = f" ({figure.low:.2f}–{figure.high:.2f})" if interval else ""
    return f"{figure.value:.2f}{limits}".replace("0.", ".")


def filled(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The rows without the columns in which no row has a value."""
    kept = [i for i in range(len(rows[0])) if i == 0 or any(row[i] != "–" for row in rows[1:])]
    return [[row[i] for i in kept] for row in rows]


def difference(figure: Interval) -> str:
    """Signed value and interval; * if the interval excludes 0."""
    if not math.isfinite(figure.value):
        return "–"
    clear = "" if figure.low <= 0.0 <= figure.high else " *"
    return f"{figure.value:+.3f} ({figure.low:+.3f} to {figure.high:+.3f}){clear}"


def plain(value: float) -> float | None:
    """A JSON value: None if it is not finite."""
    return value if math.isfinite(value) else None


def interval(figure: Interval) -> dict[str, float | None]:
    """An interval as JSON values."""
    return {"value": plain(figure.value), "low": plain(figure.low), "high": plain(figure.high)}
