"""Recorded episodes for training: listed once, reduced to every n-th frame, decoded on demand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.cached_source import CachedSource
from dopamine_rl.episodes.listing import check_instructions, open_source
from dopamine_rl.episodes.video import unreadable, video_format
from dopamine_rl.errors import EpisodeError
from dopamine_rl.interfaces import EpisodeSource, OnProgress, no_progress
from dopamine_rl.types import EpisodeInfo


@dataclass(frozen=True, eq=False, slots=True)
class StoredEpisode:
    """An episode on disk, reduced to some of its frames.

    Args:
        folder: as `open_source` takes it.
        info: metadata of the episode reduced to these frames.
        frame_ids: int64 [F], ids of the frames in the recording.
    """

    folder: Path
    info: EpisodeInfo
    frame_ids: NDArray[np.int64]


def list_stored(
    folder: Path,
    stride: int = 1,
    cameras: Sequence[str] | None = None,
    on_progress: OnProgress = no_progress,
) -> list[StoredEpisode]:
    """List the episodes of a folder by name, reduced to every `stride`-th frame and the last.

    A keyframe moves to the first remaining frame at or after it. Nothing is decoded.

    Args:
        folder, cameras: as for `open_source`.
        on_progress: called with notes for the user on how the episodes are read.
    Raises:
        BadInput: there is no episode, or no such camera.
        EpisodeError: an episode is malformed or has no instruction, or two of its keyframes would coincide.
    """
    folder = Path(folder).resolve()
    source = open_source(folder, cameras)
    episodes = source.episodes()
    check_instructions(episodes)
    for note in source.notes:
        on_progress(note, True)
    return [_thinned(folder, info, stride) for info in episodes]


def _thinned(folder: Path, info: EpisodeInfo, stride: int) -> StoredEpisode:
    frame_ids = np.union1d(np.arange(0, info.frame_count, stride), info.frame_count - 1)
    keyframes = np.searchsorted(frame_ids, info.keyframes)
    if (np.diff(keyframes) <= 0).any():
        most = np.diff(info.keyframes).min()  # every stride up to the smallest distance keeps a frame between keyframes
        fix = f"give a stride of at most {most}, not {stride}: two keyframes would coincide"
        raise EpisodeError(f"{info.episode_id}: keyframes", info.keyframes.tolist(), fix)
    return StoredEpisode(folder, _at_frames(info, frame_ids, keyframes), frame_ids)


def _at_frames(info: EpisodeInfo, frame_ids: NDArray[np.int64], keyframes: NDArray[np.int64]) -> EpisodeInfo:
    """The metadata of an episode reduced to some frames, with the keyframes given."""
    return replace(
        info,
        frame_count=len(frame_ids),
        keyframes=keyframes,
        true_progress=None if info.true_progress is None else info.true_progress[frame_ids],
        frame_steps=None if info.frame_steps is None else info.frame_steps[frame_ids],
        tool_poses=None if info.tool_poses is None else info.tool_poses[frame_ids],
    )


def failed_end(stored: StoredEpisode, share: float = 1 / 3) -> StoredEpisode:
    """A failed episode reduced to its first frame and the last `share` of its frames."""
    count = len(stored.frame_ids)
    kept = np.union1d([0], np.arange(count - max(1, round(share * count)), count))
    reduced = _at_frames(stored.info, kept, np.array([0, len(kept) - 1]))
    return StoredEpisode(stored.folder, replace(reduced, stages=reduced.stages[-1:]), stored.frame_ids[kept])


class StoredSource:
    """Stored episodes of any folders as one EpisodeSource; their names are their list indices."""

    def __init__(self, episodes: Sequence[StoredEpisode]) -> None:
        self._episodes = episodes
        self._sources: dict[tuple[Path, tuple[str, ...]], EpisodeSource] = {}

    def episodes(self) -> list[EpisodeInfo]:
        """See EpisodeSource."""
        return [replace(stored.info, episode_id=str(index)) for index, stored in enumerate(self._episodes)]

    def frames(
        self, episode_id: str, frame_ids: NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """See EpisodeSource."""
        stored = self._episodes[int(episode_id)]
        key = (stored.folder, stored.info.cameras)
        source = self._sources.get(key) or self._sources.setdefault(key, open_source(*key))
        return source.frames(stored.info.episode_id, stored.frame_ids[frame_ids], size)


class StoredPictures:
    """Random access to images of stored episodes, resized to one size, with a cache of the most recent ones.

    Args:
        episodes: of the images.
        size: (height, width) to resize to.
        max_bytes: of cached images.
    """

    def __init__(self, episodes: Sequence[StoredEpisode], size: tuple[int, int], max_bytes: int) -> None:
        self._source, self._size = CachedSource(StoredSource(episodes), max_bytes), size

    def __call__(self, pictures: Sequence[tuple[int, int, int]]) -> NDArray[np.uint8]:
        """Images uint8 [M, H, W, 3] by (episode, frame, view); blank if the episode is negative.

        Raises:
            EpisodeError: an image cannot be decoded.
        """
        rows_of: dict[int, list[int]] = defaultdict(list)
        for row, (episode, _, _) in enumerate(pictures):
            rows_of[episode].append(row)
        images = np.zeros((len(pictures), *self._size, 3), np.uint8)
        for episode, rows in rows_of.items():
            if episode >= 0:
                _, frames, views = np.array([pictures[row] for row in rows]).T
                ids, inverse = np.unique(frames, return_inverse=True)
                images[rows] = self._source.frames(str(episode), ids, self._size)[inverse, views]
        return images


def picture_shape(episode: StoredEpisode) -> tuple[int, int]:
    """Height and width of the frames of an episode's first camera. Raises EpisodeError."""
    video = open_source(episode.folder, episode.info.cameras).videos(episode.info.episode_id)[0]
    try:
        shape = video_format(video)
    except ValueError as error:
        raise EpisodeError(f"{episode.info.episode_id}: video", str(video), unreadable(error)) from error
    return shape.height, shape.width


def decode_all(
    episodes: Sequence[StoredEpisode],
    size: tuple[int, int],
    threads: int,
    on_progress: OnProgress = no_progress,
) -> list[NDArray[np.uint8]]:
    """Decode all frames of some episodes, uint8 [F, V, H, W, 3] each, in parallel.

    Args:
        threads: episodes to decode at a time.
        on_progress: called with the number of episodes decoded.
    Raises:
        EpisodeError: an episode cannot be decoded.
    """
    source, decoded = StoredSource(episodes), []

    def decode(index: int) -> NDArray[np.uint8]:
        return source.frames(str(index), np.arange(len(episodes[index].frame_ids)), size)

    with ThreadPoolExecutor(threads) as pool:
        for frames in pool.map(decode, range(len(episodes))):
            decoded.append(frames)
            on_progress(f"episodes decoded: {len(decoded)} of {len(episodes)}", False)
    return decoded


def decoded_bytes(episodes: Sequence[StoredEpisode], size: tuple[int, int]) -> int:
    """Memory in bytes for all decoded frames of some episodes."""
    frames = sum(len(episode.frame_ids) * len(episode.info.cameras) for episode in episodes)
    return frames * size[0] * size[1] * 3
