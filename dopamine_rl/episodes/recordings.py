"""Recorded episodes as a person names them: raw folders, LeRobot datasets, folders of videos, single videos."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.cameras import MAX_VIEWS, VIEW_NAMES, describe_cameras, describe_left_out
from dopamine_rl.episodes.lerobot import LeRobotSource, episode_name, is_dataset
from dopamine_rl.episodes.raw import (
    CAMERAS,
    KEYFRAMES,
    find_instructions,
    has_transitions,
    is_too_short,
    list_cameras,
    list_episodes,
    list_videos,
    read_keyframes,
    read_outcome,
)
from dopamine_rl.episodes.states import frame_progress
from dopamine_rl.episodes.video import VideoFormat, every_picture, unreadable, video_format
from dopamine_rl.errors import BadInput
from dopamine_rl.texts import counted
from dopamine_rl.types import Views

FRAMES_AT_ONCE = 16
"""Frames of a dataset's episode that are decoded together."""
FRAMES_HZ = 2.0
"""Scored frames a second where nothing else is asked for."""
MAX_PIXELS = 76_800
"""Of a picture that is sent, where no size is asked for: the image budget of the released models (METHOD.md section
4)."""


@dataclass(frozen=True, eq=False, slots=True)
class Recording:
    """One recorded episode, before its pictures are read.

    Args:
        name: what its results are called after.
        videos: one a camera, front view first.
        instructions: ways to say the task; none where nothing beside the videos says it.
        keyframes: int64 [N+1], frame ids of the sub-task boundaries; None where it is not annotated.
        success: whether it succeeded; None where nobody recorded that.
        dense: its videos hold only frames that are meant to be scored, with the transitions between them beside it.
        source: what its frames are read from, by its name, where its videos show other episodes too.
        count: its frames, where `source` is given.
        note: what a user should know of how its cameras were chosen; "" where their names or their order say it.
    """

    name: str
    videos: tuple[Path, ...]
    instructions: tuple[str, ...] = ()
    keyframes: NDArray[np.int64] | None = None
    success: bool | None = None
    dense: bool = False
    source: LeRobotSource | None = None
    count: int = 0
    note: str = ""

    @property
    def format(self) -> VideoFormat:
        """What the front camera's video says of itself. Raises BadInput where it is none."""
        try:
            return video_format(self.videos[0])
        except ValueError as error:
            raise _undecodable(self.videos[0], error) from error

    @property
    def identity(self) -> tuple[object, ...]:
        """Changes where the episode's files or what is said about it change. Raises BadInput where a video is
        missing."""
        try:
            stats = [path.stat() for path in self.videos]
        except OSError as error:
            missing = next((path for path in self.videos if not path.exists()), self.videos[0])
            raise BadInput("EPISODE", str(missing), f"give a video that can be read ({error.strerror})") from error
        names = [str(path.resolve()) for path in self.videos]
        files = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, stats, strict=True))
        keyframes = None if self.keyframes is None else tuple(self.keyframes.tolist())
        return files, self.instructions, keyframes, *((self.name,) if self.source else ())

    def true_progress(self, frame_ids: NDArray[np.int64], count: int) -> NDArray[np.float64] | None:
        """Progress of frames by the keyframes, float64 [F]; None where the episode is not annotated, or failed.

        Args:
            frame_ids: int64 [F].
            count: frames of the whole episode.
        Source: arXiv:2512.23703, Eq. 1, as in the reward model's training.
        """
        if self.keyframes is None or self.success is False:
            return None
        return frame_progress(self.keyframes, count, frame_ids)


@dataclass(frozen=True, eq=False, slots=True)
class Pictures:
    """Some frames of a recording.

    Args:
        frame_ids: int64 [F], increasing from 0; the last is the recording's last frame.
        frames: uint8 [F, V, H, W, 3].
    """

    frame_ids: NDArray[np.int64]
    frames: NDArray[np.uint8]


def split_argument(argument: str) -> tuple[Path, str]:
    """The folder of DATASET#NUMBER and the number; else the whole argument and "". A folder's name may have a # too."""
    dataset, mark, number = argument.rpartition("#")
    if mark and not Path(argument).exists() and is_dataset(Path(dataset)):
        return Path(dataset), number
    return Path(argument), ""


def find_recordings(argument: str, cameras: Sequence[str] | None = None) -> list[Recording]:
    """The episodes that an argument names: FOLDER of one or many, DATASET[#NUMBER], or VIDEO[,VIDEO[,VIDEO]].

    Args:
        argument: as on the command line.
        cameras: names of those to use in a dataset or folder, the front view first; None leaves the choice to the
            format. The order of single videos says it already, so that there it is refused.
    Raises:
        BadInput: there is none, or no such camera, or what is said about one is malformed.
    """
    path, number = split_argument(argument)
    if is_dataset(path):
        return _in_dataset(path, number, cameras)
    if path.is_dir():
        return _in_folder(path, cameras)
    if cameras is not None:
        raise BadInput("--cameras", ",".join(cameras), "leave it out: VIDEO,VIDEO says the order, the front view first")
    videos = (path,) if path.is_file() else tuple(Path(part) for part in argument.split(","))
    for video in videos:
        if not video.is_file():
            fix = "no such file: give an episode's folder, a folder of episodes, or VIDEO[,VIDEO[,VIDEO]]"
            raise BadInput("EPISODE", str(video), fix)
    if len(videos) > MAX_VIEWS:
        raise BadInput("EPISODE", argument, f"give at most {MAX_VIEWS} videos of one episode")
    first = videos[0]
    named_by_camera = first.stem in (*CAMERAS, *VIEW_NAMES)
    return [Recording(first.resolve().parent.name if named_by_camera else first.stem, videos)]


def _in_dataset(root: Path, number: str, cameras: Sequence[str] | None) -> list[Recording]:
    """The episodes of a LeRobotDataset, or the one with a number."""
    source = LeRobotSource(root, cameras)
    episodes = source.episodes()
    if number:
        last = len(episodes) + len(source.left_out) - 1
        if not (number.isascii() and number.isdecimal() and int(number) <= last):
            raise BadInput("EPISODE", f"{root}#{number}", f"give a number from 0 to {last}")
        name = episode_name(int(number))
        if name in source.left_out:
            fix = f"it has {source.left_out[name]} frames, and an episode needs at least 2: choose another one"
            raise BadInput("EPISODE", f"{root}#{number}", fix)
        episodes = [episode for episode in episodes if episode.episode_id == name]
    return [
        Recording(
            episode.episode_id,
            source.videos(episode.episode_id),
            episode.instructions,
            episode.keyframes if episode.annotation else None,
            episode.success,
            source=source,
            count=episode.frame_count,
            note="\n".join(source.notes),
        )
        for episode in episodes
    ]


def _in_folder(folder: Path, cameras: Sequence[str] | None) -> list[Recording]:
    if (folder / KEYFRAMES).exists():
        return [_annotated(folder, cameras)]
    if list_videos(folder):
        videos = _videos_by_camera(folder) if cameras is None else _chosen(folder, cameras)
        note = _note(folder, cameras)
        return [Recording(folder.resolve().name, videos, find_instructions(folder), note=note)]
    episodes = list_episodes(folder)
    if not episodes:
        raise BadInput(
            "EPISODE", str(folder), "it holds neither videos (.mp4) nor episodes' folders; name one that does"
        )
    short = [episode.name for episode in episodes if is_too_short(episode)]
    recordings = [_annotated(episode, cameras) for episode in episodes if episode.name not in short]
    if not recordings:
        raise BadInput("EPISODE", str(folder), f"{short[0]} has less than 2 frames: give an episode of at least 2")
    if short:
        left_out = describe_left_out(folder.resolve().name, short)
        recordings[0] = replace(recordings[0], note=f"{recordings[0].note}\n{left_out}".strip())
    return recordings


def _chosen(folder: Path, cameras: Sequence[str] | None) -> tuple[Path, ...]:
    return tuple(folder / f"{camera}.mp4" for camera in list_cameras(folder, cameras))


def _note(folder: Path, cameras: Sequence[str] | None) -> str:
    """What was taken for what by request."""
    if cameras is None:
        return ""
    return describe_cameras(folder.resolve().name, list_cameras(folder, cameras), list_videos(folder))


def _annotated(folder: Path, cameras: Sequence[str] | None) -> Recording:
    keyframes, _ = read_keyframes(folder)
    success = read_outcome(folder).success
    videos = _chosen(folder, cameras)
    if not videos:
        raise BadInput("EPISODE", str(folder), f"put its videos there: {', '.join(f'{name}.mp4' for name in CAMERAS)}")
    return Recording(
        folder.resolve().name,
        videos,
        find_instructions(folder),
        keyframes,
        success,
        has_transitions(folder),
        note=_note(folder, cameras),
    )


def _videos_by_camera(folder: Path) -> tuple[Path, ...]:
    """The videos of a folder in the order of the views. Raises BadInput where their names do not tell it."""
    names = list_videos(folder)
    for known in (CAMERAS, VIEW_NAMES):
        if sorted(known[: len(names)]) == names:
            return tuple(folder / f"{name}.mp4" for name in known[: len(names)])
    raise BadInput(
        "EPISODE",
        str(folder),
        f"it holds {', '.join(names)}.mp4: call them {' '.join(CAMERAS)} (or "
        f"{' '.join(VIEW_NAMES)}), the front view first, or name the front view first: --cameras "
        f"{','.join(names[:MAX_VIEWS])}",
    )


def stride_of(recording: Recording, stride: int | None, hz: float | None) -> int:
    """Video frames from one scored frame to the next.

    Args:
        stride: as asked for.
        hz: scored frames a second asked for.
    """
    if stride is not None:
        return stride
    if hz is None and recording.dense:
        return 1
    return max(1, round(recording.format.frames_per_second / (hz or FRAMES_HZ)))


def size_of(recording: Recording) -> tuple[int, int]:
    """Height and width of the pictures that are sent: as recorded, or scaled down to the image budget."""
    shape = recording.format
    height, width = shape.height, shape.width
    scale = min(1.0, math.sqrt(MAX_PIXELS / (height * width)))
    return max(1, int(height * scale)), max(1, int(width * scale))


def read_frames(recording: Recording, stride: int, size: tuple[int, int], views: int) -> Pictures:
    """Decode a recording and keep one frame in `stride`, and the last.

    Args:
        size: (height, width) that pictures are scaled to.
        views: cameras to use; where the recording has fewer, its front view is repeated (METHOD.md section 4).
    Raises:
        BadInput: a video cannot be decoded; cameras differ in length; keyframes lie beyond the end.
    """
    kept = list(stream_frames(recording, stride, size, views))
    if len(kept) < 2:
        raise BadInput(str(recording.videos[0]), f"{len(kept)} frames", "give a video of at least two frames")
    ids, frames = zip(*kept, strict=True)
    keyframes = recording.keyframes
    if keyframes is not None and keyframes[-1] > ids[-1]:
        raise BadInput(
            f"{recording.name}/{KEYFRAMES}: frame id",
            int(keyframes[-1]),
            f"the videos have {counted(int(ids[-1]) + 1, 'frame')}, from 0",
        )
    return Pictures(np.array(ids, np.int64), np.stack(frames))


def stream_frames(recording: Recording, stride: int, size: tuple[int, int], views: int) -> Iterator[tuple[int, Views]]:
    """The same frames one after another, so that few are in memory: frame id and uint8 [V, H, W, 3]."""
    videos = recording.videos[:views]
    if recording.source is not None:
        yield from _from_source(recording, recording.source, stride, size, views)
        return
    for heads in zip_longest(*(_readable(video, stride, size) for video in videos)):
        present = [head for head in heads if head is not None]
        if len(present) < len(videos) or len({index for index, _ in present}) > 1:
            raise _unequal(recording, videos)
        pictures = [picture for _, picture in present]
        yield present[0][0], np.stack(pictures + pictures[:1] * (views - len(pictures)))


def _from_source(
    recording: Recording, source: LeRobotSource, stride: int, size: tuple[int, int], views: int
) -> Iterator[tuple[int, Views]]:
    last = recording.count - 1
    ids = np.union1d(np.arange(0, last, stride), [last])
    for begin in range(0, len(ids), FRAMES_AT_ONCE):
        part = ids[begin : begin + FRAMES_AT_ONCE]
        for index, there in zip(part.tolist(), source.frames(recording.name, part, size), strict=True):
            shown = [*there[:views], *there[:1].repeat(max(0, views - len(there)), axis=0)]
            yield index, np.stack(shown)


def _readable(video: Path, stride: int, size: tuple[int, int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    try:
        yield from every_picture(video, stride, size)
    except ValueError as error:
        raise _undecodable(video, error) from error


def _undecodable(video: Path, error: ValueError) -> BadInput:
    return BadInput("EPISODE", str(video), unreadable(error))


def _unequal(recording: Recording, videos: Sequence[Path]) -> BadInput:
    counts = {video.name: sum(1 for _ in every_picture(video, 1, (2, 2))) for video in videos}
    return BadInput(
        f"{recording.name}: frames of each camera",
        counts,
        "record the same number of frames with every camera, or use the first of them: --views 1",
    )
