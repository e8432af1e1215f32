"""Add a progress column to a LeRobotDataset v3.0, or remove it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.lerobot import INFO, LeRobotSource, episode_name, read_info
from dopamine_rl.episodes.lerobot_stats import STATS, column_statistics
from dopamine_rl.episodes.parquet import rewrite
from dopamine_rl.errors import BadInput
from dopamine_rl.files import changing, replace_together, write_json

if TYPE_CHECKING:
    import pyarrow as pa

SCALAR = {"dtype": "float32", "shape": [1], "names": None}
"""Feature in `meta/info.json` of a column with one number per frame."""
PROGRESS = {**SCALAR, "written_by": "dopamine-rl"}
"""Feature in `meta/info.json` of a progress column; `written_by` marks our columns."""


def write_progress(
    root: Path, progress: Mapping[str, NDArray[np.float32]], column: str = "progress", overwrite: bool = False
) -> None:
    """Write progress as a float32 column of a dataset: one value per frame, NaN if missing.

    Data files, `meta/info.json` and (if present) `meta/stats.json` change atomically together. Videos and other columns
    are not changed; `remove_progress` removes the column.

    Args:
        root: the dataset's folder; it is locked against other writers.
        progress: per episode name of LeRobotSource, float32 [frames] in [0, 1] or NaN. Other episodes keep their values
            of the column, or get NaN.
        column: name of the column.
        overwrite: allow a column that an earlier call wrote.
    Raises:
        BadInput: an unknown episode, wrong lengths or values; or as for `check_column`.
    """
    with changing(root):
        _check_progress(LeRobotSource(root), progress)
        check_column(root, column, overwrite)
        info = read_info(root)
        info["features"][column] = PROGRESS
        _replace(root, info, column, lambda table: _values(table, column, progress))


def _check_progress(source: LeRobotSource, progress: Mapping[str, NDArray[np.float32]]) -> None:
    lengths = {info.episode_id: info.frame_count for info in source.episodes()}
    for name, values in progress.items():
        if name not in lengths or np.shape(values) != (lengths[name],):
            raise BadInput(f"progress[{name}]", np.shape(values), f"give [{lengths.get(name)}] for an episode listed")
        if not np.all(np.isnan(values) | ((values >= 0.0) & (values <= 1.0))):
            raise BadInput(f"progress[{name}]", values, "give values in [0, 1], or NaN")


def _values(table: pa.Table, column: str, progress: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """The column's values for the rows of a table, float32: from `progress`, else the existing column, else NaN."""
    episodes, frames = (table.column(name).to_numpy() for name in ("episode_index", "frame_index"))
    values = np.full(len(episodes), np.nan, np.float32)
    if column in table.column_names:
        values = table.column(column).to_numpy().astype(np.float32)
    for index in np.unique(episodes).tolist():
        if episode_name(index) in progress:
            rows = episodes == index
            values[rows] = progress[episode_name(index)][frames[rows]]
    return values


def check_column(root: Path, column: str, overwrite: bool = False) -> None:
    """Raise BadInput if `write_progress` would refuse a column: its name has a /, or the dataset already has it.

    Args:
        root, column: the dataset's folder, and the name.
        overwrite: allow a column that `write_progress` wrote.
    """
    if not column or "/" in column:
        raise BadInput("column", column, "choose a name, without a /")
    feature = read_info(root)["features"].get(column)
    if feature is not None and not _is_ours(feature):
        raise BadInput("column", column, f"{root} has a column of its own of this name: choose another name")
    if feature is not None and not overwrite:
        raise BadInput("column", column, f"{root} has this column already: choose another name, or `overwrite` it")


def remove_progress(root: Path, column: str = "progress") -> None:
    """Remove a column that `write_progress` wrote. Raises BadInput if there is no such column."""
    with changing(root):
        info = read_info(root)
        if not _is_ours(info["features"].get(column, {})):
            raise BadInput("column", column, f"name a column of {root} that `write_progress` wrote")
        del info["features"][column]
        _replace(root, info, column, None)


def _is_ours(feature: Mapping[str, Any]) -> bool:
    return feature.get("written_by") == PROGRESS["written_by"]


_ValuesOf = Callable[["pa.Table"], NDArray[np.float32]]


def _replace(root: Path, info: dict[str, Any], column: str, values_of: _ValuesOf | None) -> None:
    written: list[NDArray[np.float32]] = []

    def write_values(table: pa.Table) -> NDArray[np.float32]:
        assert values_of is not None
        written.append(values_of(table))
        return written[-1]

    def fill(stage: Path) -> None:
        for path in sorted((root / "data").glob("[!.]*/[!.]*.parquet")):
            to = stage / path.relative_to(root)
            to.parent.mkdir(parents=True, exist_ok=True)
            rewrite(path, to, column, None if values_of is None else write_values)
        write_json(stage / INFO, info)
        if (root / STATS).exists():
            stats = json.loads((root / STATS).read_text(encoding="utf-8"))
            stats.pop(column, None)
            statistics = column_statistics(np.concatenate([np.zeros(0, np.float32), *written]))
            write_json(stage / STATS, {**stats, **({column: statistics} if statistics else {})})

    replace_together(root, fill)
