"""A recorded episode of any format: what is known of it, and its frames one after another or all at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.lerobot import LeRobotSource
from dopamine_rl.episodes.pauses import wavers
from dopamine_rl.episodes.raw import KEYFRAMES, past_the_end
from dopamine_rl.episodes.raw_source import RawSource
from dopamine_rl.episodes.seek import count_frames, frame_times
from dopamine_rl.episodes.states import frame_progress
from dopamine_rl.episodes.video import VideoFormat, every_picture, unreadable, video_format
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Views

FRAMES_AT_ONCE = 16
"""Frames of a dataset's episode that are decoded at a time."""
FRAMES_HZ = 2.0
"""Default number of scored frames per second."""
MAX_PIXELS = 76_800
"""Largest default size of an image: the image budget of the released models (METHOD.md section 4)."""


@dataclass(frozen=True, eq=False, slots=True)
class Recording:
    """One recorded episode, before its pictures are read.

    Args:
        name: also of its results.
        videos: one per camera, front view first.
        instructions: wordings of the task; none if not recorded.
        keyframes: int64 [N+1], frame ids of the sub-task boundaries; None if not annotated.
        success: whether it succeeded; None if not recorded.
        dense: its videos contain only frames that are meant to be scored, as with recorded transitions.
        source: the dataset or folders that list it by its name; None for videos without annotation.
        note: for the user, on how it is read, such as which cameras were chosen; one or more lines, or "".
        stages: N names of the segments between keyframes; none if not annotated.
    """

    name: str
    videos: tuple[Path, ...]
    instructions: tuple[str, ...] = ()
    keyframes: NDArray[np.int64] | None = None
    success: bool | None = None
    dense: bool = False
    source: RawSource | LeRobotSource | None = None
    note: str = ""
    stages: tuple[str, ...] = ()

    @property
    def dataset(self) -> LeRobotSource | None:
        """The LeRobotDataset it is part of, if any; its videos may then contain other episodes."""
        return self.source if isinstance(self.source, LeRobotSource) else None

    @property
    def argument(self) -> str:
        """What names this episode alone on a command line: FOLDER/EPISODE, DATASET#NUMBER, or its videos."""
        if self.dataset is not None:
            return f"{self.dataset.root}#{int(self.name.rpartition('_')[2])}"
        folders = {video.parent for video in self.videos}
        return str(folders.pop()) if len(folders) == 1 else ",".join(map(str, self.videos))

    @property
    def format(self) -> VideoFormat:
        """Format of the front camera's video. Raises BadInput if it is not a video."""
        try:
            return video_format(self.videos[0])
        except ValueError as error:
            raise _undecodable(self.videos[0], error) from error

    @property
    def identity(self) -> tuple[object, ...]:
        """Changes with the episode's files and metadata. Raises BadInput if a video is missing."""
        try:
            stats = [path.stat() for path in self.videos]
        except OSError as error:
            missing = next((path for path in self.videos if not path.exists()), self.videos[0])
            raise BadInput("EPISODE", str(missing), f"give a video that can be read ({error.strerror})") from error
        names = [str(path.resolve()) for path in self.videos]
        files = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, stats, strict=True))
        keyframes = None if self.keyframes is None else tuple(self.keyframes.tolist())
        return files, self.instructions, keyframes, *((self.name,) if self.dataset else ())

    def true_progress(self, frame_ids: NDArray[np.int64], count: int) -> NDArray[np.float64] | None:
        """Progress of frames by the keyframes, float64 [F]; None if the episode is not annotated, failed, pauses or
        retreats.

        Args:
            frame_ids: int64 [F].
            count: frames of the whole episode.
        Source: arXiv:2512.23703, Eq. 1, as in the reward model's training.
        """
        if self.keyframes is None or self.success is False or wavers(self.stages):
            return None
        return frame_progress(self.keyframes, count, frame_ids)


@dataclass(frozen=True, eq=False, slots=True)
class Pictures:
    """Decoded frames of a recording.

    Args:
        frame_ids: int64 [F], increasing from 0; the last is the recording's last frame.
        frames: uint8 [F, V, H, W, 3].
    """

    frame_ids: NDArray[np.int64]
    frames: NDArray[np.uint8]


def stride_of(recording: Recording, stride: int | None, hz: float | None) -> int:
    """Video frames from one scored frame to the next.

    Args:
        stride: the requested stride.
        hz: requested scored frames per second, used if `stride` is None.
    """
    if stride is not None:
        return stride
    if hz is None and recording.dense:
        return 1
    return max(1, round(recording.format.frames_per_second / (hz or FRAMES_HZ)))


def size_of(recording: Recording) -> tuple[int, int]:
    """Default height and width of the images that are scored: as recorded, or scaled down to the image budget."""
    shape = recording.format
    height, width = shape.height, shape.width
    scale = min(1.0, math.sqrt(MAX_PIXELS / (height * width)))
    return max(1, int(height * scale)), max(1, int(width * scale))


def check_files(recordings: Sequence[Recording], field: str = "EPISODE", views: int | None = None) -> None:
    """Check the videos of recordings, and that keyframes lie within them, without decoding.

    Args:
        recordings: of which to check the files.
        field: what named them.
        views: number of cameras that are used; None uses all.
    Raises:
        BadInput: a video is missing, damaged or cut short; keyframes lie beyond the end.
    """
    counts = check_videos((video for recording in recordings for video in recording.videos[:views]), field)
    for recording in recordings:
        front, last = recording.videos[0], -1 if recording.keyframes is None else int(recording.keyframes[-1])
        # An index may list too few frames, so count again before calling a video too short.
        if recording.dataset is None and last >= counts[front] and last >= (count := len(frame_times(front))):
            raise _beyond_the_end(recording, count)


def check_videos(videos: Iterable[Path], field: str) -> dict[Path, int]:
    """The number of frames in the index of each video; see `check_files`."""
    counts: dict[Path, int] = {}
    for video in videos:
        if video not in counts:  # one file may hold all episodes of a dataset
            try:
                counts[video] = count_frames(video)
            except ValueError as error:
                raise BadInput(field, str(video), unreadable(error)) from error
    return counts


def _beyond_the_end(recording: Recording, count: int) -> BadInput:
    assert recording.keyframes is not None
    field = f"{recording.videos[0].parent / KEYFRAMES}: frame id"
    return BadInput(field, int(recording.keyframes[-1]), past_the_end(count))


def read_frames(recording: Recording, stride: int, size: tuple[int, int], views: int) -> Pictures:
    """Decode every `stride`-th frame of a recording, and the last.

    Args:
        size: (height, width) to resize to.
        views: number of cameras; if the recording has fewer, its front view is repeated (METHOD.md section 4).
    Raises:
        BadInput: a video cannot be decoded; cameras differ in length; keyframes lie beyond the end.
    """
    kept = list(stream_frames(recording, stride, size, views))
    if len(kept) < 2:
        raise BadInput(str(recording.videos[0]), f"{len(kept)} frames", "give a video of at least two frames")
    ids, frames = zip(*kept, strict=True)
    keyframes = recording.keyframes
    if keyframes is not None and keyframes[-1] > ids[-1]:
        raise _beyond_the_end(recording, int(ids[-1]) + 1)
    return Pictures(np.array(ids, np.int64), np.stack(frames))


def stream_frames(recording: Recording, stride: int, size: tuple[int, int], views: int) -> Iterator[tuple[int, Views]]:
    """The same frames one after another, without holding them all in memory: frame id and uint8 [V, H, W, 3]."""
    videos = recording.videos[:views]
    if recording.dataset is not None:
        yield from _from_dataset(recording.name, recording.dataset, stride, size, views)
        return
    for heads in zip_longest(*(_readable(video, stride, size) for video in videos)):
        present = [head for head in heads if head is not None]
        if len(present) < len(videos) or len({index for index, _ in present}) > 1:
            raise _unequal(recording, videos)
        pictures = [picture for _, picture in present]
        yield present[0][0], np.stack(pictures + pictures[:1] * (views - len(pictures)))


def _from_dataset(
    name: str, dataset: LeRobotSource, stride: int, size: tuple[int, int], views: int
) -> Iterator[tuple[int, Views]]:
    last = dataset.episode(name).frame_count - 1
    ids = np.union1d(np.arange(0, last, stride), [last])
    for begin in range(0, len(ids), FRAMES_AT_ONCE):
        part = ids[begin : begin + FRAMES_AT_ONCE]
        for index, frame in zip(part.tolist(), dataset.frames(name, part, size), strict=True):
            yield index, np.stack([*frame[:views], *frame[:1].repeat(max(0, views - len(frame)), axis=0)])


def _readable(video: Path, stride: int, size: tuple[int, int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    try:
        yield from every_picture(video, stride, size)
    except ValueError as error:
        raise _undecodable(video, error) from error


def _undecodable(video: Path, error: ValueError) -> BadInput:
    return BadInput("EPISODE", str(video), unreadable(error))


def _unequal(recording: Recording, videos: Sequence[Path]) -> BadInput:
    names = [video.name for video in videos]
    names = names if len(set(names)) == len(names) else [str(video) for video in videos]
    frames = [sum(1 for _ in every_picture(video, 1, (2, 2))) for video in videos]
    counts = dict(zip(names, frames, strict=True))
    return BadInput(
        f"{recording.videos[0].parent}: frames of each camera",
        counts,
        "record the same number of frames with every camera, or use the first of them: --views 1",
    )
