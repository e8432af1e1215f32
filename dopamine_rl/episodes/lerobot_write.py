"""LeRobotDataset v3.0, written: a progress column beside the frames of a dataset, and whole datasets from any source."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.lerobot import (
    INFO,
    SUBTASK,
    SUBTASKS,
    SUCCESS,
    TASKS,
    VERSION,
    LeRobotSource,
    episode_name,
    read_info,
)
from dopamine_rl.episodes.parquet import rewrite, write_columns
from dopamine_rl.episodes.video import VideoWriter
from dopamine_rl.errors import BadInput
from dopamine_rl.files import finish_replacing, replace_together, write_folder_atomically
from dopamine_rl.interfaces import EpisodeSource
from dopamine_rl.types import EpisodeInfo

if TYPE_CHECKING:
    import pyarrow as pa

STATS = "meta/stats.json"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
SCALAR = {"dtype": "float32", "shape": [1], "names": None}
DEFAULTS: dict[str, dict[str, Any]] = {
    "timestamp": SCALAR,
    **{name: {**SCALAR, "dtype": "int64"} for name in ("frame_index", "episode_index", "index", "task_index")},
}
"""The columns that every dataset has."""
PROGRESS = {**SCALAR, "written_by": "dopamine-rl"}
"""What `meta/info.json` says of a progress column; by it a column is told from one that somebody else wrote."""
FRAMES_AT_ONCE = 64
"""Pictures of each camera held in memory while a dataset is written."""


def write_progress(
    root: Path, progress: Mapping[str, NDArray[np.float32]], column: str = "progress", overwrite: bool = False
) -> None:
    """Write progress as a float32 column of a dataset: a value for every frame, NaN where there is none.

    Data files, `meta/info.json` and, where there are any, the figures of `meta/stats.json` change together or not at
    all. Videos and the other columns stay as they are; `remove_progress` takes the column out again.

    Args:
        root: the dataset's folder. Nobody else may be writing to it.
        progress: for each episode, by its name of LeRobotSource, float32 [frames] in [0, 1] or NaN. Episodes that are
            left out keep what the column holds of them, or get NaN.
        column: its name.
        overwrite: write to a column that an earlier call wrote.
    Raises:
        BadInput: an unknown episode, wrong lengths or values; otherwise as `check_column`.
    """
    finish_replacing(root)
    source = LeRobotSource(root)
    lengths = {info.episode_id: info.frame_count for info in source.episodes()}
    for name, values in progress.items():
        if name not in lengths or np.shape(values) != (lengths[name],):
            raise BadInput(f"progress[{name}]", np.shape(values), f"give [{lengths.get(name)}] for an episode listed")
        if not np.all(np.isnan(values) | ((values >= 0.0) & (values <= 1.0))):
            raise BadInput(f"progress[{name}]", values, "give values in [0, 1], or NaN")
    check_column(root, column, overwrite)
    info = read_info(root)

    def values_of(table: pa.Table) -> NDArray[np.float32]:
        episodes, frames = (table.column(name).to_numpy() for name in ("episode_index", "frame_index"))
        values = np.full(len(episodes), np.nan, np.float32)
        if column in table.column_names:
            values = table.column(column).to_numpy().astype(np.float32)
        for index in np.unique(episodes).tolist():
            if episode_name(index) in progress:
                rows = episodes == index
                values[rows] = progress[episode_name(index)][frames[rows]]
        return values

    info["features"][column] = PROGRESS
    _replace(root, info, column, values_of)


def check_column(root: Path, column: str, overwrite: bool = False) -> None:
    """Raise BadInput where `write_progress` would not write a column: its name has a /, or the dataset has it already.

    Args:
        root, column: the dataset's folder, and the name.
        overwrite: it may be there where `write_progress` wrote it.
    """
    if not column or "/" in column:
        raise BadInput("column", column, "choose a name, without a /")
    there = read_info(root)["features"].get(column)
    if there is not None and not _is_ours(there):
        raise BadInput("column", column, f"{root} has a column of its own of this name: choose another name")
    if there is not None and not overwrite:
        raise BadInput("column", column, f"{root} has this column already: choose another name, or `overwrite` it")


def remove_progress(root: Path, column: str = "progress") -> None:
    """Take a column out again that `write_progress` wrote. Raises BadInput where it is not there, or no such column."""
    finish_replacing(root)
    info = read_info(root)
    if not _is_ours(info["features"].get(column, {})):
        raise BadInput("column", column, f"name a column of {root} that `write_progress` wrote")
    del info["features"][column]
    _replace(root, info, column, None)


def _is_ours(feature: Mapping[str, Any]) -> bool:
    return feature.get("written_by") == PROGRESS["written_by"]


_Values = Callable[["pa.Table"], NDArray[np.float32]]


def _replace(root: Path, info: dict[str, Any], column: str, values_of: _Values | None) -> None:
    written: list[NDArray[np.float32]] = []

    def noted(table: pa.Table) -> NDArray[np.float32]:
        assert values_of is not None
        written.append(values_of(table))
        return written[-1]

    def fill(stage: Path) -> None:
        for path in sorted((root / "data").glob("*/*.parquet")):
            to = stage / path.relative_to(root)
            to.parent.mkdir(parents=True, exist_ok=True)
            rewrite(path, to, column, None if values_of is None else noted)
        _write_json(stage / INFO, info)
        if (root / STATS).exists():
            stats = json.loads((root / STATS).read_text(encoding="utf-8"))
            stats.pop(column, None)
            _write_json(stage / STATS, {**stats, **_statistics(column, written)})

    replace_together(root, fill)


def _statistics(column: str, written: list[NDArray[np.float32]]) -> dict[str, Any]:
    """What `meta/stats.json` says of a column; nothing where it holds no value."""
    values = np.concatenate([np.zeros(0, np.float32), *written])
    values = values[~np.isnan(values)]
    if not len(values):
        return {}
    figures = {name: [float(getattr(values, name)())] for name in ("min", "max", "mean", "std")}
    return {column: {**figures, "count": [len(values)]}}


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf-8")


def write_dataset(root: Path, source: EpisodeSource, episodes_per_file: int = 100, lossless: bool = False) -> list[str]:
    """Write the episodes of any source as a dataset; it appears complete or not at all. A few frames are in memory.

    It holds pictures, tasks (an episode's first instruction), sub-tasks where every episode is annotated, and
    `next.success` where an outcome is known; no actions, no states, no true progress, no statistics.

    Args:
        root: the dataset's folder; a folder that is there is not replaced.
        source: of at least one episode; all with the same cameras, picture sizes and rate.
        episodes_per_file: data and video files hold so many episodes.
        lossless: keep RGB bit for bit, which takes more room and which some players do not show.
    Returns:
        The source's names of the episodes, in the order of their new numbers.
    Raises:
        BadInput: the folder is there, there is no episode, or cameras or rates differ.
    """
    episodes = list(source.episodes())
    if root.exists() or not episodes:
        raise BadInput("root", str(root), "name a folder that is not there yet, and a source with an episode")
    if len({(info.cameras, info.frames_per_second) for info in episodes}) > 1:
        raise BadInput("source", [info.cameras for info in episodes], "give episodes of the same cameras and rate")
    write_folder_atomically(root, _Writer(source, episodes, episodes_per_file, lossless).fill)
    return [info.episode_id for info in episodes]


class _Writer:
    def __init__(self, source: EpisodeSource, episodes: list[EpisodeInfo], per_file: int, lossless: bool) -> None:
        self._source, self._episodes, self._per_file, self._lossless = source, episodes, per_file, lossless
        first = episodes[0]
        self._cameras = {camera: f"observation.images.{camera.split('.')[-1]}" for camera in first.cameras}
        self._rate = Fraction(first.frames_per_second).limit_denominator(1001)
        self._tasks = {task: i for i, task in enumerate(dict.fromkeys(info.instructions[0] for info in episodes))}
        annotated = all(info.annotation for info in episodes)
        stages = dict.fromkeys(stage for info in episodes for stage in info.stages) if annotated else {}
        self._subtasks = {stage: i for i, stage in enumerate(stages)}
        self._judged = any(info.success is not None for info in episodes)

    def fill(self, root: Path) -> None:
        rows: list[dict[str, Any]] = []
        features: dict[str, Any] = {}
        for file, start in enumerate(range(0, len(self._episodes), self._per_file)):
            part = self._episodes[start : start + self._per_file]
            where = {"chunk_index": file // 1000, "file_index": file % 1000}
            first = rows[-1]["dataset_to_index"] if rows else 0
            new = list(self._index(part, len(rows), first, where))
            self._write_data(root / DATA_PATH.format(**where), part, new)
            features = self._write_videos(root, part, where)
            rows += new
        (root / "meta/episodes/chunk-000").mkdir(parents=True)
        write_columns(root / "meta/episodes/chunk-000/file-000.parquet", {name: [row[name] for row in rows] for name in rows[0]})  # fmt: skip
        write_columns(root / TASKS, {"task_index": list(self._tasks.values()), "task": list(self._tasks)}, index="task")
        if self._subtasks:
            columns = {SUBTASK: list(self._subtasks.values()), "subtask": list(self._subtasks)}
            write_columns(root / SUBTASKS, columns, index="subtask")
            features[SUBTASK] = DEFAULTS["task_index"]
        if self._judged:
            features[SUCCESS] = {**SCALAR, "dtype": "bool"}
        rate = float(self._rate)
        info = {
            "codebase_version": VERSION, "robot_type": None, "total_episodes": len(rows),
            "total_frames": rows[-1]["dataset_to_index"], "total_tasks": len(self._tasks), "chunks_size": 1000,
            "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "fps": int(rate) if rate.is_integer() else rate,
            "splits": {"train": f"0:{len(rows)}"}, "data_path": DATA_PATH, "video_path": VIDEO_PATH,
            "features": {**features, **DEFAULTS},
        }  # fmt: skip
        _write_json(root / INFO, info)

    def _index(
        self, part: list[EpisodeInfo], number: int, first: int, where: dict[str, int]
    ) -> Iterator[dict[str, Any]]:
        """The rows of `meta/episodes` for the episodes of one file."""
        begin = first
        for i, info in enumerate(part):
            end = first + info.frame_count
            row: dict[str, Any] = {"episode_index": number + i, "tasks": list(info.instructions[:1]), "length": info.frame_count}  # fmt: skip
            row |= {f"data/{name}": value for name, value in where.items()}
            row |= {"dataset_from_index": first, "dataset_to_index": end}
            for key in self._cameras.values():
                row |= {f"videos/{key}/{name}": value for name, value in where.items()}
                row[f"videos/{key}/from_timestamp"] = float((first - begin) / self._rate)
                row[f"videos/{key}/to_timestamp"] = float((end - begin) / self._rate)
            yield {**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
            first = end

    def _write_data(self, path: Path, part: list[EpisodeInfo], rows: list[dict[str, Any]]) -> None:
        import pyarrow as pa

        frames = [np.arange(info.frame_count) for info in part]
        columns: dict[str, list[NDArray[Any]]] = {
            "timestamp": [(ids / float(self._rate)).astype(np.float32) for ids in frames],
            "frame_index": frames,
            "episode_index": [np.full(len(ids), row["episode_index"]) for ids, row in zip(frames, rows, strict=True)],
            "index": [ids + row["dataset_from_index"] for ids, row in zip(frames, rows, strict=True)],
            "task_index": [np.full(len(ids), self._tasks[info.instructions[0]]) for ids, info in zip(frames, part, strict=True)],
        }  # fmt: skip
        if self._subtasks:
            columns[SUBTASK] = [self._labels(info) for info in part]
        joined: dict[str, Any] = {name: np.concatenate(values) for name, values in columns.items()}
        if self._judged:
            joined[SUCCESS] = pa.array([value for info in part for value in _successes(info)], pa.bool_())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_columns(path, joined)

    def _labels(self, info: EpisodeInfo) -> NDArray[np.int64]:
        """Sub-task of each frame: a segment's own frames begin with its keyframe; −1 outside all of them."""
        ids = np.arange(info.frame_count)
        place = np.searchsorted(info.keyframes, ids, side="right") - 1
        place = np.where(ids == info.keyframes[-1], len(info.stages) - 1, place)
        known = np.array([self._subtasks[stage] for stage in info.stages], np.int64)
        return np.where((place >= 0) & (place < len(known)), known[np.clip(place, 0, len(known) - 1)], -1)

    def _write_videos(self, root: Path, part: list[EpisodeInfo], where: dict[str, int]) -> dict[str, Any]:
        """Write the videos of one file, episode after episode; return the cameras' features."""
        features: dict[str, Any] = {}
        with ExitStack() as stack:
            writers: dict[str, VideoWriter] = {}
            for info in part:
                for begin in range(0, info.frame_count, FRAMES_AT_ONCE):
                    ids = np.arange(begin, min(begin + FRAMES_AT_ONCE, info.frame_count))
                    frames = self._source.frames(info.episode_id, ids)
                    for view, key in enumerate(self._cameras.values()):
                        if key not in writers:
                            features[key] = self._feature(frames.shape[2:])
                            path = root / VIDEO_PATH.format(video_key=key, **where)
                            path.parent.mkdir(parents=True, exist_ok=True)
                            writers[key] = stack.enter_context(VideoWriter(path, frames.shape[2:], self._rate, self._lossless))  # fmt: skip
                        for picture in frames[:, view]:
                            writers[key].add(picture)
        return features

    def _feature(self, shape: tuple[int, ...]) -> dict[str, Any]:
        about = {
            "video.height": shape[0], "video.width": shape[1], "video.codec": "h264",
            "video.pix_fmt": "gbrp" if self._lossless else "yuv420p", "video.is_depth_map": False,
            "video.fps": float(self._rate), "video.channels": 3, "has_audio": False,
        }  # fmt: skip
        return {"dtype": "video", "shape": list(shape), "names": ["height", "width", "channels"], "info": about}


def _successes(info: EpisodeInfo) -> list[bool | None]:
    """`next.success` of each frame: true in the last one of a success, null in an episode that nobody judged."""
    return [None if info.success is None else False] * (info.frame_count - 1) + [info.success]
