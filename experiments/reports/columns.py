"""Writes scores back into the LeRobot datasets of the scored episodes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.lerobot_columns import check_column, write_progress
from dopamine_rl.episodes.recordings import Recording
from dopamine_rl.errors import BadInput
from dopamine_rl.files import changing


def check_columns(recordings: Sequence[Recording], column: str) -> None:
    """Raise BadInput if there is no dataset, or one has its own column of this name or cannot be written."""
    roots = {recording.dataset.root for recording in recordings if recording.dataset is not None}
    if not roots:
        raise BadInput("--column", column, "leave it out: none of the episodes belongs to a LeRobotDataset")
    for root in sorted(roots):
        with changing(root):  # a read-only dataset is reported before hours of scoring
            try:
                check_column(root, column, overwrite=True)
            except BadInput as error:
                raise BadInput(f"--{error.field}", error.value, error.fix) from error


def write_back(recordings: Sequence[Recording], out: Path, column: str) -> None:
    """Write the progress of scored episodes as a column of their datasets; each dataset is rewritten once.

    Args:
        recordings: the episodes; those without `out`/NAME.json could not be scored and are skipped.
        out: folder of the scores.
        column: its name; in an existing column of ours, the values of other episodes stay.
    Raises:
        BadInput: as `check_columns`.
    """
    progress_of: dict[Path, dict[str, NDArray[np.float32]]] = defaultdict(dict)
    for recording in recordings:
        dataset, scores = recording.dataset, out / f"{recording.name}.json"
        if dataset is not None and scores.exists():
            rows = json.loads(scores.read_text(encoding="utf-8"))["columns"]
            count = dataset.episode(recording.name).frame_count
            progress_of[dataset.root][recording.name] = held(count, rows["frame"], rows["progress"])
    for root, progress in progress_of.items():
        write_progress(root, progress, column, overwrite=True)


def held(count: int, frames: Sequence[int], progress: Sequence[float | None]) -> NDArray[np.float32]:
    """Progress of every frame, float32 [count]: that of the latest scored frame up to it, 0 before the first.

    Like the held potential it is causal. If no frame has a value, all are NaN.
    """
    values = np.array([np.nan if value is None else value for value in progress], np.float32)
    if np.isnan(values).all():
        return np.full(count, np.nan, np.float32)
    indices = np.searchsorted(np.asarray(frames), np.arange(count), side="right")
    return np.concatenate([np.zeros(1, np.float32), values])[indices]
