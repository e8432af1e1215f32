"""Raw episode folders as an episode source."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes import raw
from dopamine_rl.episodes.cameras import describe_cameras, describe_left_out
from dopamine_rl.episodes.motion import Motion, read_motion
from dopamine_rl.episodes.remux import Clip
from dopamine_rl.episodes.seek import count_frames
from dopamine_rl.episodes.video import unreadable, video_format
from dopamine_rl.errors import BadInput
from dopamine_rl.types import EpisodeInfo


class RawSource:
    """The episodes of some raw episode folders.

    Args:
        folders: of the episodes, with different names.
        cameras: names of the videos to use, front view first; None takes those in `raw.CAMERAS`.
    Raises:
        BadInput: two folders have the same name.
    """

    def __init__(self, folders: Sequence[Path], cameras: Sequence[str] | None = None) -> None:
        self._cameras = cameras
        self._folders = {folder.resolve().name: folder for folder in folders}
        if len(self._folders) < len(folders):
            raise BadInput("folders", [str(folder) for folder in folders], "give episodes of different names")

    @cached_property
    def left_out(self) -> tuple[str, ...]:
        """Names of the episodes that are too short. Raises EpisodeError if all are."""
        short = sorted(name for name, folder in self._folders.items() if raw.is_too_short(folder))
        if len(short) == len(self._folders):
            folder, fix = self._folders[short[0]], "give an episode of at least 2 frames"
            raise raw.malformed(folder, "*.mp4", "frame count", "below 2", fix)
        return tuple(short)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the episodes are read, one line each."""
        folders = list(self._folders.values())
        owner = folders[0].resolve().name if len(folders) == 1 else folders[0].resolve().parent.name
        lines = []
        if self._cameras is not None:
            lines = sorted({describe_cameras(owner, self._list(folder), raw.list_videos(folder)) for folder in folders})
        return (*lines, *([describe_left_out(owner, self.left_out)] if self.left_out else ()))

    @property
    def names(self) -> list[str]:
        """Names of the episodes, sorted, without those in `left_out`."""
        return sorted(set(self._folders) - set(self.left_out))

    def episodes(self) -> list[EpisodeInfo]:
        """See EpisodeSource. Episodes in `left_out` are not included."""
        return [self.episode(name) for name in self.names]

    def episode(self, episode_id: str) -> EpisodeInfo:
        """Metadata of one episode. Raises EpisodeError where its files contradict each other."""
        folder = self.folder(episode_id)
        keyframes, stages = raw.read_keyframes(folder)
        count, rate = self._measure(folder)
        if keyframes[-1] >= count:
            raise raw.malformed(folder, raw.KEYFRAMES, "frame id", int(keyframes[-1]), raw.past_the_end(count))
        instructions = raw.find_instructions(folder)
        outcome = raw.read_outcome(folder)
        truth = outcome.true_progress
        if truth is not None and len(truth) != count:
            fix = f"give one value for each of {count} pictures"
            raise raw.malformed(folder, raw.TRANSITIONS, "true_progress", len(truth), fix)
        if outcome.tool_poses is not None and len(outcome.tool_poses) != count:
            fix = f"give one pose for each of {count} pictures"
            raise raw.malformed(folder, raw.TRANSITIONS, "tool_poses", len(outcome.tool_poses), fix)
        if outcome.frame_steps is not None:
            raw.check_frame_steps(folder, outcome.frame_steps, count)
        return EpisodeInfo(
            episode_id,
            instructions,
            count,
            rate,
            tuple(self._list(folder)),
            keyframes,
            stages,
            str(folder / raw.KEYFRAMES),
            outcome.success,
            truth,
            outcome.near_miss,
            outcome.frame_steps,
            outcome.tool_poses,
        )

    def _measure(self, folder: Path) -> tuple[int, float]:
        """Frames of every video of an episode, and frames per second of the first. Raises EpisodeError."""
        counts, rates = {}, []
        for camera in self._list(folder):
            try:
                counts[camera] = count_frames(folder / f"{camera}.mp4")
                rates.append(video_format(folder / f"{camera}.mp4").frames_per_second)
            except ValueError as error:
                video = str(folder / f"{camera}.mp4")
                raise raw.malformed(folder, "", "video", video, unreadable(error)) from error
        if len(set(counts.values())) > 1:
            fix = "record the same number of frames with every camera"
            raise raw.malformed(folder, "*.mp4", "frame count", counts, fix)
        return next(iter(counts.values())), rates[0]

    def _list(self, folder: Path) -> list[str]:
        return raw.list_cameras(folder, self._cameras)

    def frames(
        self, episode_id: str, frame_ids: NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """See EpisodeSource."""
        return raw.read_frames(self.folder(episode_id), frame_ids, size, self._cameras)[1]

    def motion(self, episode_id: str) -> Motion | None:
        """What the robot measured and did at each frame; None where that is not known. Raises EpisodeError."""
        return read_motion(self.folder(episode_id))

    def videos(self, episode_id: str) -> tuple[Path, ...]:
        """The video files of an episode, one per camera."""
        folder = self.folder(episode_id)
        return tuple(folder / f"{camera}.mp4" for camera in self._list(folder))

    def clips(self, episode_id: str) -> tuple[Clip, ...]:
        """The parts of the video files that show an episode, one per camera: all of each file."""
        return tuple(Clip(video) for video in self.videos(episode_id))

    def folder(self, episode_id: str) -> Path:
        """The folder of an episode. Raises BadInput."""
        if episode_id not in self._folders:
            raise BadInput("episode_id", episode_id, "name one of the episodes listed")
        return self._folders[episode_id]
