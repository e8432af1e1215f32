"""Writes label records in a background thread with a bounded queue, and removes the oldest to keep a size limit."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from actors.label_records import REFERENCES, LabelRecord

logger = logging.getLogger(__name__)

WAITING = 8
"""Size of the queue; each record in it holds its pictures in memory."""
PATIENCE_S = 10.0
"""How long to wait for a full queue. After that, records are dropped and counted until it has room again."""
COUNTS = ("written", "removed", "dropped", "failed")
"""Outcomes of records: written; removed to keep the size limit; dropped because the disk was too slow; failed."""


class LabelRecordWriter:
    """Writes label records to a folder of limited size. Several writers may share a folder.

    Args:
        folder: of the records.
        budget_mb: size limit of the folder in 10⁶ bytes. The newest record always stays.
        patience_s: how long `put` may wait for a full queue.
    """

    def __init__(self, folder: Path, budget_mb: float, patience_s: float = PATIENCE_S) -> None:
        self._folder, self._budget = folder, int(budget_mb * 1e6)
        self._patience_s, self._full = patience_s, False
        self._queue: queue.Queue[LabelRecord] = queue.Queue(WAITING)
        self._counts, self._lock = dict.fromkeys(COUNTS, 0), threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, record: LabelRecord) -> None:
        """Queue a record. If the queue stays full, the record is dropped and counted."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="records", daemon=True)
            self._thread.start()
        try:
            self._queue.put(record, timeout=1e-3 if self._full else self._patience_s)
            self._full = False
        except queue.Full:
            if not self._full:
                logger.warning("%s: records are not written fast enough; some are dropped.", self._folder)
            self._full = True
            self._add("dropped", 1)

    def write(self, record: LabelRecord) -> None:
        """Write a record now, and remove the oldest ones if the folder is too large."""
        path = record.save(self._folder)
        self._add("written", 1)
        self._add("removed", trim(self._folder, self._budget, path))

    def flush(self, timeout_s: float) -> bool:
        """Wait until all queued records are written; False if this takes longer than `timeout_s`."""
        with self._queue.all_tasks_done:
            return self._queue.all_tasks_done.wait_for(lambda: not self._queue.unfinished_tasks, timeout_s)

    @property
    def waiting(self) -> int:
        """Number of records not written yet."""
        return self._queue.unfinished_tasks

    def take_counts(self) -> dict[str, int]:
        """Outcomes of records since the last call, by `COUNTS`."""
        with self._lock:
            counts, self._counts = self._counts, dict.fromkeys(COUNTS, 0)
        return counts

    def _work(self) -> None:
        while True:
            record = self._queue.get()
            try:
                self.write(record)
            except Exception:
                logger.exception("The record of episode %s could not be written.", record.context.episode_id)
                self._add("failed", 1)
            finally:
                del record
                self._queue.task_done()

    def _add(self, name: str, count: int) -> None:
        with self._lock:
            self._counts[name] += count


def trim(folder: Path, budget_bytes: int, newest: Path) -> int:
    """Remove the oldest records of a folder until it fits its size limit, except `newest`; returns their number.

    References that no record uses any more go first: they are older than every record (see LabelRecord.save).
    """
    oldest_first = (file for file in _files(folder) if file.path.endswith(".npz"))
    records = deque(sorted(oldest_first, key=lambda file: file.path == str(newest)))
    references = deque(_files(folder / REFERENCES))
    total = sum(file.size for file in (*records, *references))
    removed = 0
    while total > budget_bytes and records:
        if references and references[0].changed < records[0].changed:
            file = references.popleft()
            _unlink(file.path)
        elif len(records) > 1:
            file = records.popleft()
            removed += _unlink(file.path)
        else:
            break
        total -= file.size
    return removed


def _unlink(path: str) -> bool:
    """Remove a file. False if another actor's writer was faster, and has counted it."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


@dataclass(frozen=True)
class _File:
    """A file: when it was last changed (ns), its path, and its size in bytes."""

    changed: int
    path: str
    size: int


def _files(folder: Path) -> list[_File]:
    """The files of a folder, the oldest first, without those that another writer removes meanwhile."""
    files = []
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                        status = entry.stat(follow_symlinks=False)
                        files.append(_File(status.st_mtime_ns, entry.path, status.st_size))
                except FileNotFoundError:
                    continue
    return sorted(files, key=lambda file: (file.changed, file.path))
