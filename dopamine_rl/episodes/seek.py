"""Random access to frames of a video: found by presentation time, decoded from the preceding key frame."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.video import check_whole, opened, to_picture


def count_frames(path: Path) -> int:
    """The number of frames in a video's index; only the index is read, so a damaged video may have fewer.

    Raises:
        ValueError: the file is not a video, or is cut short.
    """
    with opened(path) as (container, stream):
        check_whole(path, container, stream)
        return len(stream.index_entries) or stream.frames


def frame_times(path: Path) -> NDArray[np.float64]:
    """Presentation times of the frames in the file, float64 [F] increasing, in seconds; nothing is decoded.

    Raises:
        ValueError: the file is not a video, or is truncated.
    """
    with opened(path) as (container, stream):
        cut = {entry.timestamp for entry in stream.index_entries if entry.is_discard}  # excluded by an edit list
        times = [
            packet.pts * float(packet.time_base)
            for packet in container.demux(stream)
            if packet.pts is not None and packet.size and packet.dts not in cut
        ]
    return np.sort(np.array(times, np.float64))


def pictures_at(
    path: Path, times_s: Sequence[float] | NDArray[np.float64], tolerance_s: float, size: tuple[int, int] | None = None
) -> list[NDArray[np.uint8]]:
    """Decode the frames at given times, and as few others as possible.

    Args:
        times_s: increasing, in seconds on the video's clock.
        tolerance_s: accepted difference between a frame's time and the requested one; less than half a frame is safe.
        size: (height, width) to resize to; None keeps the recorded size.
    Returns:
        One image uint8 [H, W, 3] per time.
    Raises:
        ValueError: there is no frame at one of the times, or the video cannot be decoded.
    """
    with opened(path) as (container, stream):
        stream.thread_count = 1
        reader = _Reader(container, stream, tolerance_s)
        return [to_picture(reader.frame_at(float(time)), size) for time in times_s]


class _Reader:
    """Decodes a video forwards, and seeks to a key frame where that saves decoding."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, tolerance_s: float) -> None:
        self._container, self._stream, self._tolerance = container, stream, tolerance_s
        self._keys = [entry.timestamp for entry in stream.index_entries if entry.is_keyframe] or [0]
        base = stream.time_base
        self._key_times = [key * float(base or 1) for key in self._keys]
        self._decoded: Iterator[av.VideoFrame] = iter(())
        self._now = -np.inf

    def frame_at(self, time: float) -> av.VideoFrame:
        """The frame at `time`, which must be later than in the previous call."""
        key = max(0, bisect_right(self._key_times, time) - 1)
        if self._now == -np.inf or self._key_times[key] > self._now:
            self._jump(key)
        while (frame := next(self._decoded, None)) is not None:
            if frame.time is None:
                continue
            if frame.time > time + self._tolerance:
                # The index lists decoding times, which run ahead of presentation: this key frame comes too late.
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
        self._decoded = self._container.decode(self._stream)
        self._now = -np.inf
