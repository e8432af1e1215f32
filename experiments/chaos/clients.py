"""What the service is broken under: actors that label episodes of made-up frames, and what became of every frame."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.label_records import LabelRecord
from actors.labeller import Labeller, LabellerConfig
from actors.rescoring import rescored_progress
from dopamine_rl.interfaces import ProgressScorer
from dopamine_rl.types import EpisodeContext

VIEWS, SIDE = 2, 56
EPISODE, FRAGMENT = 16, 8
"""Scored frames of an episode, and of a fragment whose labels are collected together."""
DEADLINE_S = 6.0
TOLERANCE = 1e-3
"""Progress that differs by less is the same: a batch's composition moves the last bits of a float."""


class Client:
    """An actor of its own process: the labeller of the rollout actors, fed with made-up frames at a robot's pace.

    Every frame is written into a journal before it is asked for, every finished episode into a record, so that what became
    of each frame is known also where this process is killed.

    Args:
        name: unique; the files' names begin with it.
        app_name: of the service.
        folder: for journal and records.
        period_s: time from one frame to the next.
    """

    def __init__(self, name: str, app_name: str, folder: Path, period_s: float) -> None:
        from reward_service.client import ServeRewardClient

        self._name, self._folder, self._period_s = name, folder, period_s
        self._rng = np.random.default_rng(list(name.encode()))
        config = LabellerConfig("grm", 0.99, 1, deadline_s=DEADLINE_S, records_dir=folder / "records")
        self._labeller = Labeller(config, ServeRewardClient(app_name))
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._act, daemon=True)
        self._thread.start()

    def process_id(self) -> int:
        """Of this client."""
        return os.getpid()

    def stop(self) -> Counter[str]:
        """End with the running episode; returns the labeller's counts."""
        self._stop.set()
        self._thread.join(EPISODE * self._period_s + 3 * DEADLINE_S)
        if self._thread.is_alive():
            raise RuntimeError(f"{self._name} did not come to the end of its episode")
        counts = self._labeller.take_counts()
        return Counter({name: getattr(counts, name) for name in ("asked", "answered", "invalid", "late", "rejected", "retried")})  # fmt: skip

    def _act(self) -> None:
        with (self._folder / f"{self._name}.journal").open("a", encoding="utf-8") as journal:
            episode = 0
            while not self._stop.is_set():
                episode += 1
                self._play(f"{self._name}-{episode}", journal)

    def _play(self, episode_id: str, journal: object) -> None:
        start, end = self._frame(), self._frame()
        self._labeller.begin(episode_id, EpisodeContext(episode_id, "insert the peg", start[0], end[0], start, end))
        for step in range(1, EPISODE + 1):
            print(episode_id, step, file=journal, flush=True)  # type: ignore[call-overload]
            self._labeller.observe(episode_id, step, self._frame())
            time.sleep(self._period_s)
            if step % FRAGMENT == 0:
                self._labeller.collect(episode_id, step - FRAGMENT, np.zeros(FRAGMENT, np.float32), False)
        record = self._labeller.finish(episode_id)
        assert record is not None
        record.save(self._folder / "records")

    def _frame(self) -> np.ndarray:
        return self._rng.integers(0, 255, (VIEWS, SIDE, SIDE, 3), np.uint8)


@dataclass
class Verdict:
    """What became of all frames.

    Args:
        outcomes: frames by outcome (answered, invalid, late, rejected), and `abandoned`: asked for by a client that was killed.
        lost: frames that a living client asked for and that have no outcome.
        doubled: frames with more than one.
        wrong_version: frames whose progress is not what the version their episode names gives.
        versions: episodes by the version they name.
    """

    outcomes: Counter[str]
    lost: int
    doubled: int
    wrong_version: int
    versions: Counter[str]


def judge(folder: Path, killed: Iterable[str], scorers: Mapping[str, ProgressScorer]) -> Verdict:
    """Compare the journals with the records, and score every record again with the version it names.

    Args:
        killed: names of the clients that were killed.
        scorers: by model version.
    """
    asked: Counter[tuple[str, int]] = Counter()
    abandoned: set[tuple[str, int]] = set()
    for path in sorted(folder.glob("*.journal")):
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        frames = [(episode, int(step)) for episode, step in (line.split() for line in lines)]
        asked.update(frames)
        abandoned.update(frames if path.stem in set(killed) else ())
    verdict, found = Verdict(Counter(), 0, 0, 0, Counter()), Counter[tuple[str, int]]()
    for path in sorted((folder / "records").glob("*.npz")):
        record = LabelRecord.load(path)
        found.update((record.context.episode_id, frame.time) for frame in record.frames)
        verdict.outcomes.update(frame.outcome for frame in record.frames)
        verdict.wrong_version += _wrong(record, scorers)
        verdict.versions[str(record.context.model_version)] += 1
    missing = set(asked) - set(found)
    verdict.outcomes["abandoned"] = len(missing & abandoned)
    verdict.lost = len(missing - abandoned)
    verdict.doubled = sum(count - 1 for counts in (asked, found) for count in counts.values())
    return verdict


def _wrong(record: LabelRecord, scorers: Mapping[str, ProgressScorer]) -> int:
    """Frames of a record whose stored progress is not that of the version it names."""
    stored = np.array([frame.progress for frame in record.frames], np.float32)
    if not any(frame.outcome == "answered" for frame in record.frames):
        return 0
    again = rescored_progress(record, scorers[str(record.context.model_version)])
    return int((~(np.abs(stored - again) <= TOLERANCE)).sum())
