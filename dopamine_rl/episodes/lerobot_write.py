"""Writing of LeRobotDataset v3.0 from any source of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.lerobot import ACTION, INFO, STATE, SUBTASK, SUBTASKS, SUCCESS, TASKS, VERSION
from dopamine_rl.episodes.lerobot_columns import SCALAR
from dopamine_rl.episodes.lerobot_stats import STATS, column_statistics
from dopamine_rl.episodes.lerobot_videos import VIDEO_PATH, DatasetVideos
from dopamine_rl.episodes.listing import check_instructions
from dopamine_rl.episodes.motion import Motion
from dopamine_rl.episodes.parquet import write_columns
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.files import write_folder_atomically, write_json
from dopamine_rl.interfaces import EpisodeSource, OnProgress, no_progress
from dopamine_rl.types import EpisodeInfo

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
CAMERA = "observation.images."
"""LeRobot's prefix of camera features."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "timestamp": SCALAR,
    **{name: {**SCALAR, "dtype": "int64"} for name in ("frame_index", "episode_index", "index", "task_index")},
}
"""Columns of every dataset."""


def write_dataset(
    root: Path,
    source: EpisodeSource,
    episodes_per_file: int = 100,
    lossless: bool = False,
    copy: bool = True,
    on_progress: OnProgress = no_progress,
    instruction: str = "",
) -> list[str]:
    """Write the episodes of any source as a dataset, atomically and with few frames in memory.

    It contains videos, tasks (the first instruction of an episode), sub-tasks if every episode is annotated,
    `next.success` if any outcome is known, `observation.state` and `action` if the source knows them at every frame of
    every episode, and LeRobot's statistics; no true progress.

    Args:
        root: the dataset's folder; must not exist.
        source: of at least one episode; all with the same cameras, image sizes and rate.
        episodes_per_file: most episodes per data or video file.
        lossless: encode videos as lossless RGB, which takes more space and which some players do not support.
        copy: copy video streams where the source has files (`clips`) and they permit it; else encode all.
        on_progress: called with the number of frames written.
        instruction: the task of episodes that name none.
    Returns:
        The episode names of the source, in the order of their new numbers.
    Raises:
        BadInput: the folder exists, there is no episode, cameras or rates differ, or camera names collide.
        EpisodeError: an episode has no task.
    """
    given = (instruction.strip(),) if instruction.strip() else ()
    episodes = [replace(info, instructions=info.instructions or given) for info in source.episodes()]
    if root.exists():
        raise _taken(root)
    if not episodes:
        raise BadInput("source", [], "give at least one episode")
    _check_alike(episodes)
    check_instructions(episodes, "give it with --instruction")
    cameras = feature_names(episodes[0].cameras)
    rate = Fraction(episodes[0].frames_per_second).limit_denominator(1001)
    motions = _motions(source, episodes)

    def fill(folder: Path) -> None:
        videos = DatasetVideos(folder, source, episodes, cameras, rate, episodes_per_file, lossless, copy)
        _Writer(folder, episodes, rate, videos, episodes_per_file, on_progress, motions).write()

    try:
        write_folder_atomically(root, fill, replace=False)
    except FileExistsError as error:
        if not root.exists():
            raise
        raise _taken(root) from error
    return [info.episode_id for info in episodes]


def _taken(root: Path) -> BadInput:
    return BadInput("OUT", str(root), "it already exists: give a new folder")


def _check_alike(episodes: Sequence[EpisodeInfo]) -> None:
    """Raise EpisodeError for the first episode whose cameras or rate differ from those of the first one."""
    first = episodes[0]
    for info in episodes[1:]:
        if info.cameras != first.cameras:
            fix = f"give episodes of the same cameras: {first.episode_id} has {', '.join(first.cameras)}"
            raise EpisodeError(f"{info.episode_id}: cameras", ", ".join(info.cameras), fix)
        if info.frames_per_second != first.frames_per_second:
            fix = f"give episodes of the same frame rate: {first.episode_id} has {first.frames_per_second:g}"
            raise EpisodeError(f"{info.episode_id}: frames per second", info.frames_per_second, fix)


def _motions(source: EpisodeSource, episodes: Sequence[EpisodeInfo]) -> list[Motion]:
    """What the robot measured and did in each episode; none where that is not known of all, or differs in kind."""
    read = getattr(source, "motion", None)
    motions = [read(info.episode_id) if read else None for info in episodes]
    known = [motion for motion in motions if motion is not None]
    return known if len(known) == len(episodes) and len({motion.kind for motion in known}) == 1 else []


def feature_names(cameras: Sequence[str]) -> dict[str, str]:
    """The feature name of each camera: the name in its original dataset, else observation.images.CAMERA.

    Raises:
        BadInput: a name is not a valid folder name, or two are the same.
    """
    names = {camera: camera if camera.startswith("observation.") else CAMERA + camera for camera in cameras}
    for camera, name in names.items():
        if not camera or set(name) & set("/\\\0") or list(names.values()).count(name) > 1 or len(names) < len(cameras):
            raise BadInput("cameras", camera, "give every camera a unique name without a slash")
    return names


class _Writer:
    """Writes a dataset's tables; see `write_dataset`."""

    def __init__(
        self,
        root: Path,
        episodes: list[EpisodeInfo],
        rate: Fraction,
        videos: DatasetVideos,
        per_file: int,
        on_progress: OnProgress,
        motions: Sequence[Motion],
    ) -> None:
        self._root, self._episodes, self._rate, self._videos, self._per_file = root, episodes, rate, videos, per_file
        self._on_progress, self._motions = on_progress, motions
        self._starts = np.cumsum([0, *(info.frame_count for info in episodes)]).tolist()
        self._tasks = {task: i for i, task in enumerate(dict.fromkeys(info.instructions[0] for info in episodes))}
        annotated = all(info.annotation for info in episodes)
        stages = dict.fromkeys(stage for info in episodes for stage in info.stages) if annotated else {}
        self._subtasks = {stage: i for i, stage in enumerate(stages)}
        self._has_outcome = any(info.success is not None for info in episodes)

    def write(self) -> None:
        tables = [self._table(number, info) for number, info in enumerate(self._episodes)]
        try:
            rows = [self._row(number, info, tables[number]) for number, info in enumerate(self._episodes)]
        finally:
            self._videos.close()
        for file, start in enumerate(range(0, len(tables), self._per_file)):
            self._write_data(
                self._root / DATA_PATH.format(**_file_indices(file)), tables[start : start + self._per_file]
            )
        columns = dict.fromkeys(name for row in rows for name in row)
        (self._root / EPISODES_PATH).parent.mkdir(parents=True)
        write_columns(self._root / EPISODES_PATH, {name: [row.get(name) for row in rows] for name in columns})
        self._write_task_tables()
        whole = {name: column_statistics(np.concatenate([table[name] for table in tables])) for name in tables[0]}
        statistics = {name: figures for name, figures in whole.items() if figures}
        write_json(self._root / STATS, {**self._videos.totals(), **statistics})
        write_json(self._root / INFO, self._info())

    def _row(self, number: int, info: EpisodeInfo, table: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Write the episode's videos, and return its row of `meta/episodes`."""
        start, end, total = self._starts[number], self._starts[number + 1], self._starts[-1]

        def report(done: int) -> None:
            self._on_progress(f"{start + done} of {total} frames", start + done == total)

        pictures = self._videos.write(number, report)
        figures = {**pictures, **{name: column_statistics(values) for name, values in table.items()}}
        row = {"episode_index": number, "tasks": list(info.instructions[:1]), "length": info.frame_count}
        row |= {f"data/{name}": value for name, value in _file_indices(number // self._per_file).items()}
        row |= {"dataset_from_index": start, "dataset_to_index": end, **self._videos.row(number)}
        for name, statistics in figures.items():
            row |= {f"stats/{name}/{key}": value for key, value in (statistics or {}).items()}
        return {**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}

    def _table(self, number: int, info: EpisodeInfo) -> dict[str, NDArray[Any]]:
        """The columns of an episode's frames."""
        frames = np.arange(info.frame_count)
        table: dict[str, NDArray[Any]] = {
            "timestamp": (frames / float(self._rate)).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(len(frames), number),
            "index": frames + self._starts[number],
            "task_index": np.full(len(frames), self._tasks[info.instructions[0]]),
        }
        if self._motions:
            table[STATE], table[ACTION] = self._motions[number].states, self._motions[number].actions
        if self._subtasks:
            table[SUBTASK] = self._labels(info)
        if self._has_outcome:
            table[SUCCESS] = np.array(_successes(info), object)
        return table

    def _labels(self, info: EpisodeInfo) -> NDArray[np.int64]:
        """Sub-task of each frame: a segment includes its first keyframe; −1 outside all segments."""
        ids = np.arange(info.frame_count)
        segment = np.searchsorted(info.keyframes, ids, side="right") - 1
        segment = np.where(ids == info.keyframes[-1], len(info.stages) - 1, segment)
        subtasks = np.array([self._subtasks[stage] for stage in info.stages], np.int64)
        inside = (segment >= 0) & (segment < len(subtasks))
        return np.where(inside, subtasks[np.clip(segment, 0, len(subtasks) - 1)], -1)

    def _write_data(self, path: Path, tables: list[dict[str, NDArray[Any]]]) -> None:
        import pyarrow as pa

        joined: dict[str, Any] = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        if self._has_outcome:
            joined[SUCCESS] = pa.array(joined[SUCCESS].tolist(), pa.bool_())
        for name in (STATE, ACTION) if self._motions else ():
            joined[name] = pa.array(list(joined[name]), pa.list_(pa.float32()))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_columns(path, joined)

    def _write_task_tables(self) -> None:
        columns = {"task_index": list(self._tasks.values()), "task": list(self._tasks)}
        write_columns(self._root / TASKS, columns, index="task")
        if self._subtasks:
            columns = {SUBTASK: list(self._subtasks.values()), "subtask": list(self._subtasks)}
            write_columns(self._root / SUBTASKS, columns, index="subtask")

    def _info(self) -> dict[str, Any]:
        rate, count = float(self._rate), len(self._episodes)
        features = dict(self._videos.features)
        if self._motions:
            first = self._motions[0]
            columns = ((STATE, first.states, first.state_names), (ACTION, first.actions, first.action_names))
            for name, values, names in columns:
                features[name] = {"dtype": "float32", "shape": [values.shape[1]], "names": list(names) or None}
        if self._subtasks:
            features[SUBTASK] = DEFAULTS["task_index"]
        if self._has_outcome:
            features[SUCCESS] = {**SCALAR, "dtype": "bool"}
        return {
            "codebase_version": VERSION,
            "robot_type": None,
            "total_episodes": count,
            "total_frames": self._starts[-1],
            "total_tasks": len(self._tasks),
            "chunks_size": 1000,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": int(rate) if rate.is_integer() else rate,
            "splits": {"train": f"0:{count}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": {**features, **DEFAULTS},
        }


def _file_indices(file: int) -> dict[str, int]:
    return {"chunk_index": file // 1000, "file_index": file % 1000}


def _successes(info: EpisodeInfo) -> list[bool | None]:
    """`next.success` of each frame: true in the last frame of a success, null if the outcome is unknown."""
    return [None if info.success is None else False] * (info.frame_count - 1) + [info.success]
