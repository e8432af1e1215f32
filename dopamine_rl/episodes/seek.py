"""Some frames of a video: found by their presentation times, decoded from the nearest key frame before them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.video import opened, to_picture


def count_frames(path: Path) -> int:
    """How many frames a video lists; nothing is read but its tables, so a damaged one may hold fewer.

    Raises:
        ValueError: the file is no video.
    """
    with opened(path) as (_, stream):
        return len(stream.index_entries) or stream.frames


def frame_times(path: Path) -> NDArray[np.float64]:
    """Presentation times of the frames that are really there, float64 [F] increasing, in seconds; none is decoded.

    Raises:
        ValueError: the file is no video, or it ends in the middle.
    """
    with opened(path) as (container, stream):
        cut = {entry.timestamp for entry in stream.index_entries if entry.is_discard}  # an edit list leaves them out
        times = [
            packet.pts * float(packet.time_base)
            for packet in container.demux(stream)
            if packet.pts is not None and packet.size and packet.dts not in cut
        ]
    return np.sort(np.array(times, np.float64))


def pictures_at(
    path: Path, times_s: Sequence[float] | NDArray[np.float64], tolerance_s: float, size: tuple[int, int] | None = None
) -> list[NDArray[np.uint8]]:
    """Decode the frames shown at some times, and as little as possible beside them.

    Args:
        times_s: increasing, in seconds on the video's own clock.
        tolerance_s: how far a frame may be from the time asked for; below half a frame it is never the wrong one.
        size: (height, width) to scale pictures to; None keeps them as they are.
    Returns:
        One picture uint8 [H, W, 3] for each time.
    Raises:
        ValueError: there is no frame at one of the times, or the file is no video that can be decoded.
    """
    with opened(path) as (container, stream):
        stream.thread_count = 1
        reader = _Reader(container, stream, tolerance_s)
        return [to_picture(reader.frame_at(float(time)), size) for time in times_s]


class _Reader:
    """Walks through a video forwards, and jumps to a key frame where that saves decoding."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, tolerance_s: float) -> None:
        self._container, self._stream, self._tolerance = container, stream, tolerance_s
        self._keys = [entry.timestamp for entry in stream.index_entries if entry.is_keyframe] or [0]
        base = stream.time_base
        self._key_times = [key * float(base or 1) for key in self._keys]
        self._ahead: Iterator[av.VideoFrame] = iter(())
        self._now = -np.inf

    def frame_at(self, time: float) -> av.VideoFrame:
        """The frame shown at `time`, which is later than the one before."""
        key = max(0, bisect_right(self._key_times, time) - 1)
        if self._now == -np.inf or self._key_times[key] > self._now:
            self._jump(key)
        while (frame := next(self._ahead, None)) is not None:
            if frame.time is None:
                continue
            if frame.time > time + self._tolerance:
                # Key frames are listed by decoding time, which runs ahead of presentation: this one came too late.
                if self._now > -np.inf or key == 0:
                    break
                key -= 1
                self._jump(key)
                continue
            self._now = frame.time
            if abs(frame.time - time) <= self._tolerance:
                return frame
        raise ValueError(f"there is no frame at {time:.4f} s")

    def _jump(self, key: int) -> None:
        self._container.seek(self._keys[key], stream=self._stream, backward=True)
        self._ahead = self._container.decode(self._stream)
        self._now = -np.inf
