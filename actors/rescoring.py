"""Scores recorded episodes again, offline, and compares with the progress that was used in training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from actors.label_records import LabelRecord
from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import ProgressScorer
from dopamine_rl.progress import FoldState, fold
from dopamine_rl.types import ScoreRequest


def rescored_progress(record: LabelRecord, scorer: ProgressScorer) -> NDArray[np.float32]:
    """Progress after each frame of a record, float32 [F], asked and folded anew in order.

    Frames that had no value then (late, rejected, unreadable) hold here too: whether an answer came in time is a fact
    of the run, what it says is the model's.
    """
    answered = [frame for frame in record.frames if frame.outcome == "answered"]
    anchors = [record.context.init, *(frame.views for frame in answered)][: len(answered)]
    requests = [
        ScoreRequest(record.context, anchor, frame.views[None], (frame.time,), 1e9)
        for frame, anchor in zip(answered, anchors, strict=True)
        if frame.views is not None and anchor is not None
    ]
    replies = iter(scorer.score(requests))
    state = FoldState(0.0, 0.0)
    progress = []
    for frame in record.frames:
        if frame.outcome == "answered":
            reply = next(replies)
            _, state = fold(state, reply.gain, reply.loss, reply.valid, record.fusion)
        progress.append(state.progress)
    return np.array(progress, np.float32)


def audit(records: Iterable[LabelRecord], scorer: ProgressScorer, version: str) -> dict[str, float | int]:
    """Compare stored with re-scored progress over many records."""
    totals: dict[str, float | int] = {
        "episodes": 0,
        "frames": 0,
        "answered": 0,
        "max_abs_difference": 0.0,
        "doubled": 0,
        "wrong_version": 0,
    }
    for record in records:
        times = [frame.time for frame in record.frames]
        answered = sum(frame.outcome == "answered" for frame in record.frames)
        totals["episodes"] += 1
        totals["frames"] += len(times)
        totals["answered"] += answered
        totals["doubled"] += len(times) - len(set(times))
        if answered and record.context.model_version != version:
            totals["wrong_version"] += 1
            continue
        stored = np.array([frame.progress for frame in record.frames], np.float32)
        if not np.isfinite(stored).all():
            raise BadInput(
                f"{record.context.episode_id}.progress", stored, "give finite progress; the record is damaged"
            )
        difference = np.abs(stored - rescored_progress(record, scorer))
        totals["max_abs_difference"] = max(totals["max_abs_difference"], float(difference.max(initial=0.0)))
    return totals
