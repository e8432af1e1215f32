"""Matplotlib figures, and safe text for them: episode names may contain any characters."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from dopamine_rl.texts import one_line

LONGEST = 110
"""Maximum characters of a title that fit the figure."""


def new_figure(width: float, height: float) -> Any:
    """An off-screen figure; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plain_text()
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain_text() -> None:
    """Show text literally: `$` does not start mathematics. Call it before a figure is created."""
    import matplotlib

    matplotlib.rcParams["text.parse_math"] = False


def plot_text(text: str) -> str:
    """Text for a plot: one line, shortened in the middle if too long, with □ for characters that the font lacks."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    return "".join(char if ord(char) in _code_points() else "□" for char in one_line(text))


@lru_cache(maxsize=1)
def _code_points() -> Any:
    """Code points that the plots' font supports."""
    from matplotlib.font_manager import findfont, get_font

    return get_font(findfont("DejaVu Sans")).get_charmap().keys()
