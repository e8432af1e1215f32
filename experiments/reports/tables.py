"""Figures as text: aligned columns for a terminal, Markdown tables, JSON values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dopamine_rl.metrics import Interval
from dopamine_rl.texts import markdown, one_line


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as indented lines with aligned columns."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; the first is its head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(markdown(cell) for cell in row)} |" for row in lines)


def number(value: float) -> str:
    """Three decimals, or a dash where there is no value."""
    return f"{value:.3f}" if math.isfinite(value) else "–"


def short(figure: Interval) -> str:
    """Value with its interval, short."""
    if not math.isfinite(figure.value):
        return "–"
    return f"{figure.value:.2f} ({figure.low:.2f}–{figure.high:.2f})".replace("0.", ".")


def difference(figure: Interval) -> str:
    """Signed value with its interval; * where the interval leaves 0 out."""
    if not math.isfinite(figure.value):
        return "–"
    clear = "" if figure.low <= 0.0 <= figure.high else " *"
    return f"{figure.value:+.3f} ({figure.low:+.3f} to {figure.high:+.3f}){clear}"


def plain(value: float) -> float | None:
    """A JSON value: None where there is no number."""
    return value if math.isfinite(value) else None


def interval(figure: Interval) -> dict[str, float | None]:
    """A figure for JSON."""
    return {"value": plain(figure.value), "low": plain(figure.low), "high": plain(figure.high)}
