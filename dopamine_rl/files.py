"""Files and folders that are either whole or absent."""

from __future__ import annotations

import hashlib
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}(\.\w+)?")
"""Names of what is not whole yet; nothing here reads a file whose name begins with a dot."""

PENDING = ".pending"
"""Holds files that are to be put in place together, from the moment that all of them are complete."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` make a temporary file beside `path`, then rename it to `path`.

    A process killed in between leaves the previous file untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        write(temporary)
        return temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_folder_atomically(folder: Path, fill: Callable[[Path], object]) -> Path:
    """Let `fill` write into a temporary folder beside `folder`, then rename it; an existing `folder` is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, replaced = _beside(folder), _beside(folder)
    temporary.mkdir()
    try:
        fill(temporary)
        if folder.exists():
            folder.replace(replaced)
        return temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def replace_together(root: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write files below a staging folder, then put each in the place of its namesake below `root`.

    Killed before everything is staged, nothing has changed; killed after that, `finish_replacing` does the rest, and
    `PENDING` is there until it has.
    """
    finish_replacing(root)
    stage = _beside(root / "staged")
    stage.mkdir()
    try:
        fill(stage)
        stage.rename(root / PENDING)  # from here on it happens
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    finish_replacing(root)


def finish_replacing(root: Path) -> None:
    """Put the files in place that an interrupted `replace_together` had staged; there may be none."""
    pending = root / PENDING
    if not pending.exists():
        return
    for path in sorted(path for path in pending.rglob("*") if path.is_file()):
        place = root / path.relative_to(pending)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
    shutil.rmtree(pending)


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to exactly `path`; given a name, numpy would append a suffix to it."""
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def fingerprint(depends_on: object) -> str:
    """16 hexadecimal digits that change with the repr of an object (dataclasses, numbers, strings, tuples of these)."""
    return hashlib.sha256(repr(depends_on).encode()).hexdigest()[:16]


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written below a folder. Nobody may be writing there."""
    for path in [path for path in folder.rglob(".*") if TEMPORARY.fullmatch(path.name)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
