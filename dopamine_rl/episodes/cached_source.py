"""Keeps the most recently used frames of an episode source in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.interfaces import EpisodeSource
from dopamine_rl.types import EpisodeInfo


class CachedSource:
    """An episode source with a cache of decoded frames. Thread-safe.

    Args:
        source: of the episodes.
        max_bytes: size of the cache; the least recently used frames are dropped first.
    """

    def __init__(self, source: EpisodeSource, max_bytes: int) -> None:
        self._source, self._max_bytes = source, max_bytes
        self._frames: OrderedDict[tuple[str, int, tuple[int, int] | None], NDArray[np.uint8]] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the cached frames."""
        return self._bytes

    def episodes(self) -> Sequence[EpisodeInfo]:
        """See EpisodeSource."""
        return self._source.episodes()

    def frames(
        self, episode_id: str, frame_ids: NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """See EpisodeSource; only frames that are not cached are decoded."""
        keys = [(episode_id, int(frame), size) for frame in frame_ids]
        with self._lock:
            cached = {key: self._frames[key] for key in keys if key in self._frames}
            for key in cached:
                self._frames.move_to_end(key)
        missing = [key for key in keys if key not in cached]
        new = self._source.frames(episode_id, np.array([key[1] for key in missing], np.int64), size) if missing else ()
        # Copies: a view of the decoded block would keep all of the block alive.
        cached.update((key, frame.copy()) for key, frame in zip(missing, new, strict=True))
        with self._lock:
            for key in missing:
                self._bytes += 0 if key in self._frames else cached[key].nbytes
                self._frames[key] = cached[key]
            while self._bytes > self._max_bytes:
                self._bytes -= self._frames.popitem(last=False)[1].nbytes
        return np.stack([cached[key] for key in keys])
