"""Files and folders that are either whole or absent."""

from __future__ import annotations

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


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to exactly `path`; given a name, numpy would append a suffix to it."""
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written below a folder. Nobody may be writing there."""
    for path in [path for path in folder.rglob(".*") if TEMPORARY.fullmatch(path.name)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
