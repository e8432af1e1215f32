"""Videos whose frame k is picture k: lossless writing, complete decoding, pictures turned as players turn them."""

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
    """What a video says of itself.

    Args:
        height, width: of its pictures as they are shown, in pixels.
        frames_per_second: its mean rate.
    """

    height: int
    width: int
    frames_per_second: float


def write_video(
    path: Path, pictures: Views | Iterable[NDArray[np.uint8]], frames_per_second: float = 5, lossless: bool = True
) -> None:
    """Write at least one picture, uint8 [H, W, 3] each, as an h264 mp4; frame k is picture k.

    Args:
        lossless: RGB without loss, for data; else as every player shows it, but for an odd height or width, which only
            some show.
    """
    remaining = iter(pictures)
    first = next(remaining)
    with VideoWriter(path, first.shape, Fraction(frames_per_second).limit_denominator(1001), lossless) as writer:
        for picture in chain([first], remaining):
            writer.add(picture)


class VideoWriter:
    """Writes a video picture by picture; see `write_video`. It is complete when the context ends.

    Args:
        shape: (height, width, 3) of every picture.
        rate: pictures a second.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], rate: Fraction, lossless: bool) -> None:
        if lossless:
            codec, pixels, options = "libx264rgb", "rgb24", {"qp": "0", "preset": "veryfast", "forced-idr": "1"}
        else:
            # Half as many colours as pixels need an even height and width.
            even = shape[0] % 2 == shape[1] % 2 == 0
            codec, pixels, options = "libx264", "yuv420p" if even else "yuv444p", {"crf": "18", "forced-idr": "1"}
        self._container = av.open(str(path), "w")
        self._stream = cast(av.VideoStream, self._container.add_stream(codec, rate=rate, options=options))
        self._stream.height, self._stream.width = shape[:2]
        self._stream.pix_fmt = pixels
        self._stream.thread_count = 1

    @property
    def pixels(self) -> str:
        """How colours are stored, as FFmpeg calls it."""
        return "gbrp" if self._stream.pix_fmt == "rgb24" else str(self._stream.pix_fmt)

    def add(self, picture: NDArray[np.uint8], key: bool = False) -> None:
        """Append a picture, uint8 [H, W, 3]; a `key` one is decoded without those before it."""
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
    """Read what a video says of itself; of its pictures at most one is decoded. Raises ValueError: it is no video."""
    with opened(path) as (container, stream):
        rate = float(stream.average_rate or 0.0)
        if rate <= 0.0:
            raise ValueError("it does not say how many frames a second it has")
        height, width, stream.thread_count = stream.height, stream.width, 1
        try:
            first = next(container.decode(stream), None)
        except av.FFmpegError:  # whoever asks for its pictures is told
            first = None
        if first is not None and _orientation(first)[0]:
            height, width = width, height
        return VideoFormat(height, width, rate)


def read_pictures(path: Path, size: tuple[int, int] | None = None) -> list[NDArray[np.uint8]]:
    """Decode a whole video; containers' own frame counts are not to be trusted.

    Args:
        path: of the video.
        size: (height, width) to scale pictures to; None keeps them as they are.
    Returns:
        Every picture, uint8 [H, W, 3].
    Raises:
        ValueError: the file is no video that can be decoded.
    """
    return [to_picture(frame, size) for frame in _decode(path)]


def every_picture(
    path: Path, stride: int, size: tuple[int, int] | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Decode a video once, from its first frame to its last, and hand out some of its pictures as they come.

    Args:
        stride: hand out one in so many frames, from the first on, and the last one.
        size: (height, width) to scale pictures to; None keeps them as they are.
    Yields:
        frame id from 0, and picture uint8 [H, W, 3].
    Raises:
        ValueError: the file is no video that can be decoded.
    """
    index, skipped = -1, None
    for index, frame in enumerate(_decode(path)):
        skipped = frame if index % stride else None
        if skipped is None:
            yield index, to_picture(frame, size)
    if skipped is not None:
        yield index, to_picture(skipped, size)


def to_picture(frame: av.VideoFrame, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """A decoded frame as uint8 [H, W, 3], turned as players turn it, and scaled where a (height, width) is given."""
    picture = cast(NDArray[np.uint8], frame.to_ndarray(format="rgb24"))
    transposed, upside_down, mirrored = _orientation(frame)
    if transposed:
        picture = picture.transpose(1, 0, 2)
    picture = np.ascontiguousarray(picture[:: -1 if upside_down else 1, :: -1 if mirrored else 1])
    return picture if size in (None, picture.shape[:2]) else resize(picture, size)


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How a stored picture becomes the one that is shown: transpose it, then flip its rows, then its columns.

    A phone or a camera that hangs on its side stores pictures as its sensor reads them, with a matrix beside them that
    says how to show them. Of an angle between quarter turns the nearest quarter turn is taken.

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
    """The file and its first video. Raises ValueError where it is none."""
    try:
        with av.open(str(path)) as container:
            yield container, container.streams.video[0]
    except (OSError, IndexError, av.FFmpegError) as error:
        raise ValueError(str(error)) from error
