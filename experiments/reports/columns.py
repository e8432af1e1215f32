"""Scores written back into the LeRobot datasets whose episodes they are of."""

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
    """Raise BadInput where a dataset has a column of its own of that name or cannot be changed, or there is none."""
    roots = {recording.source.root for recording in recordings if recording.source is not None}
    if not roots:
        raise BadInput("--column", column, "it is for episodes of a LeRobotDataset, and there is none")
    for root in sorted(roots):
        with changing(root):  # also where it cannot be written to, that is said before hours of scoring
            check_column(root, column, overwrite=True)


def write_back(recordings: Sequence[Recording], out: Path, column: str) -> None:
    """Write the progress of scored episodes as a column of their datasets; every dataset changes once.

    Args:
        recordings: as scored; those without an `out`/NAME.json, because they could not be scored, are left out.
        out: where scores lie.
        column: its name; where it was written before, other episodes keep theirs.
    Raises:
        BadInput: as `check_columns`.
    """
    found: dict[Path, dict[str, NDArray[np.float32]]] = defaultdict(dict)
    for recording in recordings:
        scores = out / f"{recording.name}.json"
        if recording.source is not None and scores.exists():
            rows = json.loads(scores.read_text(encoding="utf-8"))["columns"]
            found[recording.source.root][recording.name] = held(recording.count, rows["frame"], rows["progress"])
    for root, progress in found.items():
        write_progress(root, progress, column, overwrite=True)


def held(count: int, frames: Sequence[int], progress: Sequence[float | None]) -> NDArray[np.float32]:
    """Progress of every frame, float32 [count]: that of the last frame scored at or before it, 0 before the first.

    A frame uses nothing later than itself, as the held potential does. Where no frame has a value, all are NaN.
    """
    known = np.array([np.nan if value is None else value for value in progress], np.float32)
    if np.isnan(known).all():
        return np.full(count, np.nan, np.float32)
    place = np.searchsorted(np.asarray(frames), np.arange(count), side="right")
    return np.concatenate([np.zeros(1, np.float32), known])[place]
