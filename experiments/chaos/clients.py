"""Clients of the service under test, which label episodes of made-up frames, and the check of every frame."""

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
"""Scored frames per episode, and per fragment, whose labels are collected together."""
DEADLINE_S = 6.0
TOLERANCE = 1e-3
"""Allowed difference in progress: the composition of a batch changes the last bits of a float."""


class Client:
    """An actor in its own process: the labeller of the rollout actors, with made-up frames at a robot's rate.

    Every frame is written to a journal before it is requested, and every completed episode to a record, so that the
    outcome of each frame is known even if this process is killed.

    Args:
        name: unique prefix of its file names.
        app_name: name of the service.
        folder: for journal and records.
        period_s: time between frames.
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
        """The process id of this client."""
        return os.getpid()

    def stop(self) -> Counter[str]:
        """Stop after the current episode; returns the labeller's counts."""
        self._stop.set()
        self._thread.join(EPISODE * self._period_s + 3 * DEADLINE_S)
        if self._thread.is_alive():
            raise RuntimeError(f"{self._name} did not finish its episode")
        counts = self._labeller.take_counts()
        names = ("asked", "answered", "invalid", "late", "rejected", "retried")
        return Counter({name: getattr(counts, name) for name in names})

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
    """The outcomes of all frames.

    Args:
        outcomes: frames by outcome (answered, invalid, late, rejected), and `abandoned`: requested by a killed client.
        lost: frames without an outcome whose client was not killed.
        doubled: frames with more than one outcome.
        wrong_version: frames whose progress does not match the model version of their episode.
        versions: episodes by model version.
    """

    outcomes: Counter[str]
    lost: int
    doubled: int
    wrong_version: int
    versions: Counter[str]


def judge(folder: Path, killed: Iterable[str], scorers: Mapping[str, ProgressScorer]) -> Verdict:
    """Compare journals and records, and score every record again with its model version.

    Args:
        killed: names of killed clients.
        scorers: by model version.
    """
    requested: Counter[tuple[str, int]] = Counter()
    abandoned: set[tuple[str, int]] = set()
    for path in sorted(folder.glob("*.journal")):
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        frames = [(episode, int(step)) for episode, step in (line.split() for line in lines)]
        requested.update(frames)
        abandoned.update(frames if path.stem in set(killed) else ())
    verdict, recorded = Verdict(Counter(), 0, 0, 0, Counter()), Counter[tuple[str, int]]()
    for path in sorted((folder / "records").glob("*.npz")):
        record = LabelRecord.load(path)
        recorded.update((record.context.episode_id, frame.time) for frame in record.frames)
        verdict.outcomes.update(frame.outcome for frame in record.frames)
        verdict.wrong_version += _wrong(record, scorers)
        verdict.versions[str(record.context.model_version)] += 1
    missing = set(requested) - set(recorded)
    verdict.outcomes["abandoned"] = len(missing & abandoned)
    verdict.lost = len(missing - abandoned)
    verdict.doubled = sum(count - 1 for counts in (requested, recorded) for count in counts.values())
    return verdict


def _wrong(record: LabelRecord, scorers: Mapping[str, ProgressScorer]) -> int:
    """Number of a record's frames whose progress does not match its model version."""
    stored = np.array([frame.progress for frame in record.frames], np.float32)
    if not any(frame.outcome == "answered" for frame in record.frames):
        return 0
    again = rescored_progress(record, scorers[str(record.context.model_version)])
    return int((~(np.abs(stored - again) <= TOLERANCE)).sum())
