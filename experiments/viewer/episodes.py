"""The recorded episodes of a run: a list that decodes no picture, and one episode with its pictures."""

from __future__ import annotations

import io
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from actors.label_records import LabelRecord, RecordSummary
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Views
from experiments.viewer.runs import RECORDS

TRAINING = re.compile(r"[0-9a-f]{32}")
"""Ids that RLlib gives to episodes; recorded ones are named after who acts in them."""
KEPT = 8
"""Decoded episodes that stay in memory."""
JPEG = {"format": "JPEG", "quality": 92, "subsampling": 0}
Reference = Literal["start", "end", "goal"]


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """An episode in the list.

    Args:
        summary: of its record.
        changed: when it was recorded, in ns.
    """

    summary: RecordSummary
    changed: int

    @property
    def name(self) -> str:
        """The episode's id."""
        return self.summary.episode_id

    @property
    def kind(self) -> str:
        """Who acted: `training` for the policy that is trained, else the name of a script."""
        return "training" if TRAINING.fullmatch(self.name) else self.name.rpartition("_")[0] or self.name

    @property
    def truth(self) -> bool | None:
        """The environment's verdict: the episode was a success, at some step where success is claimed."""
        return self.summary.success if self.summary.claimed is None else self.summary.reached

    @property
    def verdict(self) -> str:
        """How the episode ended, in words; "" where that is not recorded."""
        if self.summary.claimed is None:
            return {True: "success", False: "failure", None: ""}[self.summary.success]
        if self.summary.claimed:
            return "claimed, true" if self.summary.success else "false claim"
        return "missed success" if self.summary.reached else "failure"

    @property
    def wrong(self) -> bool:
        """The episode ended by a false claim, or its success was missed."""
        return self.verdict in ("false claim", "missed success")

    @property
    def disagreement(self) -> float | None:
        """Distance of the final Φ* from the truth, 1 for a success and 0 for a failure; None where one is unknown."""
        if self.truth is None or self.summary.final_progress is None:
            return None
        return abs(self.summary.final_progress - float(self.truth))


SORTS: dict[str, tuple[str, Callable[[EpisodeRow], Any]]] = {
    "disagreement": ("claim against truth", lambda row: (-row.wrong, -_or(row.disagreement, -1.0))),
    "return": ("return", lambda row: _or(row.summary.learner_return, math.inf)),
    "progress": ("final Φ*", lambda row: -_or(row.summary.final_progress, -1.0)),
    "newest": ("newest", lambda row: -row.changed),
    "length": ("length", lambda row: -row.summary.environment_steps),
}
"""Orders of the list: in words, and the key."""
FILTERS: dict[str, tuple[str, Callable[[EpisodeRow], bool]]] = {
    "all": ("all", lambda row: True),
    "training": ("of the training", lambda row: row.kind == "training"),
    "wrong": ("false claims and missed successes", lambda row: row.wrong),
    "success": ("successes", lambda row: row.truth is True),
    "failure": ("failures", lambda row: row.truth is False),
    "unanswered": ("with unanswered frames", lambda row: row.summary.unanswered > 0),
}
"""What the list can be narrowed to: in words, and the test."""


def arranged(rows: Sequence[EpisodeRow], sort: str, only: str) -> list[EpisodeRow]:
    """The rows that pass a filter, in order. Unknown names stand for the first of each."""
    _, key = SORTS.get(sort, SORTS["disagreement"])
    _, passes = FILTERS.get(only, FILTERS["all"])
    # Where nothing is known of the truth, the lowest return comes first, else the newest.
    return sorted(
        filter(passes, rows), key=lambda row: (key(row), *(SORTS[name][1](row) for name in ("return", "newest")))
    )


@dataclass(frozen=True, eq=False)
class Episode:
    """One recorded episode of F scored frames after the first.

    Args:
        row: its row in the list.
        record: hops, progress and pictures.
    """

    row: EpisodeRow
    record: LabelRecord

    @property
    def times(self) -> NDArray[np.int64]:
        """Environment step of each picture, int64 [F + 1]; 0 for the first."""
        return np.array([0, *(frame.time for frame in self.record.frames)], np.int64)

    @property
    def progress(self) -> NDArray[np.float64]:
        """Φ* at each picture, float64 [F + 1]."""
        return np.array([0.0, *(frame.progress for frame in self.record.frames)], np.float64)

    @property
    def perspectives(self) -> NDArray[np.float64]:
        """Progress by incremental, forward and backward perspective at each picture, float64 [F + 1, 3]; or NaN."""
        return self._stack("perspectives")

    @property
    def hops(self) -> NDArray[np.float64]:
        """Expected hop by perspective, float64 [F + 1, 3]; NaN at the first picture and without an answer."""
        return self._stack("gain") - self._stack("loss")

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Whether each picture has a value, bool [F + 1]."""
        return np.array([True, *(frame.outcome == "answered" for frame in self.record.frames)], bool)

    @property
    def rewards(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Reward of the learner and of the task at each environment step; None where they were not recorded."""
        ending = self.record.ending
        return None if ending is None else (ending.rewards, ending.task_rewards)

    def views(self, index: int) -> Views:
        """A picture, uint8 [V, H, W, 3]. Raises IndexError."""
        views = [self.record.context.init, *(frame.views for frame in self.record.frames)][index]
        if views is None:
            raise IndexError(index)
        return views

    def _stack(self, name: str) -> NDArray[np.float64]:
        return np.array([np.full(3, np.nan), *(getattr(frame, name) for frame in self.record.frames)], np.float64)


class EpisodeStore:
    """The recorded episodes of one run, read as they appear. For several threads.

    Args:
        run: the run's folder, resolved.
    """

    def __init__(self, run: Path) -> None:
        self._run, self._folder = run, run / RECORDS
        self._listing, self._decoding = threading.Lock(), threading.Lock()
        self._rows: dict[str, tuple[tuple[int, int], EpisodeRow | None]] = {}
        self._decoded: OrderedDict[tuple[str, int], Episode] = OrderedDict()

    def rows(self) -> list[EpisodeRow]:
        """All episodes. Files that are no records, or lie outside of the run, are left out."""
        with self._listing:
            before, self._rows = self._rows, {}
            for path in self._folder.glob("[!.]*.npz"):
                changed = _changed(path)
                if changed is None:  # removed meanwhile to stay within labels.records_mb
                    continue
                stamp, row = before.get(path.stem, (None, None))
                self._rows[path.stem] = (changed, row if stamp == changed else self._row(path, changed[0]))
            return [row for _, row in self._rows.values() if row is not None]

    def episode(self, name: str) -> Episode:
        """One episode by its id. Raises KeyError: there is none; BadInput: it cannot be read."""
        path = self._folder / f"{name}.npz"
        if path.parent != self._folder or name.startswith(".") or not (changed := _changed(path)):
            raise KeyError(name)
        key = (name, changed[0])
        with self._decoding:
            if key in self._decoded:
                self._decoded.move_to_end(key)
                return self._decoded[key]
            row = self._row(path, changed[0])
            if row is None:
                raise KeyError(name)
            episode = Episode(row, LabelRecord.load(path))
            self._decoded[key] = episode
            while len(self._decoded) > KEPT:
                self._decoded.popitem(last=False)
        return episode

    def _row(self, path: Path, changed: int) -> EpisodeRow | None:
        try:
            if not path.resolve(strict=True).is_relative_to(self._run):
                return None
            row = EpisodeRow(RecordSummary.read(path), changed)
        except (OSError, BadInput):
            return None
        return row if row.name == path.stem else None


def reference(episode: Episode, which: Reference) -> NDArray[np.uint8]:
    """The picture that the reward model was given of the task's start, end or goal, uint8 [V, H, W, 3]."""
    context = episode.record.context
    return {"start": context.reference_start[None], "end": context.reference_end[None], "goal": context.goal}[which]


def jpeg(views: NDArray[np.uint8]) -> bytes:
    """The pictures of all views side by side as a JPEG. Args: views: uint8 [V, H, W, 3]."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(views), axis=1)).save(buffer, **JPEG)  # type: ignore[arg-type]
    return buffer.getvalue()


def _changed(path: Path) -> tuple[int, int] | None:
    """Time of the last change in ns, and size; None where there is no such file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size


def _or(value: float | None, instead: float) -> float:
    return instead if value is None else value
