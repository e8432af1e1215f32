"""Reading and writing of videos frame by frame: lossless if needed, and rotated as players show them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.scale import resize
from dopamine_rl.types import Views


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """Properties of a video.

    Args:
        height, width: of its frames as displayed, in pixels.
        frames_per_second: mean frame rate.
    """

    height: int
    width: int
    frames_per_second: float


def write_video(
    path: Path, pictures: Views | Iterable[NDArray[np.uint8]], frames_per_second: float = 5, lossless: bool = True
) -> None:
    """Write at least one image, uint8 [H, W, 3] each, as an h264 mp4; frame k is image k.

    Args:
        lossless: lossless RGB, for data; else a format that every player supports (with an odd height or width, only
            some).
    """
    remaining = iter(pictures)
    first = next(remaining)
    with VideoWriter(path, first.shape, Fraction(frames_per_second).limit_denominator(1001), lossless) as writer:
        for picture in chain([first], remaining):
            writer.add(picture)


class VideoWriter:
    """Writes a video frame by frame; see `write_video`. The file is complete when the context exits.

    Args:
        shape: (height, width, 3) of every frame.
        rate: frames per second.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], rate: Fraction, lossless: bool) -> None:
        if lossless:
            codec, pixels, options = "libx264rgb", "rgb24", {"qp": "0", "preset": "veryfast", "forced-idr": "1"}
        else:
            # Chroma subsampling needs an even height and width.
            even = shape[0] % 2 == shape[1] % 2 == 0
            codec, pixels, options = "libx264", "yuv420p" if even else "yuv444p", {"crf": "18", "forced-idr": "1"}
        self._container = av.open(str(path), "w")
        self._stream = cast(av.VideoStream, self._container.add_stream(codec, rate=rate, options=options))
        self._stream.height, self._stream.width = shape[:2]
        self._stream.pix_fmt = pixels
        self._stream.thread_count = 1

    @property
    def pixels(self) -> str:
        """FFmpeg's name of the pixel format."""
        return "gbrp" if self._stream.pix_fmt == "rgb24" else str(self._stream.pix_fmt)

    def add(self, picture: NDArray[np.uint8], key: bool = False) -> None:
        """Append a frame, uint8 [H, W, 3]; with `key` as a key frame."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        if key:
            frame.pict_type = av.video.frame.PictureType.I
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()


def video_format(path: Path) -> VideoFormat:
    """Read the properties of a video; decodes at most one frame. Raises ValueError if it is not a video."""
    with opened(path) as (container, stream):
        check_whole(path, container, stream)
        rate = float(stream.average_rate or 0.0)
        if rate <= 0.0:
            raise ValueError("it has no frame rate")
        height, width, stream.thread_count = stream.height, stream.width, 1
        try:
            first = next(container.decode(stream), None)
        except av.FFmpegError:  # reading its frames raises the error
            first = None
        if first is not None and _orientation(first)[0]:
            height, width = width, height
        return VideoFormat(height, width, rate)


def read_pictures(path: Path, size: tuple[int, int] | None = None) -> list[NDArray[np.uint8]]:
    """Decode all frames of a video, whatever frame count its container states.

    Args:
        path: of the video.
        size: (height, width) to resize to; None keeps the recorded size.
    Returns:
        All frames, uint8 [H, W, 3].
    Raises:
        ValueError: the video cannot be decoded.
    """
    return [to_picture(frame, size) for frame in _decode(path)]


def every_picture(
    path: Path, stride: int, size: tuple[int, int] | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Decode a video in one pass and yield every `stride`-th frame, and the last.

    Args:
        stride: frames from one yielded frame to the next.
        size: (height, width) to resize to; None keeps the recorded size.
    Yields:
        frame id from 0, and frame uint8 [H, W, 3].
    Raises:
        ValueError: the video cannot be decoded.
    """
    index, skipped = -1, None
    for index, frame in enumerate(_decode(path)):
        skipped = frame if index % stride else None
        if skipped is None:
            yield index, to_picture(frame, size)
    if skipped is not None:
        yield index, to_picture(skipped, size)


def to_picture(frame: av.VideoFrame, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """A decoded frame as uint8 [H, W, 3], rotated as players show it, and resized if a (height, width) is given."""
    picture = cast(NDArray[np.uint8], frame.to_ndarray(format="rgb24"))
    transposed, upside_down, mirrored = _orientation(frame)
    if transposed:
        picture = picture.transpose(1, 0, 2)
    picture = np.ascontiguousarray(picture[:: -1 if upside_down else 1, :: -1 if mirrored else 1])
    return picture if size in (None, picture.shape[:2]) else resize(picture, size)


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How to rotate a stored frame for display: transpose, flip rows, flip columns.

    A phone or camera mounted sideways stores frames as its sensor reads them, with a display matrix. Angles are rounded
    to the nearest quarter turn.

    Source: ISO/IEC 14496-12, 8.3.2 (track header, matrix): x' = a x + c y, y' = b x + d y.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = struct.unpack("=5i", bytes(cast(Any, matrix))[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


def _decode(path: Path) -> Iterator[av.VideoFrame]:
    with opened(path) as (container, stream):
        stream.thread_count = 1
        yield from container.decode(stream)


@contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a file with its first video stream. Raises ValueError if it is not a video."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("it contains no pictures")
            yield container, container.streams.video[0]
    except (OSError, IndexError, av.FFmpegError) as error:
        raise ValueError(_reason(path, error)) from error


def check_whole(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> None:
    """Raise ValueError if an mp4 file ends before the last frame of its index. Reads the index alone."""
    if "mp4" in container.format.name:
        end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
        if end > (size := path.stat().st_size):
            raise ValueError(f"it is cut short, {size} of {end} bytes")


def _reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read, without the number of FFmpeg's error and without the path."""
    if path.is_file() and path.stat().st_size == 0:
        return "it is empty"
    return str(getattr(error, "strerror", None) or error)


def unreadable(error: ValueError) -> str:
    """The fix for a file that `opened` refuses; the value beside it is the file's path."""
    return f"this is no readable video ({error}): copy or record it again"
