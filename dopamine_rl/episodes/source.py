"""Episodes from where they lie: raw folders and LeRobot datasets behind one contract, and a bounded memory of
frames."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes import lerobot, raw
from dopamine_rl.episodes.cameras import describe_cameras, describe_left_out
from dopamine_rl.episodes.remux import Clip
from dopamine_rl.episodes.seek import count_frames
from dopamine_rl.episodes.video import video_format
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.interfaces import EpisodeSource
from dopamine_rl.types import EpisodeInfo


def open_source(path: Path, cameras: Sequence[str] | None = None) -> RawSource | lerobot.LeRobotSource:
    """The episodes of a LeRobotDataset's folder, of a folder of raw episodes, or the one raw episode of a folder.

    Args:
        path: of the folder.
        cameras: names of those to use, the front view first; None leaves the choice to the format.
    Raises:
        BadInput: there are none, or no such camera.
        EpisodeError: a folder among them holds videos and no keyframes.
    """
    if lerobot.is_dataset(path):
        return lerobot.LeRobotSource(path, cameras)
    folders = [path] if (path / raw.KEYFRAMES).exists() else raw.list_episodes(path)
    if not folders:
        absence = "" if path.is_dir() else "that is a file: " if path.exists() else "there is no such folder: "
        fix = f"{absence}give a LeRobotDataset v3, or a folder of episodes with {raw.KEYFRAMES}"
        raise BadInput("DATA", str(path), fix)
    for bare in sorted(video.parent for video in path.glob(f"[!.]*/{raw.CAMERAS[0]}.mp4")):
        if not (bare / raw.KEYFRAMES).exists():
            fix = "mark where its sub-tasks begin and end, or keep the episode elsewhere"
            raise EpisodeError(f"{bare.name}/{raw.KEYFRAMES}: file", "missing", fix)
    return RawSource(folders, cameras)


def check_instructions(episodes: Sequence[EpisodeInfo], otherwise: str = "leave the episode out") -> None:
    """Raise EpisodeError for the first episode without a task in words: it can be neither scored nor trained on.

    Args:
        otherwise: what else to do about it.
    """
    for info in episodes:
        if not info.instructions:
            raw_file = f"{raw.INSTRUCTIONS} beside the episode's folder"
            files = raw_file if info.annotation == raw.KEYFRAMES else "meta/tasks.parquet and meta/episodes"
            fix = f"nobody said its task: write it into {files}, or {otherwise}"
            raise EpisodeError(f"{info.episode_id}: task", "", fix)


def passed_over(path: Path) -> list[str]:
    """Names of the folders among raw episodes that are none: they hold neither keyframes nor the front camera's
    video."""
    if lerobot.is_dataset(path) or (path / raw.KEYFRAMES).exists() or not raw.list_episodes(path):
        return []
    folders = (folder for folder in path.glob("[!.]*") if folder.is_dir())
    marks = (raw.KEYFRAMES, f"{raw.CAMERAS[0]}.mp4")
    return sorted(folder.name for folder in folders if not any((folder / mark).exists() for mark in marks))


class RawSource:
    """Raw episode folders.

    Args:
        folders: of the episodes, each of another name.
        cameras: names of their videos that are to be used, the front view first; None takes those in `raw.CAMERAS`.
    """

    def __init__(self, folders: Sequence[Path], cameras: Sequence[str] | None = None) -> None:
        self._cameras = cameras
        self._folders = {folder.resolve().name: folder for folder in folders}
        if len(self._folders) < len(folders):
            raise BadInput("folders", [str(folder) for folder in folders], "give episodes of different names")

    @cached_property
    def left_out(self) -> tuple[str, ...]:
        """Names of the episodes that are too short. Raises EpisodeError where all are."""
        short = sorted(name for name, folder in self._folders.items() if raw.is_too_short(folder))
        if len(short) == len(self._folders):
            raise EpisodeError(f"{short[0]}/*.mp4: frame count", "below 2", "give an episode of at least 2 frames")
        return tuple(short)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the episodes are read, a line each: chosen cameras, and what is left out."""
        folders = list(self._folders.values())
        owner = folders[0].resolve().parent.name
        lines = []
        if self._cameras is not None:
            lines = sorted({describe_cameras(owner, self._list(folder), raw.list_videos(folder)) for folder in folders})
        return (*lines, *([describe_left_out(owner, self.left_out)] if self.left_out else ()))

    def episodes(self) -> list[EpisodeInfo]:
        """See EpisodeSource; those in `left_out`, which are too short, are not among them."""
        return [self._info(name, folder) for name, folder in sorted(self._folders.items()) if name not in self.left_out]

    def _list(self, folder: Path) -> list[str]:
        return raw.list_cameras(folder, self._cameras)

    def _info(self, name: str, folder: Path) -> EpisodeInfo:
        keyframes, stages = raw.read_keyframes(folder)
        cameras = self._list(folder)
        counts = {}
        for camera in cameras:
            try:
                counts[camera] = count_frames(folder / f"{camera}.mp4")
                rate = video_format(folder / f"{cameras[0]}.mp4").frames_per_second
            except ValueError as error:
                raise EpisodeError(
                    f"{name}/{camera}.mp4: content", str(error), "give a video that can be decoded"
                ) from error
        if len(set(counts.values())) > 1:
            raise EpisodeError(
                f"{name}/*.mp4: frame count", counts, "record the same number of frames with every camera"
            )
        count = counts[cameras[0]]
        if keyframes[-1] >= count:
            raise EpisodeError(
                f"{name}/{raw.KEYFRAMES}: frame id", int(keyframes[-1]), f"the videos have {count} frames, from 0"
            )
        instructions = raw.find_instructions(folder)
        outcome = raw.read_outcome(folder)
        truth, steps = outcome.true_progress, outcome.frame_steps
        if truth is not None and len(truth) != count:
            raise EpisodeError(
                f"{name}/{raw.TRANSITIONS}: true_progress", len(truth), f"give one value for each of {count} pictures"
            )
        if steps is not None:
            raw.check_frame_steps(folder, steps, count)
        return EpisodeInfo(
            name,
            instructions,
            count,
            rate,
            tuple(cameras),
            keyframes,
            stages,
            raw.KEYFRAMES,
            outcome.success,
            truth,
            outcome.near_miss,
            steps,
        )

    def frames(
        self, episode_id: str, frame_ids: NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """See EpisodeSource."""
        return raw.read_frames(self._folder(episode_id), frame_ids, size, self._cameras)[1]

    def videos(self, episode_id: str) -> tuple[Path, ...]:
        """The files that show an episode, one a camera."""
        folder = self._folder(episode_id)
        return tuple(folder / f"{camera}.mp4" for camera in self._list(folder))

    def clips(self, episode_id: str) -> tuple[Clip, ...]:
        """Where the files show an episode, one a camera: from their beginning to their end."""
        return tuple(Clip(video) for video in self.videos(episode_id))

    def _folder(self, episode_id: str) -> Path:
        if episode_id not in self._folders:
            raise BadInput("episode_id", episode_id, "name one of the episodes listed")
        return self._folders[episode_id]


class CachedSource:
    """Any source, with the frames that were asked for last kept in memory. Threads may share it.

    Args:
        source: where they come from.
        max_bytes: pictures are dropped, the longest unused first, before they take more than this.
    """

    def __init__(self, source: EpisodeSource, max_bytes: int) -> None:
        self._source, self._max_bytes = source, max_bytes
        self._frames: OrderedDict[tuple[str, int, tuple[int, int] | None], NDArray[np.uint8]] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the pictures kept now."""
        return self._bytes

    def episodes(self) -> Sequence[EpisodeInfo]:
        """See EpisodeSource."""
        return self._source.episodes()

    def frames(
        self, episode_id: str, frame_ids: NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """See EpisodeSource; only frames that are not kept are decoded."""
        keys = [(episode_id, int(frame), size) for frame in frame_ids]
        with self._lock:
            known = {key: self._frames[key] for key in keys if key in self._frames}
            for key in known:
                self._frames.move_to_end(key)
        missing = [key for key in keys if key not in known]
        new = self._source.frames(episode_id, np.array([key[1] for key in missing], np.int64), size) if missing else ()
        # Copies: a view of the decoded block would keep all of the block alive.
        known.update((key, frame.copy()) for key, frame in zip(missing, new, strict=True))
        with self._lock:
            for key in missing:
                self._bytes += 0 if key in self._frames else known[key].nbytes
                self._frames[key] = known[key]
            while self._bytes > self._max_bytes:
                self._bytes -= self._frames.popitem(last=False)[1].nbytes
        return np.stack([known[key] for key in keys])
