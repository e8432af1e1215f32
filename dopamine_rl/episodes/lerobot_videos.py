"""Writing of a dataset's videos, with copied or newly encoded streams, and of their statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.lerobot import TIME_TOLERANCE
from dopamine_rl.episodes.lerobot_stats import PictureStatistics, sampled_frames
from dopamine_rl.episodes.remux import Packets, PacketTable, join, read_table
from dopamine_rl.episodes.video import VideoWriter, unreadable
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.interfaces import EpisodeSource
from dopamine_rl.types import EpisodeInfo

VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FRAMES_AT_ONCE = 64
"""Frames per camera in memory while a dataset is written."""


@dataclass(frozen=True, eq=False, slots=True)
class _File:
    """One video file of a camera.

    Args:
        path: of the file.
        number: among the camera's files.
        episodes: numbers of its episodes, in order.
        packets: to copy, one per episode; empty if the video is encoded.
    """

    path: Path
    number: int
    episodes: tuple[int, ...]
    packets: tuple[Packets, ...]


class DatasetVideos:
    """Writes the videos of a dataset episode by episode; a new file starts where the stream parameters change.

    Args:
        root: the dataset's folder.
        source, episodes: to write.
        cameras: the source's cameras and their feature names.
        rate: frames per second.
        episodes_per_file: most episodes per file.
        lossless: encode as lossless RGB.
        copy: copy streams where possible.
    Raises:
        EpisodeError: a video cannot be read.
    """

    def __init__(
        self,
        root: Path,
        source: EpisodeSource,
        episodes: Sequence[EpisodeInfo],
        cameras: dict[str, str],
        rate: Fraction,
        episodes_per_file: int,
        lossless: bool,
        copy: bool,
    ) -> None:
        self._source, self._episodes, self._rate, self._lossless = source, episodes, rate, lossless
        self._keys = tuple(cameras.values())
        self._totals = {key: PictureStatistics() for key in self._keys}
        self._writers: dict[str, VideoWriter] = {}
        self.features: dict[str, dict[str, Any]] = {}
        no_packets: list[Packets | None] = [None] * len(episodes)
        packets = self._find_packets() if copy else [no_packets] * len(self._keys)
        self._file_of: dict[str, dict[int, _File]] = {}
        for key, camera_packets in zip(self._keys, packets, strict=True):
            files = _plan(root, key, camera_packets, episodes_per_file)
            self._file_of[key] = {number: file for file in files for number in file.episodes}

    def row(self, number: int) -> dict[str, Any]:
        """The location of an episode's frames, for its row of `meta/episodes`."""
        row: dict[str, Any] = {}
        for key in self._keys:
            file = self._file_of[key][number]
            begin = sum(self._episodes[n].frame_count for n in file.episodes if n < number)
            end = begin + self._episodes[number].frame_count
            row |= {f"videos/{key}/chunk_index": file.number // 1000, f"videos/{key}/file_index": file.number % 1000}
            row |= {f"videos/{key}/from_timestamp": float(begin / self._rate)}
            row |= {f"videos/{key}/to_timestamp": float(end / self._rate)}
        return row

    def write(self, number: int, on_frames: Callable[[int], None]) -> dict[str, dict[str, Any]]:
        """Write the next episode; return its image statistics by feature.

        Args:
            on_frames: called with the number of frames written.
        """
        info, statistics = self._episodes[number], {key: PictureStatistics() for key in self._keys}
        sampled = sampled_frames(info.frame_count)
        copied = all(self._file_of[key][number].packets for key in self._keys)
        ids = sampled if copied else np.arange(info.frame_count)
        for begin in range(0, len(ids), FRAMES_AT_ONCE):
            part = ids[begin : begin + FRAMES_AT_ONCE]
            frames = self._source.frames(info.episode_id, part)
            for view, key in enumerate(self._keys):
                self._add(key, number, part, frames[:, view], statistics[key], np.isin(part, sampled))
            on_frames(int(part[-1]) + 1)
        for key in self._keys:
            self._totals[key].merge(statistics[key])
            file = self._file_of[key][number]
            if number == file.episodes[-1]:
                self._end(key, file)
        return {key: camera.figures() for key, camera in statistics.items()}

    def totals(self) -> dict[str, dict[str, Any]]:
        """The statistics of all images by feature."""
        return {key: statistics.figures() for key, statistics in self._totals.items()}

    def close(self) -> None:
        """Close video files that are still open after an error."""
        for writer in self._writers.values():
            writer.__exit__(RuntimeError, None, None)

    def _add(
        self,
        key: str,
        number: int,
        ids: NDArray[np.int64],
        pictures: NDArray[np.uint8],
        statistics: PictureStatistics,
        is_sampled: NDArray[np.bool_],
    ) -> None:
        file, shape = self._file_of[key][number], pictures.shape[1:]
        if not file.packets and key not in self._writers:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            self._writers[key] = VideoWriter(file.path, shape, self._rate, self._lossless)
            self._describe(key, shape[:2], "h264", self._writers[key].pixels)
        elif file.packets:
            self._describe(key, shape[:2], file.packets[0].kind.codec, file.packets[0].kind.pixels)
        if list(shape) != self.features[key]["shape"]:
            size = " x ".join(map(str, self.features[key]["shape"][:2]))
            name = self._episodes[number].episode_id
            raise BadInput(f"{name}: {key}: picture size", shape[:2], f"give episodes of one size; others have {size}")
        for frame, picture, sampled in zip(ids.tolist(), pictures, is_sampled.tolist(), strict=True):
            if not file.packets:
                self._writers[key].add(picture, key=frame == 0)
            if sampled:
                statistics.add(picture)

    def _end(self, key: str, file: _File) -> None:
        if file.packets:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            join(file.path, file.packets, self._rate)
        else:
            self._writers.pop(key).__exit__(None)

    def _describe(self, key: str, size: tuple[int, ...], codec: str, pixels: str) -> None:
        """Set the feature of a camera from its first video."""
        info = {
            "video.height": size[0],
            "video.width": size[1],
            "video.codec": codec,
            "video.pix_fmt": pixels,
            "video.is_depth_map": False,
            "video.fps": float(self._rate),
            "video.channels": 3,
            "has_audio": False,
        }
        names = ["height", "width", "channels"]
        self.features.setdefault(key, {"dtype": "video", "shape": [*size, 3], "names": names, "info": info})

    def _find_packets(self) -> list[list[Packets | None]]:
        """The packets that can be copied, per camera and episode; all of a camera are of the same kind."""
        clips_of = getattr(self._source, "clips", None)
        packets_of: list[list[Packets | None]] = [[] for _ in self._keys]
        tables = lru_cache(maxsize=2 * len(self._keys))(_read)
        for info in self._episodes:
            clips = clips_of(info.episode_id) if clips_of else [None] * len(self._keys)
            for camera, clip in zip(packets_of, clips, strict=True):
                table = tables(info.episode_id, clip.path) if clip else None
                packets = None
                if clip and table:
                    packets = table.find(clip.start_s, info.frame_count, info.frames_per_second, TIME_TOLERANCE)
                first = next((other for other in camera if other), packets)
                camera.append(packets if packets and first and packets.kind == first.kind else None)
        return packets_of


def _read(episode: str, path: Path) -> PacketTable | None:
    try:
        return read_table(path)
    except ValueError as error:
        raise EpisodeError(f"{episode}: video", str(path), unreadable(error)) from error


def _plan(root: Path, key: str, packets_of: Sequence[Packets | None], episodes_per_file: int) -> list[_File]:
    """A camera's files: consecutive episodes share one if all are encoded, or copied with the same parameters."""
    files: list[_File] = []
    for _, run in groupby(enumerate(packets_of), lambda entry: entry[1] and entry[1].parameters):
        entries = list(run)
        for begin in range(0, len(entries), episodes_per_file):
            numbers, packets = zip(*entries[begin : begin + episodes_per_file], strict=True)
            indices = {"chunk_index": len(files) // 1000, "file_index": len(files) % 1000}
            path = root / VIDEO_PATH.format(video_key=key, **indices)
            files.append(_File(path, len(files), numbers, tuple(part for part in packets if part)))
    return files
