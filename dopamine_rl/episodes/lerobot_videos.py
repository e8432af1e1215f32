"""The videos of a dataset that is being written: streams copied where they can be, pictures encoded where not, and what the
pictures' statistics are."""

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
from dopamine_rl.episodes.video import VideoWriter
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.interfaces import EpisodeSource
from dopamine_rl.types import EpisodeInfo

VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FRAMES_AT_ONCE = 64
"""Pictures of each camera held in memory while a dataset is written."""


@dataclass(frozen=True, eq=False, slots=True)
class _File:
    """One video file of a camera.

    Args:
        path: where it is written.
        number: of the camera's files.
        episodes: numbers of the episodes that it shows, one after another.
        packets: what is copied, one an episode; empty where pictures are encoded.
    """

    path: Path
    number: int
    episodes: tuple[int, ...]
    packets: tuple[Packets, ...]


class DatasetVideos:
    """Writes the videos of a dataset, episode after episode; a camera's file ends where its successor's stream differs.

    Args:
        root: the dataset's folder.
        source, episodes: what is written.
        cameras: the source's cameras and what their features are called.
        rate: frames a second.
        episodes_per_file: a file shows at most so many.
        lossless: pictures that are encoded keep RGB bit for bit.
        copy: copy streams where that can be.
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
        nothing: list[Packets | None] = [None] * len(episodes)
        packets = self._find_packets() if copy else [nothing] * len(self._keys)
        self._files = {
            key: _plan(root, key, found, episodes_per_file) for key, found in zip(self._keys, packets, strict=True)
        }
        self._file_of = {key: {n: file for file in files for n in file.episodes} for key, files in self._files.items()}

    def row(self, number: int) -> dict[str, Any]:
        """Where an episode's frames are, for its row of `meta/episodes`."""
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
        """Write an episode, the next one of all; return the statistics of its pictures by feature.

        Args:
            on_frames: called with how many of its frames are done.
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
        return {key: counted.figures() for key, counted in statistics.items()}

    def totals(self) -> dict[str, dict[str, Any]]:
        """The statistics of all pictures by feature."""
        return {key: counted.figures() for key, counted in self._totals.items()}

    def close(self) -> None:
        """Close what an error left open."""
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
            wanted = " x ".join(map(str, self.features[key]["shape"][:2]))
            name = self._episodes[number].episode_id
            raise BadInput(
                f"{name}: {key}: picture size", shape[:2], f"give episodes of one size; others have {wanted}"
            )
        for frame, picture, counts in zip(ids.tolist(), pictures, is_sampled.tolist(), strict=True):
            if not file.packets:
                self._writers[key].add(picture, key=frame == 0)
            if counts:
                statistics.add(picture)

    def _end(self, key: str, file: _File) -> None:
        if file.packets:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            join(file.path, file.packets, self._rate)
        else:
            self._writers.pop(key).__exit__(None)

    def _describe(self, key: str, size: tuple[int, ...], codec: str, pixels: str) -> None:
        """Say what a camera's videos are, as the first of them is."""
        about = {
            "video.height": size[0], "video.width": size[1], "video.codec": codec, "video.pix_fmt": pixels,
            "video.is_depth_map": False, "video.fps": float(self._rate), "video.channels": 3, "has_audio": False,
        }  # fmt: skip
        names = ["height", "width", "channels"]
        self.features.setdefault(key, {"dtype": "video", "shape": [*size, 3], "names": names, "info": about})

    def _find_packets(self) -> list[list[Packets | None]]:
        """For each camera and episode what can be copied; a camera's are all of the first one's kind."""
        clips_of = getattr(self._source, "clips", None)
        found: list[list[Packets | None]] = [[] for _ in self._keys]
        tables = lru_cache(maxsize=2 * len(self._keys))(_read)
        for info in self._episodes:
            clips = clips_of(info.episode_id) if clips_of else [None] * len(self._keys)
            for camera, clip in zip(found, clips, strict=True):
                table = tables(info.episode_id, clip.path) if clip else None
                packets = None
                if clip and table:
                    packets = table.find(clip.start_s, info.frame_count, info.frames_per_second, TIME_TOLERANCE)
                first = next((other for other in camera if other), packets)
                camera.append(packets if packets and first and packets.kind == first.kind else None)
        return found


def _read(episode: str, path: Path) -> PacketTable | None:
    try:
        return read_table(path)
    except ValueError as error:
        raise EpisodeError(f"{episode}/{path.name}: content", str(error), "give a video that can be decoded") from error


def _plan(root: Path, key: str, found: Sequence[Packets | None], episodes_per_file: int) -> list[_File]:
    """A camera's files: neighbours that are encoded, or copied with the same parameters, share one."""
    files: list[_File] = []
    for _, run in groupby(enumerate(found), lambda entry: entry[1] and entry[1].parameters):
        entries = list(run)
        for begin in range(0, len(entries), episodes_per_file):
            numbers, packets = zip(*entries[begin : begin + episodes_per_file], strict=True)
            place = {"chunk_index": len(files) // 1000, "file_index": len(files) % 1000}
            path = root / VIDEO_PATH.format(video_key=key, **place)
            files.append(_File(path, len(files), numbers, tuple(part for part in packets if part)))
    return files
