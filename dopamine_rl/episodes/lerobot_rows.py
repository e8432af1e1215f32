"""The rows of meta/episodes of a LeRobotDataset, validated, with the paths of data and videos."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dopamine_rl.episodes.parquet import DAMAGED, NoColumn, read_columns
from dopamine_rl.errors import EpisodeError
from dopamine_rl.texts import missing_key

INFO, EPISODES = "meta/info.json", "meta/episodes"
FILE, SPAN = ("chunk_index", "file_index"), ("from_timestamp", "to_timestamp")
"""Fields of a row, for the data and each camera: the file, and the time span in the video."""


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """The part of a camera's video that shows an episode.

    Args:
        path: relative to the dataset's folder.
        start_s, end_s: on the video's clock.
    """

    path: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """The location of an episode.

    Args:
        index: episode_index.
        instructions: its tasks in words; may be empty.
        length: number of frames; if below two, the other fields are not read.
        data: path of the file with its rows, relative to the dataset's folder.
        videos: one per camera.
    """

    index: int
    instructions: tuple[str, ...]
    length: int
    data: str
    videos: tuple[VideoSpan, ...]


def episode_name(index: int) -> str:
    """The name of an episode; the format only numbers them."""
    return f"episode_{index:06d}"


def read_rows(root: Path, info: Mapping[str, Any], cameras: Sequence[str]) -> list[EpisodeRow]:
    """The rows of all episodes, sorted by number.

    Args:
        root: the dataset's folder.
        info: content of its `meta/info.json`.
        cameras: features of the cameras to read.
    Raises:
        EpisodeError: naming dataset, file and field; also if no episode has two frames.
    """
    # Names that begin with a dot are incomplete files, or metadata files of macOS.
    files = sorted((root / EPISODES).glob("[!.]*/[!.]*.parquet"))
    if not files:
        raise malformed(root, EPISODES, "files", [], "give chunk-000/file-000.parquet with one row per episode")
    rows = [row for path in files for row in _rows_of(root, path.relative_to(root).as_posix(), info, cameras)]
    rows.sort(key=lambda row: row.index)
    numbers = [row.index for row in rows]
    if numbers != list(range(len(rows))):
        raise malformed(root, EPISODES, "episode_index", numbers, "number them from 0")
    if not rows:
        raise malformed(root, EPISODES, "rows", [], "give a row for each episode")
    if all(row.length < 2 for row in rows):
        raise too_short(root, episode_name(0), rows[0].length)
    return rows


def _rows_of(root: Path, path: str, info: Mapping[str, Any], cameras: Sequence[str]) -> list[EpisodeRow]:
    names = ["episode_index", "length", "tasks", *(f"data/{name}" for name in FILE)]
    names += [f"videos/{camera}/{name}" for camera in cameras for name in (*FILE, *SPAN)]
    columns = read_table(root, path, names)
    return [
        _to_row(root, path, dict(zip(columns, values, strict=True)), info, cameras)
        for values in zip(*columns.values(), strict=True)
    ]


def _to_row(root: Path, path: str, row: dict[str, Any], info: Mapping[str, Any], cameras: Sequence[str]) -> EpisodeRow:
    if not _is_count(row["episode_index"]):
        raise malformed(root, path, "episode_index", row["episode_index"], "give whole numbers of at least 0")
    name = episode_name(int(row["episode_index"]))
    words = row["tasks"] if isinstance(row["tasks"], list) else [row["tasks"]]
    instructions = tuple(text.strip() for text in words if isinstance(text, str) and text.strip())
    if not _is_count(row["length"]):
        raise malformed(root, path, f"{name}.length", row["length"], "give a number of frames")
    length = int(row["length"])
    if length < 2:
        return EpisodeRow(int(row["episode_index"]), instructions, length, "", ())
    for field, value in row.items():
        whole = field.rpartition("/")[2] in FILE
        if field != "tasks" and not (_is_count(value) if whole else is_number(value)):
            raise malformed(root, path, f"{name}.{field}", value, "give a number")
    rate = float(info["fps"])
    videos = tuple(_span(root, path, row, info, camera, (length - 1) / rate) for camera in cameras)
    data = _path(root, info, "data_path", **{field: int(row[f"data/{field}"]) for field in FILE})
    return EpisodeRow(int(row["episode_index"]), instructions, length, data, videos)


def _span(
    root: Path, path: str, row: dict[str, Any], info: Mapping[str, Any], camera: str, duration_s: float
) -> VideoSpan:
    start, end = (float(row[f"videos/{camera}/{field}"]) for field in SPAN)
    if start < 0 or end < start + duration_s:
        last = f"{start + duration_s:.4f} s"
        fix = f"its {row['length']} frames begin at {start} s; the last one is shown at {last}"
        field = f"{episode_name(int(row['episode_index']))}.videos/{camera}/to_timestamp"
        raise malformed(root, path, field, end, fix)
    numbers = {field: int(row[f"videos/{camera}/{field}"]) for field in FILE}
    return VideoSpan(_path(root, info, "video_path", video_key=camera, **numbers), start, end)


def _path(root: Path, info: Mapping[str, Any], pattern: str, **values: Any) -> str:
    """Fill in a path pattern of `meta/info.json`; the path must be inside the dataset's folder.

    Symbolic links are followed, since dataset caches consist of them.
    """
    text = info[pattern]
    try:
        for _, field, form, _ in string.Formatter().parse(
            text
        ):  # format() would allow attribute access and huge widths
            if field is not None and (field not in values or not re.fullmatch(r"\d{0,2}d?", form or "")):
                raise ValueError(f"{{{field}:{form}}}")
        path = PurePosixPath(str(text.format(**values)))
    except (KeyError, ValueError, IndexError) as error:
        raise malformed(root, INFO, pattern, text, "use {chunk_index}, {file_index}, {video_key}") from error
    if path.is_absolute() or ".." in path.parts or "\\" in str(path) or "\0" in str(path):
        fix = f"give paths below the dataset's folder; this one gives {path}"
        raise malformed(root, INFO, pattern, text, fix)
    return path.as_posix()


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    """Whether a value is a whole number ≥ 0; pandas writes whole numbers as floats if a column has gaps."""
    return is_number(value) and value >= 0 and value == int(value)


def too_short(root: Path, name: str, length: int) -> EpisodeError:
    """The error about an episode that is too short."""
    fix = "an episode needs at least 2 frames: choose another one, or record this one again"
    return malformed(root, EPISODES, f"{name}.length", length, fix)


def read_table(root: Path, path: str, names: Sequence[str], **equal_to: int) -> dict[str, list[Any]]:
    """`read_columns` of a dataset's file. Raises EpisodeError."""
    try:
        return read_columns(root / path, names, **equal_to)
    except NoColumn as error:
        raise malformed(
            root, path, error.names[0], "missing", missing_key(error.names[0], error.found, names)
        ) from error
    except DAMAGED as error:
        raise unreadable_table(root, path, error) from error


def unreadable_table(root: Path, path: str, error: Exception) -> EpisodeError:
    """The error about a dataset's file that is not a parquet file."""
    if isinstance(error, FileNotFoundError):
        return malformed(root, path, "file", "missing", "copy the dataset again")
    reason = str(error).strip().partition("\n")[0]
    return malformed(root, path, "content", reason, "this is no readable parquet file: copy the dataset again")


def malformed(root: Path, file: str, field: str, value: object, fix: str) -> EpisodeError:
    """The error about a field in a file of a dataset; it names the path as `root` was given."""
    return EpisodeError(f"{root / file}: {field}", value, fix)
