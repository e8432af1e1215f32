"""A video of one episode: the pictures above, progress and reward below, drawn as they come in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.video import write_video
from dopamine_rl.files import write_atomically
from dopamine_rl.types import PERSPECTIVES


@dataclass(frozen=True, eq=False, slots=True)
class Film:
    """One episode with pictures at every environment step.

    Args:
        views: uint8 [T+1, V, H, W, 3].
        task_rewards: float32 [T].
        success: the simulator's verdict.
        terminated: the task ended with the last step.
        score_times: int [F], environment steps at which a frame is scored.
        seed: the episode's environment seed.
    """

    views: NDArray[np.uint8]
    task_rewards: NDArray[np.float32]
    success: bool
    terminated: bool
    score_times: tuple[int, ...]
    seed: int


@dataclass(frozen=True, eq=False, slots=True)
class Curves:
    """What is drawn under the pictures.

    Args:
        times: int [F], environment steps of the scored frames, starting with 0.
        progress: float32 [F], fused.
        perspectives: float32 [F, 3].
        rewards: float32 [T], shaped reward of each environment step.
    """

    times: NDArray[np.int64]
    progress: NDArray[np.float32]
    perspectives: NDArray[np.float32]
    rewards: NDArray[np.float32]


VIEW_NAMES = ("front", "wrist", "close-up")
_SCALE = 3
_CHART_HEIGHT = 330


def write_film(path: Path, film: Film, curves: Curves, title: str, fps: int = 10) -> Path:
    """Write an mp4 (H.264) whose frame k shows environment step k; the curves end where the episode has come to."""
    strips = [_strip(views) for views in film.views]
    width = strips[0].shape[1]
    full, left, right = _chart(curves, len(film.task_rewards), width, title, hidden=False)
    empty, _, _ = _chart(curves, len(film.task_rewards), width, title, hidden=True)
    frames = []
    for step, strip in enumerate(strips):
        cursor = round(left + (right - left) * step / max(1, len(film.task_rewards)))
        chart = empty.copy()
        chart[:, : cursor + 1] = full[:, : cursor + 1]
        chart[:, cursor : cursor + 2] = 60
        frames.append(np.concatenate([strip, chart]))
    frames += [frames[-1]] * fps
    pictures = np.stack(frames)
    return write_atomically(path, lambda temporary: write_video(temporary, pictures, fps, lossless=False))


def _strip(views: NDArray[np.uint8]) -> NDArray[np.uint8]:
    large = views.repeat(_SCALE, axis=1).repeat(_SCALE, axis=2)
    strip = np.concatenate(list(large), axis=1)
    return strip[: strip.shape[0] // 2 * 2, : strip.shape[1] // 2 * 2]


def _chart(curves: Curves, steps: int, width: int, title: str, hidden: bool) -> tuple[NDArray[np.uint8], float, float]:
    """The chart as a picture, and the x pixels of its first and last environment step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, _CHART_HEIGHT / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    alpha = 0.0 if hidden else 1.0
    colours = ("tab:blue", "tab:orange", "tab:green")
    for i, (name, colour) in enumerate(zip(PERSPECTIVES, colours, strict=True)):
        above.plot(curves.times, curves.perspectives[:, i], "--", lw=1.2, color=colour, label=name, alpha=alpha)
    above.step(
        [*curves.times, steps], [*curves.progress, curves.progress[-1]], where="post", lw=2.4, color="black",
        label="progress Φ*", alpha=alpha,
    )  # fmt: skip
    above.set(ylim=(-0.03, 1.03), ylabel="progress", xlim=(0, steps))
    above.set_title(title, fontsize=10, loc="left")
    legend = above.legend(loc="upper left", ncols=4, fontsize=8, framealpha=0.9)
    for handle in legend.legend_handles:
        handle.set_alpha(1.0)
    below.bar(np.arange(steps) + 0.5, curves.rewards, width=0.9, color="tab:red", alpha=alpha)
    low, high = float(curves.rewards.min(initial=0.0)), float(curves.rewards.max(initial=0.0))
    below.set(ylim=(low - 0.05, high + 0.05), ylabel="reward", xlabel="environment step")
    canvas.draw()
    left, _ = above.transData.transform((0, 0))
    right, _ = above.transData.transform((steps, 0))
    return np.asarray(canvas.buffer_rgba())[..., :3].copy(), float(left), float(right)
