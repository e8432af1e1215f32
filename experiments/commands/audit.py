"""Scores a run's recorded episodes again, offline, and compares with the progress that was used in training.

    python -m experiments.commands.audit RUN

The last line is JSON: episodes, frames, answered, max_abs_difference, doubled (an environment step of an episode scored
twice), wrong_version (episodes that name another model than the run's checkpoint).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from actors.label_records import LabelRecord
from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import ProgressScorer
from dopamine_rl.progress import FoldState, fold
from dopamine_rl.types import ScoreRequest
from experiments.runtime.ending import command


def rescored_progress(record: LabelRecord, scorer: ProgressScorer) -> np.ndarray:
    """Progress after each frame of a record, float32 [F], asked and folded anew in order.

    Frames that had no value then (late, rejected, unreadable) hold here too: whether an answer came in time is a fact of
    the run, what it says is the model's.
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
        "episodes": 0, "frames": 0, "answered": 0, "max_abs_difference": 0.0, "doubled": 0, "wrong_version": 0,
    }  # fmt: skip
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


@command
def main(argv: list[str] | None = None) -> None:
    """Audit a run folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run, as printed at its end")
    parser.add_argument("--episodes", type=int, default=None, help="audit only the first so many episodes")
    args = parser.parse_args(argv)
    print(json.dumps(audit_run(args.run, args.episodes)))


def audit_run(run: Path, episodes: int | None = None) -> dict[str, float | int]:
    """Audit the first `episodes` records of a run folder, or all. Raises BadInput where there are none."""
    paths = sorted((run / "records").glob("*.npz"))[:episodes]
    if not paths:
        raise BadInput("run", str(run), "give a run folder whose records/ holds episodes (labels.keep_frames)")
    from reward_service.engines.transformers import TransformersEngine
    from reward_service.scorer import Scorer

    engine = TransformersEngine(run / "grm")
    return audit(map(LabelRecord.load, paths), Scorer(engine), engine.model_version)


if __name__ == "__main__":
    main()
