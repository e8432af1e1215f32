"""Recorded episodes as training needs them: listed once, thinned to every n-th frame, pictures decoded where they are asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.source import CachedSource, check_instructions, open_source
from dopamine_rl.episodes.video import video_format
from dopamine_rl.errors import EpisodeError
from dopamine_rl.interfaces import EpisodeSource
from dopamine_rl.types import EpisodeInfo


@dataclass(frozen=True, eq=False, slots=True)
class StoredEpisode:
    """Some frames of an episode on disk.

    Args:
        folder: as `open_source` takes it.
        info: what is known of the episode, as if it had these frames alone.
        frame_ids: int64 [F], which frames of the recording they are.
    """

    folder: Path
    info: EpisodeInfo
    frame_ids: NDArray[np.int64]


def list_stored(
    folder: Path,
    stride: int = 1,
    cameras: Sequence[str] | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> list[StoredEpisode]:
    """All episodes of a folder, by name, as if only every `stride`-th of their frames, and the last, had been recorded.

    A keyframe moves to the first kept frame at or after it. No picture is decoded.

    Args:
        folder, cameras: as `open_source` takes them.
        say: gets what a user should know of how they are read, a line at a time.
    Raises:
        BadInput: there is no episode, or no such camera.
        EpisodeError: one is malformed or without a task in words, or two of its keyframes would become one.
    """
    folder = Path(folder).resolve()
    source = open_source(folder, cameras)
    episodes = source.episodes()
    check_instructions(episodes)
    for note in source.notes:
        say(note)
    return [_thinned(folder, info, stride) for info in episodes]


def _thinned(folder: Path, info: EpisodeInfo, stride: int) -> StoredEpisode:
    kept = np.union1d(np.arange(0, info.frame_count, stride), info.frame_count - 1)
    keyframes = np.searchsorted(kept, info.keyframes)
    if (np.diff(keyframes) <= 0).any():
        raise EpisodeError(f"{info.episode_id}: keyframes", info.keyframes.tolist(), f"give a stride below {stride}")
    truth = None if info.true_progress is None else info.true_progress[kept]
    steps = None if info.frame_steps is None else info.frame_steps[kept]
    thinned = replace(info, frame_count=len(kept), keyframes=keyframes, true_progress=truth, frame_steps=steps)
    return StoredEpisode(folder, thinned, kept)


class StoredSource:
    """Stored episodes of any folders as one EpisodeSource; they are named by their place in the list."""

    def __init__(self, episodes: Sequence[StoredEpisode]) -> None:
        self._episodes = episodes
        self._sources: dict[tuple[Path, tuple[str, ...]], EpisodeSource] = {}

    def episodes(self) -> list[EpisodeInfo]:
        """See EpisodeSource."""
        return [replace(stored.info, episode_id=str(place)) for place, stored in enumerate(self._episodes)]

    def frames(
        self, episode_id: str, frame_ids: NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """See EpisodeSource."""
        stored = self._episodes[int(episode_id)]
        key = (stored.folder, stored.info.cameras)
        source = self._sources.get(key) or self._sources.setdefault(key, open_source(*key))
        return source.frames(stored.info.episode_id, stored.frame_ids[frame_ids], size)


class StoredPictures:
    """Single pictures of stored episodes, all of one size, the last ones asked for kept in memory.

    Args:
        episodes: where they lie.
        size: (height, width) that they are scaled to.
        max_bytes: of the pictures kept.
    """

    def __init__(self, episodes: Sequence[StoredEpisode], size: tuple[int, int], max_bytes: int) -> None:
        self._source, self._size = CachedSource(StoredSource(episodes), max_bytes), size

    def __call__(self, pictures: Sequence[tuple[int, int, int]]) -> NDArray[np.uint8]:
        """Pictures uint8 [M, H, W, 3] by episode, frame and view; blank where the episode is negative.

        Raises:
            EpisodeError: one cannot be decoded.
        """
        places: dict[int, list[int]] = defaultdict(list)
        for place, (episode, _, _) in enumerate(pictures):
            places[episode].append(place)
        images = np.zeros((len(pictures), *self._size, 3), np.uint8)
        for episode, rows in places.items():
            if episode >= 0:
                _, frames, views = np.array([pictures[row] for row in rows]).T
                ids, of = np.unique(frames, return_inverse=True)
                images[rows] = self._source.frames(str(episode), ids, self._size)[of, views]
        return images


def picture_shape(episode: StoredEpisode) -> tuple[int, int]:
    """Height and width of the pictures of an episode's first camera. Raises EpisodeError."""
    video = open_source(episode.folder, episode.info.cameras).videos(episode.info.episode_id)[0]
    try:
        shape = video_format(video)
    except ValueError as error:
        raise EpisodeError(f"{episode.info.episode_id}/{video.name}: content", str(error), "give a video") from error
    return shape.height, shape.width


def decode_all(
    episodes: Sequence[StoredEpisode],
    size: tuple[int, int],
    threads: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[NDArray[np.uint8]]:
    """All pictures of some episodes, uint8 [F, V, H, W, 3] each, decoded side by side and scaled one by one.

    Args:
        threads: episodes decoded at once.
        on_progress: called with the episodes decoded and to decode.
    Raises:
        EpisodeError: one cannot be decoded.
    """
    source, decoded = StoredSource(episodes), []

    def decode(place: int) -> NDArray[np.uint8]:
        return source.frames(str(place), np.arange(len(episodes[place].frame_ids)), size)

    with ThreadPoolExecutor(threads) as pool:
        for frames in pool.map(decode, range(len(episodes))):
            decoded.append(frames)
            on_progress(len(decoded), len(episodes))
    return decoded


def decoded_bytes(episodes: Sequence[StoredEpisode], size: tuple[int, int]) -> int:
    """Memory that all pictures of some episodes would take."""
    frames = sum(len(episode.frame_ids) * len(episode.info.cameras) for episode in episodes)
    return frames * size[0] * size[1] * 3
