"""Plots as SVG text that stands in a page: one style, and axes whose place in the picture is known to the player."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dopamine_rl.types import Rate
from experiments.job.report import recent_success
from experiments.reports.plots import plot_text
from experiments.viewer.episodes import Episode
from experiments.viewer.runs import RunState

RUN_COLORS = ("#1f6feb", "#d1570b", "#1b7f5c", "#8250df", "#b3256b", "#6b5b00")
"""Colours of runs, in order; the same everywhere."""
FUSED, PERSPECTIVES = "#1c2330", {"incremental": "#0f8fbf", "forward": "#d18b00", "backward": "#9a4fc4"}
"""Colours of Φ* and of the three perspectives."""
SUCCESS, FAILURE, GREY = "#1b7f5c", "#c2362b", "#8a93a3"
WIDTH, LEFT, RIGHT = 460, 46, 14
"""Width and margins of every plot in pixels: the player's cursor is placed by them."""
BAND = 0.16
_ONE_AT_A_TIME = threading.Lock()  # matplotlib's settings and fonts are shared by threads
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.edgecolor": "#c9ced6",
    "axes.labelcolor": "#5a6372",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "grid.color": "#eceef2",
    "xtick.color": "#5a6372",
    "ytick.color": "#5a6372",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Plot:
    """A plot.

    Args:
        svg: SVG markup; its text is escaped.
        start, end: horizontal place of the first and last value, as shares of the width.
        about: what it shows, in words.
    """

    svg: str
    start: float
    end: float
    about: str


class Panels:
    """A figure of axes on top of each other, with margins of a known width. A context manager: no two draw at once.

    Args:
        heights: of the axes in pixels, from the top.
        xlabel: below the lowest.
    """

    def __init__(self, heights: Sequence[int], xlabel: str) -> None:
        self._heights, self._xlabel = heights, xlabel
        self.axes: list[Any] = []

    def __enter__(self) -> Panels:
        import matplotlib
        from matplotlib.figure import Figure

        _ONE_AT_A_TIME.acquire()
        self._settings = matplotlib.rc_context(_STYLE)  # type: ignore[arg-type]
        self._settings.__enter__()
        top, gap, bottom = 24, 30, 38
        total = top + sum(self._heights) + gap * (len(self._heights) - 1) + bottom
        self._figure = Figure(figsize=(WIDTH / 72, total / 72), dpi=72)
        y = total - top
        for height in self._heights:
            y -= height
            rect = (LEFT / WIDTH, y / total, (WIDTH - LEFT - RIGHT) / WIDTH, height / total)
            self.axes.append(self._figure.add_axes(rect))
            y -= gap
        self.axes[-1].set_xlabel(self._xlabel)
        return self

    def __exit__(self, *error: Any) -> None:
        self._settings.__exit__(None, None, None)
        _ONE_AT_A_TIME.release()

    def plot(self, about: str, xlim: tuple[float, float] | None = None) -> Plot:
        """The finished figure.

        Args:
            about: what it shows, in words.
            xlim: of all axes.
        """
        for axes in self.axes:
            if xlim is not None:
                axes.set_xlim(*xlim)
            if axes.get_legend_handles_labels()[0]:
                columns = len(axes.get_legend_handles_labels()[0])
                above = {"loc": "lower right", "bbox_to_anchor": (1.01, 0.97), "borderaxespad": 0.0}
                axes.legend(ncols=columns, handlelength=1.1, columnspacing=1.0, handletextpad=0.4, **above)
        text = io.StringIO()
        self._figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        svg = text.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
        svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
        svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 role="img"', svg, count=1)
        return Plot(svg, LEFT / WIDTH, 1.0 - RIGHT / WIDTH, about)


def success_plot(runs: Mapping[str, RunState], colors: Sequence[str]) -> Plot | None:
    """Success during training, with the band of its Wilson interval, and that of the policies on unseen seeds."""
    if not any(run.curve or run.result for run in runs.values()):
        return None
    with Panels([170], "environment steps") as panels:
        [axes] = panels.axes
        for (name, run), color in zip(runs.items(), colors, strict=True):
            _success(axes, name if len(runs) > 1 else "", run, color)
        axes.set(ylim=(-0.03, 1.03))
        axes.set_title("success rate", loc="left")
        return panels.plot("Success of the latest 20 or more training episodes with its 95 % interval")


def _success(axes: Any, name: str, run: RunState, color: str) -> None:
    steps = run.column("environment_steps")
    curve = [dict(point) for point in run.curve if "episodes" in point and "successes" in point]
    rates = [recent_success(curve, i) for i in range(len(curve))] if len(curve) == len(run.curve) else []
    known = [(x, rate) for x, rate in zip(steps, rates, strict=False) if rate is not None]
    if known:
        xs, found = [x for x, _ in known], [rate for _, rate in known]
        _band(axes, xs, [r.mean for r in found], [r.low for r in found], [r.high for r in found], color, name)
    for key, x, marker in (("bc_success", 0, "o"), ("policy_success", steps[-1] if len(steps) else 0, "D")):
        rate = _rate(run.result.get(key))
        if rate is not None:
            error = [[rate.mean - rate.low], [rate.high - rate.mean]]
            axes.errorbar([x], [rate.mean], yerr=error, fmt=marker, ms=5, capsize=3, color=color, lw=1.2)


def progress_plot(runs: Mapping[str, RunState], colors: Sequence[str]) -> Plot | None:
    """Mean final Φ and return of the training's episodes."""
    names = ("final_potential_mean", "return_mean")
    if not any(np.isfinite(run.column(name)).any() for run in runs.values() for name in names):
        return None
    with Panels([70, 70], "environment steps") as panels:
        titles = ("final Φ, mean of 100 episodes", "return, mean")
        for axes, name, title in zip(panels.axes, names, titles, strict=True):
            for (label, run), color in zip(runs.items(), colors, strict=True):
                legend = plot_text(label)[:24] if len(runs) > 1 else None
                axes.plot(run.column("environment_steps"), run.column(name), color=color, label=legend)
            axes.set_title(title, loc="left")
        panels.axes[0].set_ylim(-0.03, 1.03)
        panels.axes[0].tick_params(labelbottom=False)
        return panels.plot("Mean final potential and mean return of the training's episodes")


def labels_plot(run: RunState) -> Plot | None:
    """Median latency of the labels, and the share of frames without a value, by iteration."""
    asked = np.diff(run.column("asked"), prepend=0.0)
    if not (asked > 0).any():
        return None
    steps = run.column("environment_steps")
    with Panels([70, 70], "environment steps") as panels:
        latency, lost = panels.axes
        latency.plot(steps, run.column("label_p50_ms"), color=FUSED)
        latency.set_title("median latency of labels, ms", loc="left")
        latency.set_ylim(0, 1.1 * latency.get_ylim()[1])
        latency.tick_params(labelbottom=False)
        for name, color in (("invalid", PERSPECTIVES["forward"]), ("late", FAILURE), ("rejected", GREY)):
            share = np.diff(run.column(name), prepend=0.0) / np.maximum(asked, 1.0)
            lost.plot(steps, 100 * share, color=color, label=name)
        lost.set_title("frames without a value, %", loc="left")
        lost.set_ylim(0, max(5.0, lost.get_ylim()[1]))
        return panels.plot("Latency of the labels, and frames without a value")


def actors_plot(run: RunState) -> Plot | None:
    """Environment steps and updates a second, in all and by actor."""
    total = run.column("environment_steps_per_s")
    if not np.isfinite(total).any():
        return None
    steps, seconds = run.column("environment_steps"), np.diff(run.column("seconds"), prepend=0.0)
    rates = actor_rates(run, seconds)
    with Panels([70, 70], "environment steps") as panels:
        acting, learning = panels.axes
        for (_, rate), color in zip(rates.items(), RUN_COLORS * len(rates), strict=False):
            acting.plot(steps, rate, color=color, lw=1.0, alpha=0.8)
        acting.plot(steps, total, color=FUSED, label="all actors" if len(rates) > 1 else None)
        acting.set_title("environment steps/s", loc="left")
        acting.tick_params(labelbottom=False)
        learning.plot(steps, run.column("updates_per_s"), color=FUSED)
        learning.set_title("updates/s", loc="left")
        for axes in panels.axes:
            axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        return panels.plot("Environment steps and updates a second")


def actor_rates(run: RunState, seconds: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Environment steps a second by actor, float64 [P]; NaN where a point does not say.

    Args:
        seconds: time between a point and the one before, float64 [P].
    """
    taken = [point.get("env_runner_steps") or {} for point in run.curve]
    names = sorted({name for steps in taken for name in steps}, key=lambda name: (len(name), name))
    return {
        name: np.array([steps.get(name, 0) if steps else np.nan for steps in taken]) / np.maximum(seconds, 1e-9)
        for name in names
    }


def shadow_plot(run: RunState, threshold: float) -> Plot | None:
    """Final Φ* of every training episode, coloured by the environment's verdict on it.

    Args:
        threshold: final Φ* from which an episode looks like a success.
    """
    scored = [e for e in run.episodes if isinstance(e.get("final_progress"), int | float)]
    if not scored:
        return None
    with Panels([170], "episode") as panels:
        [axes] = panels.axes
        for success, color, label in ((True, SUCCESS, "success"), (False, FAILURE, "failure")):
            truth = [bool(e.get("reached", e.get("success"))) for e in scored]
            points = [(i, e["final_progress"]) for i, e in enumerate(scored) if truth[i] == success]
            if points:
                axes.scatter(*zip(*points, strict=True), s=14, color=color, alpha=0.75, label=label, linewidths=0)
        axes.axhline(threshold, color=GREY, lw=1.0, ls=(0, (4, 3)))
        axes.set(ylim=(-0.03, 1.03))
        axes.set_title("final Φ* by the environment's verdict", loc="left")
        return panels.plot("Final progress of every training episode")


def episode_plot(episode: Episode, threshold: float | None) -> Plot:
    """Progress, hops and reward of an episode over its environment steps.

    Args:
        threshold: Φ* from which success is claimed; None where nobody claims.
    """
    times, answered = episode.times, episode.answered
    with Panels([120, 80, 70] if episode.rewards else [120, 80], "environment step") as panels:
        progress, hops, *paid = panels.axes
        for axes, values, title in (
            (progress, episode.perspectives, "progress"),
            (hops, episode.hops, "hop"),
        ):
            for column, (name, color) in enumerate(PERSPECTIVES.items()):
                axes.plot(times, values[:, column], color=color, lw=1.1, marker=".", ms=3.5, label=name)
            axes.set_title(title, loc="left")
            axes.tick_params(labelbottom=axes is hops and not paid)
        progress.plot(times, episode.progress, color=FUSED, lw=2.2, label="Φ*")
        if not answered.all():
            held = ~answered
            progress.plot(times[held], episode.progress[held], "x", color=FAILURE, label="held")
        if threshold is not None:
            progress.axhline(threshold, color=GREY, lw=1.0, ls=(0, (4, 3)))
        progress.set_ylim(-0.03, 1.03)
        hops.axhline(0.0, color=GREY, lw=0.8)
        hops.set_ylim(-1.05, 1.05)
        hops.legend = lambda *_, **__: None  # the colours are those of the panel above
        last = float(max(times[-1], 1))
        if episode.rewards is not None:
            last = max(last, float(len(episode.rewards[0])))
            _reward_panel(paid[0], *episode.rewards)
        return panels.plot("Progress, hops and reward by environment step", (0.0, last))


def _reward_panel(axes: Any, rewards: NDArray[np.float32], task_rewards: NDArray[np.float32]) -> None:
    steps = np.arange(1, len(rewards) + 1)
    axes.axhline(0.0, color=GREY, lw=0.8)
    axes.vlines(steps, 0.0, rewards, color=FUSED, lw=1.6)
    paid = task_rewards != 0.0
    axes.plot(steps[paid], rewards[paid], "D", color=SUCCESS, ms=5, clip_on=False)
    axes.set_title("reward of the learner (◆ with the task's)", loc="left")


def _band(axes: Any, x: ArrayLike, mean: ArrayLike, low: ArrayLike, high: ArrayLike, color: str, label: str) -> None:
    axes.plot(x, mean, color=color, label=plot_text(label)[:24] or None)
    axes.fill_between(x, low, high, color=color, alpha=BAND, linewidth=0)


def _rate(value: Any) -> Rate | None:
    try:
        return Rate(**value)
    except (TypeError, ValueError):
        return None
