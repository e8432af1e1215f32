"""Copy video streams without re-encoding: find the packets of an episode, and join several parts in one file."""

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
"""NAL unit types at which a decoder can start (IDR), by codec."""
OTHER_CODECS = ("av1", "vp9", "mpeg4")
"""Codecs in which a decoder can start at every key frame."""


@dataclass(frozen=True, slots=True)
class Clip:
    """The part of a video that belongs to an episode.

    Args:
        path: of the file.
        start_s: time of its first frame on the video's clock; None if it is the video's first frame.
    """

    path: Path
    start_s: float | None = None


@dataclass(frozen=True, slots=True)
class VideoKind:
    """Properties that all videos of a camera must share.

    Args:
        codec, pixels: FFmpeg's names.
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
    """The packets of an episode's frames, decodable without other packets.

    Args:
        path: of the file.
        kind: of the video.
        parameters: extradata of the codec.
        first: index of the first packet in the file.
        order: int64 [F], frame of the episode that each packet contains.
    """

    path: Path
    kind: VideoKind
    parameters: bytes
    first: int
    order: NDArray[np.int64]

    @property
    def delay(self) -> int:
        """Number of frames that decoding must run ahead of presentation."""
        return int((np.arange(len(self.order)) - self.order).max())


@dataclass(frozen=True, eq=False, slots=True)
class PacketTable:
    """Metadata of all packets of a video, in file order, without decoding.

    Args:
        path: of the file.
        kind, parameters: as in Packets.
        times_s: float64 [P], presentation times; infinite for packets that are not shown.
        is_start: bool [P], whether a decoder can start with it.
    """

    path: Path
    kind: VideoKind
    parameters: bytes
    times_s: NDArray[np.float64]
    is_start: NDArray[np.bool_]

    def find(self, start_s: float | None, count: int, frames_per_second: float, tolerance: float) -> Packets | None:
        """The packets of an episode's frames; None if they are not contiguous, or a decoder cannot start with them.

        Args:
            start_s: time of its first frame; None if the whole video is the episode.
            count: number of frames.
            frames_per_second, tolerance: with `start_s`, frame k is at k / frames_per_second, ± `tolerance` frames.
        """
        by_time = np.argsort(self.times_s, kind="stable")[: np.isfinite(self.times_s).sum()]
        if start_s is None:
            packets = by_time
        else:
            begin = np.searchsorted(self.times_s[by_time], start_s - tolerance / frames_per_second)
            packets = by_time[begin : begin + count]
            deviation = (self.times_s[packets] - start_s) * frames_per_second - np.arange(len(packets))
            if (np.abs(deviation) > tolerance).any():
                return None
        if len(packets) != count:
            return None
        first = int(packets.min())
        if int(packets.max()) - first + 1 != count or not self.is_start[first]:
            return None
        order = np.empty(count, np.int64)
        order[packets - first] = np.arange(count)
        return Packets(self.path, self.kind, self.parameters, first, order)


def read_table(path: Path) -> PacketTable | None:
    """List a video's packets; None if they cannot be copied, because the video is rotated or times are missing.

    Raises:
        ValueError: the file is not a video.
    """
    with opened(path) as (container, stream):
        if not _is_upright(container, stream):
            return None
    with opened(path) as (container, stream):
        cut = {entry.timestamp for entry in stream.index_entries if entry.is_discard}  # excluded by an edit list
        base = float(stream.time_base or 0)
        times, is_start = [], []
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.pts is None or packet.is_corrupt:
                return None
            times.append(np.inf if packet.is_discard or packet.dts in cut else packet.pts * base)
            is_start.append(packet.is_keyframe and _is_decoder_start(packet, stream))
        parameters = stream.codec_context.extradata or b""
        return PacketTable(path, _kind(stream), parameters, np.array(times, np.float64), np.array(is_start, bool))


def _is_upright(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether the first frame has no display matrix (rotation or mirroring)."""
    stream.thread_count = 1
    frame = next(iter(container.decode(stream)), None)
    return frame is not None and Type.DISPLAYMATRIX not in frame.side_data


def _is_decoder_start(packet: av.Packet, stream: av.VideoStream) -> bool:
    """Whether decoding can start at a key frame's packet, independently of earlier packets."""
    codec, parameters = stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b""
    if codec in OTHER_CODECS:
        return True
    offset = {"h264": 4, "hevc": 21}.get(codec, 0)
    if codec not in KEY_UNITS or len(parameters) <= offset or parameters[0] != 1:
        return False  # units without length fields, as in a transport stream
    size, data, position = (parameters[offset] & 3) + 1, bytes(packet), 0
    while position + size < len(data):
        head = data[position + size]
        if (head & 31 if codec == "h264" else head >> 1 & 63) in KEY_UNITS[codec]:
            return True
        position += size + int.from_bytes(data[position : position + size], "big")
    return False


def _kind(stream: av.VideoStream) -> VideoKind:
    about = stream.codec_context
    colours = (about.color_range, about.colorspace, about.color_primaries, about.color_trc)
    name = about.codec.canonical_name
    return VideoKind(name, str(about.pix_fmt), about.height, about.width, tuple(int(value or 0) for value in colours))


def join(path: Path, parts: Sequence[Packets], rate: Fraction) -> None:
    """Write the frames of several episodes into one mp4 whose frame k is at k / rate seconds.

    Args:
        parts: all of the same kind and parameters.
    """
    delay = max(part.delay for part in parts)
    begin = 0
    with av.open(str(path), "w") as out, opened(parts[0].path) as (_, template):
        stream = out.add_stream_from_template(template, opaque=True)  # there may be no encoder for this codec
        stream.time_base = 1 / rate
        for run in _runs(parts):
            with opened(run[0].path) as (container, source):
                packets = enumerate(packet for packet in container.demux(source) if packet.size)
                for part in run:
                    count = len(part.order)
                    selected = islice((packet for number, packet in packets if number >= part.first), count)
                    for index, packet in enumerate(selected):
                        packet.stream, packet.time_base, packet.duration = stream, 1 / rate, 1
                        packet.pts, packet.dts = begin + int(part.order[index]), begin + index - delay
                        out.mux(packet)
                    begin += count


def _runs(parts: Sequence[Packets]) -> Iterator[list[Packets]]:
    """Group consecutive parts that one pass through a file can read."""
    run: list[Packets] = []
    for part in parts:
        if run and (part.path != run[-1].path or part.first < run[-1].first + len(run[-1].order)):
            yield run
            run = []
        run.append(part)
    yield run
