"""Figures of matplotlib, and text on them: names that people gave to their episodes, whatever is in them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from dopamine_rl.texts import one_line

LONGEST = 110
"""Characters of a title; longer ones would leave the picture."""


def new_figure(width: float, height: float) -> Any:
    """A figure of so many inches, drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plain_text()
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain_text() -> None:
    """Let plots show every text as it is written: a `$` is no mathematics. To be called before a figure is made."""
    import matplotlib

    matplotlib.rcParams["text.parse_math"] = False


def plot_text(text: str) -> str:
    """Text for a plot: one line, cut in the middle where it is too long, with □ for what the font cannot draw."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    return "".join(char if ord(char) in _drawn() else "□" for char in one_line(text))


@lru_cache(maxsize=1)
def _drawn() -> Any:
    """Code points that the plots' font has."""
    from matplotlib.font_manager import findfont, get_font

    return get_font(findfont("DejaVu Sans")).get_charmap().keys()
