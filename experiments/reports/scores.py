"""Output for a scored episode: metrics, a table of its frames (CSV and JSON), and the reward video."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.recordings import Recording, stream_frames
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.figures import curve_row, order_row
from dopamine_rl.evaluation.scoring import EpisodeScores
from dopamine_rl.files import ESCAPED, write_atomically, write_text
from dopamine_rl.metrics import outcome
from dopamine_rl.progress import LOW_WEIGHT
from dopamine_rl.types import PERSPECTIVES, Views

FILM_HZ, FILM_HEIGHT = 5.0, 240
"""Minimum frame rate of a reward video, if the recording has it, and maximum height of its views in pixels."""

TABLE_HEAD = ("frame", "time_s", "progress")
"""First columns of every table of scores."""


@dataclass(frozen=True, eq=False, slots=True)
class ScoredRecording:
    """An episode and its scores.

    Args:
        recording: the episode.
        frame_ids: int64 [T+1], the first frame and the T scored ones.
        stride: video frames between scored frames.
        views: number of cameras used.
        rate_hz: video frames per second.
        scores: of the T scored frames.
    """

    recording: Recording
    frame_ids: NDArray[np.int64]
    stride: int
    views: int
    rate_hz: float
    scores: EpisodeScores

    @property
    def times_s(self) -> NDArray[np.float64]:
        """float64 [T+1], seconds since the first frame."""
        return self.frame_ids / self.rate_hz

    @property
    def curve(self) -> NDArray[np.float32]:
        """float32 [T+1], progress from 0 at the first frame."""
        return np.concatenate([np.zeros(1, np.float32), self.scores.folded.progress])

    @property
    def truth(self) -> NDArray[np.float64] | None:
        """float64 [T+1], progress by keyframes; None if the episode is not annotated, or failed."""
        return self.recording.true_progress(self.frame_ids, int(self.frame_ids[-1]) + 1)


def figures(scored: ScoredRecording) -> dict[str, Any]:
    """Metrics of an episode; None for those that cannot be computed, as when no frame has a value.

    Rank correlations with time are given for every episode, as if it were one that advances.
    """
    scores, curve, folded = scored.scores, scored.curve, scored.scores.folded
    has_value = bool(folded.valid.any())
    row = order_row(scores.hops[:, 0], None, curve, has_value) | curve_row(curve, folded.valid, scored.truth)
    stated = {name: None if not has_value or math.isnan(value) else value for name, value in row.items()}
    return {
        "frames": len(folded.valid),
        "final_progress": stated["end"],
        "outcome": outcome(curve) if has_value else None,
        **{name: stated[name] for name in ("voc_plus", "kendall", "progress_mae")},
        "invalid": row["invalid"],
        "low_weight": int((folded.valid & (folded.weight < LOW_WEIGHT)).sum()),
        "labels_per_s": round(len(folded.valid) / max(scores.seconds, 1e-9), 2),
    }


def columns(scored: ScoredRecording) -> dict[str, list[Any]]:
    """One entry per scored frame, in order of time; None for no value."""
    scores, folded = scored.scores, scored.scores.folded
    table: dict[str, NDArray[Any]] = {"frame": scored.frame_ids[1:], "time_s": scored.times_s[1:].round(4)}
    table |= {"progress": folded.progress}
    table |= {name: folded.perspectives[:, i] for i, name in enumerate(PERSPECTIVES)}
    for name in ("gain", "loss", "entropy"):
        table |= {f"{name}_{of}": getattr(scores, name)[:, i] for i, of in enumerate(PERSPECTIVES)}
    table |= {"weight": folded.weight, "valid": folded.valid}
    if scored.truth is not None:
        table["true_progress"] = scored.truth[1:]
    lists = {name: [_plain(value) for value in values.tolist()] for name, values in table.items()}
    return {**lists, "reason": list(scores.reasons)}


def _plain(value: Any) -> Any:
    """A JSON value: None for NaN and infinity; a float32 keeps its seven significant digits."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value


def stored_figures(out: Path, name: str, inputs: str, video: bool) -> dict[str, Any] | None:
    """Stored metrics of an episode, if its files are complete and came from the same inputs; else None.

    Args:
        inputs: the setting `inputs` that `write_scores` was given.
        video: require the reward video too.
    """
    content = _figures(out, name)
    complete = all((out / f"{name}{suffix}").exists() for suffix in (".csv", ".mp4")[: 1 + video])
    if content is None or not complete or content.get("inputs") != inputs:
        return None
    stored: dict[str, Any] = content["figures"]
    return stored


def _figures(out: Path, name: str) -> dict[str, Any] | None:
    """Content of NAME.json if `write_scores` wrote it; else None."""
    try:
        content = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("figures"), dict) else None


def check_own(out: Path, name: str) -> None:
    """Raise BadInput if an episode's output files exist that `write_scores` did not write.

    The table is written first and only ever replaced, so it exists after any interrupted scoring.
    """
    existing = [path.name for suffix in (".json", ".csv", ".mp4") if (path := out / f"{name}{suffix}").exists()]
    if not existing:
        return
    try:
        with (out / f"{name}.csv").open(encoding="utf-8") as file:
            table = file.readline().startswith(",".join(TABLE_HEAD))
    except (OSError, ValueError):
        table = False
    if not table and _figures(out, name) is None:
        names = ", ".join(existing)
        raise BadInput("--out", str(out), f"give another folder: {names} in it is not a score and is not replaced")


def write_scores(out: Path, scored: ScoredRecording, settings: dict[str, Any], video: bool) -> None:
    """Write NAME.csv, NAME.json and, if `video`, NAME.mp4; a failure to draw the video loses no scores.

    Args:
        settings: JSON values that describe how the scores were made, including `inputs` and `references`.
    Raises:
        BadInput: files of these names exist that are not scores.
    """
    name, scores, rows, metrics = scored.recording.name, scored.scores, columns(scored), figures(scored)
    check_own(out, name)
    for suffix in (".json", ".mp4"):  # files of other settings must not remain beside the new table
        (out / f"{name}{suffix}").unlink(missing_ok=True)
    _write_table(out / f"{name}.csv", rows)
    about = {"episode": name, "model_version": scores.model_version, "frames_per_second": scored.rate_hz, **settings}
    _write_json(out / f"{name}.json", about | {"asked_again": scores.asked_again, "figures": metrics}, rows)
    if video:
        end = "no answer"
        if metrics["final_progress"] is not None:
            end = f"{metrics['outcome']}, Φ* = {metrics['final_progress']:.2f}"
        title = f"{name}: {end} (model {scores.model_version}, references: {settings['references']})"
        write_reward_video(out / f"{name}.mp4", scored, title)


def _write_table(path: Path, rows: dict[str, list[Any]]) -> None:
    """Columns as CSV with a header; an empty cell means no value."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors=ESCAPED) as file:
            writer = csv.writer(file)
            writer.writerow(rows)
            writer.writerows(zip(*rows.values(), strict=True))

    write_atomically(path, write)


def _write_json(path: Path, about: dict[str, Any], rows: dict[str, list[Any]]) -> None:
    """One JSON object with each column on its own line."""
    lines = [f"    {json.dumps(name)}: {json.dumps(column, allow_nan=False)}" for name, column in rows.items()]
    head = json.dumps(about, indent=2, allow_nan=False, ensure_ascii=False).removesuffix("\n}")
    text = head + ',\n  "columns": {\n' + ",\n".join(lines) + "\n  }\n}\n"
    write_text(path, text)


def write_reward_video(path: Path, scored: ScoredRecording, title: str) -> None:
    """Write the recording as a real-time video with progress, perspectives and hops below it."""
    from experiments.reports.video import Curves, write_film

    scores, times = scored.scores, scored.times_s
    keyframes = scored.recording.keyframes
    curves = Curves(
        times=times,
        progress=scored.curve,
        perspectives=np.concatenate([[[0.0, np.nan, np.nan]], scores.folded.perspectives]).astype(np.float32),
        edges=times,
        bars=scores.hops[:, 0],
        bars_name="hop",
        axis="time, s",
        truth=scored.truth,
        marks=() if keyframes is None else tuple((keyframes / scored.rate_hz).tolist()),
        faults=tuple(times[1:][~scores.folded.valid].tolist()),
    )
    every = _film_stride(scored.stride, scored.rate_hz)
    write_film(path, _film_frames(scored, every), curves, title, max(1.0, scored.rate_hz / every))


def _film_frames(scored: ScoredRecording, every: int) -> Iterator[tuple[float, Views]]:
    recording = scored.recording
    height, width = recording.format.height, recording.format.width
    scale = min(1.0, FILM_HEIGHT / height)
    size = (round(height * scale), round(width * scale))
    for index, views in stream_frames(recording, every, size, min(scored.views, len(recording.videos))):
        yield index / scored.rate_hz, views


def _film_stride(stride: int, rate_hz: float) -> int:
    """Frame stride of the video: a divisor of the scoring stride, so that every scored frame appears."""
    return max((k for k in range(1, stride + 1) if stride % k == 0 and rate_hz / k >= FILM_HZ), default=1)
