"""A video of one episode: camera views above, progress and reward below, drawn over time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.video import write_video
from dopamine_rl.files import write_atomically
from dopamine_rl.types import PERSPECTIVES, Views
from experiments.reports.plots import plain_text, plot_text


@dataclass(frozen=True, eq=False, slots=True)
class Curves:
    """The curves below the views, over one time axis.

    Args:
        times: float [F], of the first frame and the scored ones; empty without a reward model.
        progress: float32 [F], fused.
        perspectives: float32 [F, 3]; NaN for no value.
        edges: float [B+1], edges of the lower chart's bars; the last one ends the axis.
        bars: float32 [B], heights.
        bars_name: label of the bars.
        axis: label of the time axis, with its unit.
        truth: float [F], true progress; None if unknown.
        marks: times of sub-task boundaries.
        faults: times of scored frames without a value.
    """

    times: NDArray[Any]
    progress: NDArray[np.float32]
    perspectives: NDArray[np.float32]
    edges: NDArray[Any]
    bars: NDArray[np.float32]
    bars_name: str = "reward"
    axis: str = "environment step"
    truth: NDArray[np.float64] | None = None
    marks: tuple[float, ...] = ()
    faults: tuple[float, ...] = ()


_VIEW_HEIGHT, _LEAST_WIDTH, _CHART_HEIGHT = 336, 672, 360


def write_film(
    path: Path, frames: Iterable[tuple[float, Views]], curves: Curves, title: str, fps: float = 10.0
) -> Path:
    """Write an H.264 mp4 of an episode; the curves are drawn up to the current frame.

    Args:
        frames: time of each frame on the curves' axis, and its views, uint8 [V, H, W, 3]; read one at a time.
        fps: frames per second.
    """
    pictures = _film(iter(frames), curves, title, hold=round(fps))
    return write_atomically(path, lambda temporary: write_video(temporary, pictures, fps, lossless=False))


def _film(frames: Iterator[tuple[float, Views]], curves: Curves, title: str, hold: int) -> Iterator[NDArray[np.uint8]]:
    """The images of the video; the last one is repeated `hold` times."""
    first = next(frames)
    width = _strip(first[1]).shape[1]
    full, box = _chart(curves, width, title, hidden=False)
    empty, _ = _chart(curves, width, title, hidden=True)
    picture = empty
    for time, views in chain([first], frames):
        cursor = round(box.left + (box.right - box.left) * time / max(1e-9, float(curves.edges[-1])))
        below = empty.copy()
        below[:, : cursor + 1] = full[:, : cursor + 1]
        below[box.top : box.bottom, cursor : cursor + 2] = 60
        picture = np.concatenate([_strip(views), below])
        yield picture
    yield from repeat(picture, hold)


def _strip(views: Views) -> NDArray[np.uint8]:
    """The views side by side, small ones enlarged; height and width are even, and the width fits the chart."""
    scale = max(1, round(_VIEW_HEIGHT / views.shape[1]))
    strip = np.concatenate(list(views.repeat(scale, axis=1).repeat(scale, axis=2)), axis=1)
    strip = strip[: strip.shape[0] // 2 * 2, : strip.shape[1] // 2 * 2]
    missing = max(0, _LEAST_WIDTH - strip.shape[1])
    return np.pad(strip, ((0, 0), (missing // 2, missing - missing // 2), (0, 0)), constant_values=255)


class _Box(NamedTuple):
    """Position of the axes in the chart's image, in pixels from the upper left corner."""

    left: float
    right: float
    top: int
    bottom: int


def _chart(curves: Curves, width: int, title: str, hidden: bool) -> tuple[NDArray[np.uint8], _Box]:
    """The chart as an image, uint8 [H, W, 3], and the position of its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plain_text()
    figure = Figure(figsize=(width / 100, _CHART_HEIGHT / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    alpha, end = 0.0 if hidden else 1.0, float(curves.edges[-1])
    _draw_progress(above, curves, end, alpha)
    widths = np.diff(curves.edges)
    below.bar(curves.edges[:-1] + widths / 2, curves.bars, width=0.9 * widths, color="tab:red", alpha=alpha)
    low, high = float(np.nanmin(curves.bars, initial=0.0)), float(np.nanmax(curves.bars, initial=0.0))
    below.set(ylim=(low - 0.05, high + 0.05), ylabel=curves.bars_name, xlabel=curves.axis)
    above.set_title(plot_text(title), fontsize=9, loc="left", pad=22)
    if above.get_legend_handles_labels()[0]:
        place = {"loc": "lower left", "bbox_to_anchor": (-0.01, 0.98), "ncols": 6}
        legend = above.legend(**place, fontsize=8, frameon=False, columnspacing=1.2, handlelength=1.6)
        legend.set_in_layout(False)  # it uses the title's padding; its width must not narrow the axes
        for handle in legend.legend_handles:
            handle.set_alpha(1.0)
    canvas.draw()
    (left, top), (right, _) = above.transAxes.transform([(0, 1), (1, 0)])
    _, bottom = below.transAxes.transform((0, 0))
    box = _Box(float(left), float(right), _CHART_HEIGHT - round(top), _CHART_HEIGHT - round(bottom))
    return np.asarray(canvas.buffer_rgba())[..., :3].copy(), box


def _draw_progress(axes: Any, curves: Curves, end: float, alpha: float) -> None:
    axes.set(ylim=(-0.03, 1.03), ylabel="progress", xlim=(0, end))
    if not len(curves.times):
        axes.text(end / 2, 0.5, "no reward model", ha="center", va="center", color="0.5", fontsize=9)
        return
    for mark in curves.marks:
        axes.axvline(mark, lw=0.8, color="0.85", zorder=0)
    if curves.truth is not None:
        axes.plot(curves.times, curves.truth, lw=1.2, color="0.6", label="progress by keyframes", alpha=alpha)
    colours = ("tab:blue", "tab:orange", "tab:green")
    for i, (name, colour) in enumerate(zip(PERSPECTIVES, colours, strict=True)):
        axes.plot(curves.times, curves.perspectives[:, i], "--", lw=1.2, color=colour, label=name, alpha=alpha)
    held = [*curves.progress, curves.progress[-1]]
    style = {"where": "post", "lw": 2.4, "color": "black", "label": "progress Φ*", "alpha": alpha}
    axes.step([*curves.times, end], held, **style)
    if curves.faults:
        axes.plot(curves.faults, np.zeros(len(curves.faults)), "x", color="tab:red", label="no answer", alpha=alpha)
