"""Video streams copied without decoding them: which frames of a file can be, and several such parts joined as one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type
from numpy.typing import NDArray

from dopamine_rl.episodes.video import opened

KEY_UNITS = {"h264": {5}, "hevc": {19, 20}}
"""Types of the NAL units with which a decoder starts afresh (IDR), whatever it has decoded before."""
OTHER_CODECS = ("av1", "vp9", "mpeg4")
"""Codecs whose every key frame is such a start."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Where a video shows an episode.

    Args:
        path: of the file.
        start_s: when its first frame is shown, in seconds on the video's clock; None where it is the video's first.
    """

    path: Path
    start_s: float | None = None


@dataclass(frozen=True, slots=True)
class VideoKind:
    """What must agree where two videos are one camera's.

    Args:
        codec, pixels: names as FFmpeg has them.
        height, width: in pixels.
        colours: range, matrix, primaries and transfer function.
    """

    codec: str
    pixels: str
    height: int
    width: int
    colours: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Packets:
    """The packets of one episode's frames, which are decoded without any other packet.

    Args:
        path: of the file.
        kind: of its pictures.
        parameters: what a decoder must be told first.
        first: number of the first packet, in the file's order.
        order: int64 [F], which frame of the episode each packet shows.
    """

    path: Path
    kind: VideoKind
    parameters: bytes
    first: int
    order: NDArray[np.int64]

    @property
    def delay(self) -> int:
        """By how many frames decoding has to run ahead of showing."""
        return int((np.arange(len(self.order)) - self.order).max())


@dataclass(frozen=True, eq=False, slots=True)
class PacketTable:
    """What is known of every packet of a video, in the file's order, without decoding it.

    Args:
        path: of the file.
        kind, parameters: as in Packets.
        times_s: float64 [P], when each is shown; infinite where it is not.
        fresh: bool [P], whether a decoder can start with it.
    """

    path: Path
    kind: VideoKind
    parameters: bytes
    times_s: NDArray[np.float64]
    fresh: NDArray[np.bool_]

    def find(self, start_s: float | None, count: int, frames_per_second: float, tolerance: float) -> Packets | None:
        """The packets of an episode's frames; None where they do not lie together, or a decoder cannot start with them.

        Args:
            start_s: when its first frame is shown; None where the whole video is the episode.
            count: its frames.
            frames_per_second, tolerance: where `start_s` is given, frame k is shown k / frames_per_second later, give or
                take so many frames.
        """
        by_time = np.argsort(self.times_s, kind="stable")[: np.isfinite(self.times_s).sum()]
        if start_s is None:
            wanted = by_time
        else:
            at = np.searchsorted(self.times_s[by_time], start_s - tolerance / frames_per_second)
            wanted = by_time[at : at + count]
            late = (self.times_s[wanted] - start_s) * frames_per_second - np.arange(len(wanted))
            if (np.abs(late) > tolerance).any():
                return None
        if len(wanted) != count:
            return None
        first = int(wanted.min())
        if int(wanted.max()) - first + 1 != count or not self.fresh[first]:
            return None
        order = np.empty(count, np.int64)
        order[wanted - first] = np.arange(count)
        return Packets(self.path, self.kind, self.parameters, first, order)


def read_table(path: Path) -> PacketTable | None:
    """List a video's packets; None where they cannot be copied: the picture is turned when shown, or times are missing.

    Raises:
        ValueError: the file is no video.
    """
    with opened(path) as (container, stream):
        if not _is_upright(container, stream):
            return None
    with opened(path) as (container, stream):
        cut = {entry.timestamp for entry in stream.index_entries if entry.is_discard}  # an edit list leaves them out
        base = float(stream.time_base or 0)
        times, fresh = [], []
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.pts is None or packet.is_corrupt:
                return None
            times.append(np.inf if packet.is_discard or packet.dts in cut else packet.pts * base)
            fresh.append(packet.is_keyframe and _starts_afresh(packet, stream))
        parameters = stream.codec_context.extradata or b""
        return PacketTable(path, _kind(stream), parameters, np.array(times, np.float64), np.array(fresh, bool))


def _is_upright(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether the first picture says nothing of being turned or mirrored when it is shown."""
    stream.thread_count = 1
    frame = next(iter(container.decode(stream)), None)
    return frame is not None and Type.DISPLAYMATRIX not in frame.side_data


def _starts_afresh(packet: av.Packet, stream: av.VideoStream) -> bool:
    """Whether a key frame's packet does not depend on, or mix with, what was decoded before."""
    codec, parameters = stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b""
    if codec in OTHER_CODECS:
        return True
    place = {"h264": 4, "hevc": 21}.get(codec, 0)
    if codec not in KEY_UNITS or len(parameters) <= place or parameters[0] != 1:
        return False  # units without their lengths, as in a transport stream
    size, data, at = (parameters[place] & 3) + 1, bytes(packet), 0
    while at + size < len(data):
        head = data[at + size]
        if (head & 31 if codec == "h264" else head >> 1 & 63) in KEY_UNITS[codec]:
            return True
        at += size + int.from_bytes(data[at : at + size], "big")
    return False


def _kind(stream: av.VideoStream) -> VideoKind:
    about = stream.codec_context
    colours = (about.color_range, about.colorspace, about.color_primaries, about.color_trc)
    name = about.codec.canonical_name
    return VideoKind(name, str(about.pix_fmt), about.height, about.width, tuple(int(value or 0) for value in colours))


def join(path: Path, parts: Sequence[Packets], rate: Fraction) -> None:
    """Write the frames of several episodes, one after another, as one mp4 whose frame k is shown at k / rate seconds.

    Args:
        parts: of the same kind and parameters.
    """
    delay = max(part.delay for part in parts)
    begin = 0
    with av.open(str(path), "w") as out, opened(parts[0].path) as (_, template):
        stream = out.add_stream_from_template(template, opaque=True)  # there may be no encoder of this name
        stream.time_base = 1 / rate
        for run in _runs(parts):
            with opened(run[0].path) as (container, source):
                packets = enumerate(packet for packet in container.demux(source) if packet.size)
                for part in run:
                    count = len(part.order)
                    wanted = islice((packet for number, packet in packets if number >= part.first), count)
                    for place, packet in enumerate(wanted):
                        packet.stream, packet.time_base, packet.duration = stream, 1 / rate, 1
                        packet.pts, packet.dts = begin + int(part.order[place]), begin + place - delay
                        out.mux(packet)
                    begin += count


def _runs(parts: Sequence[Packets]) -> Iterator[list[Packets]]:
    """The parts in their order, together where one pass through a file finds them."""
    run: list[Packets] = []
    for part in parts:
        if run and (part.path != run[-1].path or part.first < run[-1].first + len(run[-1].order)):
            yield run
            run = []
        run.append(part)
    yield run
