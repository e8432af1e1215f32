"""Reading of LeRobotDataset v3.0 from its files: metadata first, frames on demand.

    meta/info.json                                features, fps, and the patterns of the paths below
    meta/tasks.parquet, meta/subtasks.parquet     words -> task_index, subtask_index
    meta/episodes/chunk-000/file-000.parquet      a row per episode: location of its data and frames
    data/chunk-000/file-000.parquet               a row per frame, many episodes per file
    videos/KEY/chunk-000/file-000.mp4             many episodes one after another, separated by time

Source: the format's documentation ("LeRobotDataset v3.0", "Using Subtasks in LeRobot Datasets") and what lerobot 0.4.4
reads and writes. Differs: cameras stored as image files and depth cameras are not read; episodes of fewer than two
frames are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.cameras import MAX_VIEWS, describe_cameras, describe_left_out, find_cameras, order_cameras
from dopamine_rl.episodes.lerobot_rows import (
    INFO,
    EpisodeRow,
    VideoSpan,
    episode_name,
    is_number,
    malformed,
    read_rows,
    read_table,
    too_short,
    unreadable_table,
)
from dopamine_rl.episodes.parquet import DAMAGED, column_names
from dopamine_rl.episodes.remux import Clip
from dopamine_rl.episodes.seek import pictures_at
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.files import PENDING, changing, read_json
from dopamine_rl.texts import missing_key
from dopamine_rl.types import EpisodeInfo

VERSION, TASKS, SUBTASKS = "v3.0", "meta/tasks.parquet", "meta/subtasks.parquet"
STATE, ACTION = "observation.state", "action"
"""Columns of what the robot measured at a frame, and of what it was told there."""
SUBTASK = "subtask_index"
"""Optional column with the sub-task of every frame."""
SUCCESS = "next.success"
"""Optional column; its value in the last row of an episode is the outcome."""
TIME_TOLERANCE = 0.25
"""Accepted difference between a frame's time and the requested one, in frames."""


def is_dataset(path: Path) -> bool:
    """Whether a folder is a LeRobotDataset."""
    return (path / INFO).is_file()


def read_info(root: Path) -> dict[str, Any]:
    """The validated content of `meta/info.json`; first completes an interrupted change of the dataset.

    Raises:
        EpisodeError: naming dataset, file and field.
        BadInput: the change cannot be completed.
    """
    if (root / PENDING).exists():
        with changing(root):  # waits for a running change, completes an interrupted one
            pass
    try:
        info = read_json(root / INFO)
    except FileNotFoundError as error:
        raise malformed(root, INFO, "content", "missing", "copy the dataset again") from error
    except ValueError as error:
        raise malformed(root, INFO, "content", str(error), "copy the dataset again") from error
    checks: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
        ("codebase_version", lambda value: value == VERSION, f"convert the dataset to {VERSION}"),
        ("fps", lambda value: type(value) in (int, float) and 0 < value < 1e4, "give frames per second"),
        ("features", lambda value: isinstance(value, dict), "give an object, feature -> dtype and shape"),
        ("data_path", lambda value: isinstance(value, str), "give the pattern of the data files' paths"),
    )
    if not isinstance(info, dict):
        raise malformed(root, INFO, "content", info, "give an object")
    for name, is_valid, fix in checks:
        if name not in info:
            raise malformed(root, INFO, name, "missing", missing_key(name, info))
        if not is_valid(info[name]):
            raise malformed(root, INFO, name, info.get(name), fix)
    for name, feature in info["features"].items():
        if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
            raise malformed(root, INFO, f"features.{name}", feature, "give its dtype and shape")
    return info


class LeRobotSource:
    """The episodes of a local LeRobotDataset v3.0, named `episode_000000` and so on.

    Args:
        root: its folder.
        cameras: names (or unique parts of them) of the cameras to use, in the order of the V axis, front view first.
            None takes up to three, ordered by `order_cameras`.
    Raises:
        EpisodeError: naming dataset, file and field.
        BadInput: there is no such camera.
    """

    def __init__(self, root: Path, cameras: Sequence[str] | None = None) -> None:
        self.root, self._name = root, root.resolve().name
        self._info = read_info(self.root)
        features = self._info["features"]
        available = [name for name, feature in features.items() if _is_camera(feature)]
        unread = {name: feature for name, feature in features.items() if name not in available and _is_picture(feature)}
        for name in cameras or (unread if not available else ()):
            if name in unread:
                raise _unreadable(self.root, name, unread[name])
        if not available:
            fix = "give a camera: a feature with dtype video"
            raise malformed(self.root, INFO, "features", list(features), fix)
        if cameras is None:
            self.cameras = order_cameras(available)[:MAX_VIEWS]
        else:
            self.cameras = find_cameras(cameras, available, self._name)
        if not isinstance(self._info.get("video_path"), str):
            fix = "give the pattern of the videos' paths"
            raise malformed(self.root, INFO, "video_path", self._info.get("video_path"), fix)
        self.frames_per_second = float(self._info["fps"])
        rows = read_rows(self.root, self._info, self.cameras)
        self.left_out = {episode_name(row.index): row.length for row in rows if row.length < 2}
        self._rows = {episode_name(row.index): row for row in rows if row.length >= 2}
        self.notes = tuple(self._notes(available, unread))

    def _notes(self, available: Sequence[str], unread: dict[str, dict[str, Any]]) -> Iterator[str]:
        """Notes for the user on how the dataset is read, one line each."""
        yield describe_cameras(self._name, self.cameras, available)
        for name, feature in unread.items():
            yield f"{self._name}: {name} is not read ({_kind(feature)}): only colour cameras stored as videos are"
        if self.left_out:
            yield describe_left_out(self._name, [f"{name} ({length})" for name, length in self.left_out.items()])

    @property
    def count(self) -> int:
        """Number of episodes, including those in `left_out`."""
        return len(self._rows) + len(self.left_out)

    @property
    def columns(self) -> frozenset[str]:
        """Names of the dataset's features."""
        return frozenset(self._info["features"])

    def episodes(self) -> list[EpisodeInfo]:
        """See EpisodeSource. Episodes in `left_out` (names with lengths) are not included.

        Sub-tasks come from the column `subtask_index`, outcomes from `next.success`, if present.
        """
        return list(self._episodes.values())

    def episode(self, episode_id: str) -> EpisodeInfo:
        """Metadata of one episode. Raises EpisodeError or BadInput."""
        self._row(episode_id)
        return self._episodes[episode_id]

    @cached_property
    def _episodes(self) -> dict[str, EpisodeInfo]:
        labels, outcomes = self._values_by_episode(SUBTASK), self._values_by_episode(SUCCESS)
        words = self._words(SUBTASKS, "subtask", SUBTASK) if labels else {}
        return {
            name: self._episode(name, row, labels.get(row.index), words, outcomes.get(row.index, [None])[-1])
            for name, row in self._rows.items()
        }

    def frames(
        self, episode_id: str, frame_ids: NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """See EpisodeSource; the cameras are decoded in parallel."""
        row, ids = self._row(episode_id), np.asarray(frame_ids, np.int64)
        if not len(ids) or ids[0] < 0 or ids[-1] >= row.length or (np.diff(ids) <= 0).any():
            raise EpisodeError(f"{episode_id}: frame_ids", ids, f"give increasing ids from 0 to {row.length - 1}")

        def decode(video: VideoSpan) -> NDArray[np.uint8]:
            times = video.start_s + ids / self.frames_per_second
            try:
                tolerance = TIME_TOLERANCE / self.frames_per_second
                return np.stack(pictures_at(self.root / video.path, times, tolerance, size))
            except ValueError as error:
                fix = f"give a readable video with all frames ({error})"
                raise EpisodeError(f"{episode_id}: video", str(self.root / video.path), fix) from error

        with ThreadPoolExecutor(len(row.videos)) as threads:
            views = list(threads.map(decode, row.videos))
        if len({view.shape for view in views}) > 1:
            shapes = dict(zip(self.cameras, (view.shape[1:3] for view in views), strict=True))
            raise malformed(self.root, "videos", f"{episode_id}: picture size", shapes, "give a `size`")
        return np.stack(views, axis=1)

    def videos(self, episode_id: str) -> tuple[Path, ...]:
        """The video files of an episode, one per camera; they may contain other episodes."""
        return tuple(self.root / video.path for video in self._row(episode_id).videos)

    def clips(self, episode_id: str) -> tuple[Clip, ...]:
        """The parts of the video files that show an episode, one per camera."""
        return tuple(Clip(self.root / video.path, video.start_s) for video in self._row(episode_id).videos)

    def column(self, episode_id: str, name: str) -> NDArray[Any]:
        """A column of the data, one entry per frame of an episode. Raises EpisodeError."""
        row = self._row(episode_id)
        values = read_table(self.root, row.data, ("frame_index", name), episode_index=row.index)
        order = np.argsort(np.array(values["frame_index"], np.float64), kind="stable")
        if len(order) != row.length:
            fix = f"give one for each of {row.length} frames"
            raise malformed(self.root, row.data, f"{episode_id}: rows", len(order), fix)
        return np.array(values[name])[order]

    def _row(self, episode_id: str) -> EpisodeRow:
        if episode_id in self.left_out:
            raise too_short(self.root, episode_id, self.left_out[episode_id])
        if episode_id not in self._rows:
            raise BadInput("episode_id", episode_id, f"name one of the {len(self._rows)} episodes of {self._name}")
        return self._rows[episode_id]

    def _episode(
        self, name: str, row: EpisodeRow, labels: Sequence[int | None] | None, words: dict[int, str], success: Any
    ) -> EpisodeInfo:
        if success is not None and not isinstance(success, bool):
            raise malformed(self.root, row.data, f"{name}.{SUCCESS}", success, "give true or false in the last row")
        invalid = [label for label in labels or () if label is not None and not isinstance(label, int | float)]
        if invalid:
            fix = "give the number of a sub-task, or null"
            raise malformed(self.root, row.data, f"{name}.{SUBTASK}", invalid[0], fix)
        annotation = None if labels is None else segments(labels)
        keyframes, stages = annotation or (np.array([0, row.length - 1], np.int64), ())
        if annotation is not None:
            unknown = [index for index in stages if not isinstance(words.get(index), str)]
            if unknown:
                fix = f"name it in words, like {sorted(words)}"
                raise malformed(self.root, SUBTASKS, f"{name}.{SUBTASK}", unknown[0], fix)
            stage_names = tuple(words[index] for index in stages)
        else:
            stage_names = (*row.instructions, "")[:1]
        return EpisodeInfo(
            episode_id=name,
            instructions=row.instructions,
            frame_count=row.length,
            frames_per_second=self.frames_per_second,
            cameras=self.cameras,
            keyframes=keyframes,
            stages=stage_names,
            annotation=f"{self.root / row.data}: {name}.{SUBTASK}" if annotation else "",
            success=success,
        )

    def _values_by_episode(self, column: str) -> dict[int, list[Any]]:
        """The values of a column by episode_index, one per frame, from all data files; empty without such a column."""
        if column not in self._info["features"]:
            return {}
        values: dict[int, list[Any]] = {row.index: [None] * row.length for row in self._rows.values()}
        for path in sorted({row.data for row in self._rows.values()}):
            columns = read_table(self.root, path, ("episode_index", "frame_index", column))
            for episode, frame, value in zip(*columns.values(), strict=True):
                if not is_number(frame):
                    raise malformed(self.root, path, "frame_index", frame, "number the frames of each episode from 0")
                if episode in values and 0 <= frame < len(values[episode]):
                    values[episode][int(frame)] = value
        return values

    def _words(self, path: str, word: str, index: str) -> dict[int, str]:
        """The words of a table by index. The words are the table's pandas index, which may have any name."""
        try:
            names = column_names(self.root / path)
        except DAMAGED as error:
            raise unreadable_table(self.root, path, error) from error
        column = word if word in names else "__index_level_0__"
        columns = read_table(self.root, path, (index, column))
        return dict(zip(columns[index], columns[column], strict=True))


def segments(labels: Sequence[int | None]) -> tuple[NDArray[np.int64], tuple[int, ...]] | None:
    """Segment an episode where its sub-task changes.

    Args:
        labels: F sub-task indices; negative or None without one. Such frames at the start and end are outside the
            keyframes; in between they belong to the previous sub-task.
    Returns:
        keyframes int64 [N+1] and the N segments' sub-tasks. Segment i ends where segment i + 1 begins; a sub-task that
        begins at the last frame has no segment. None if fewer than two frames have a sub-task.
    """
    labelled = [(frame, label) for frame, label in enumerate(labels) if label is not None and label >= 0]
    if len(labelled) < 2:
        return None
    last = labelled[-1][0]
    keyframes, stages = [labelled[0][0]], [labelled[0][1]]
    for frame, label in labelled[1:]:
        if label != stages[-1] and frame < last:
            keyframes.append(frame)
            stages.append(label)
    return np.array([*keyframes, last], np.int64), tuple(stages)


def _is_camera(feature: dict[str, Any]) -> bool:
    info: dict[str, Any] = {}
    for name in ("video_info", "info"):
        info |= feature[name] if isinstance(feature.get(name), dict) else {}
    depth = info.get("is_depth_map", False) or info.get("video.is_depth_map", False)
    return feature["dtype"] == "video" and not depth


def _is_picture(feature: dict[str, Any]) -> bool:
    return feature["dtype"] in ("image", "video")


def _kind(feature: dict[str, Any]) -> str:
    return "dtype image" if feature["dtype"] == "image" else "a depth camera"


def _unreadable(root: Path, name: str, feature: dict[str, Any]) -> EpisodeError:
    if feature["dtype"] == "image":
        fix = "cameras stored as images are not read: store this camera as a video (in LeRobot: use_videos=True)"
        return malformed(root, INFO, f"features.{name}.dtype", "image", fix)
    return malformed(root, INFO, f"features.{name}", "a depth camera", "depth is not read: choose a colour camera")
