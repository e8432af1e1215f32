"""Files and folders that are either whole or absent."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}(\.\w+)?")
"""Names of what is not whole yet; nothing here reads a file whose name begins with a dot."""

PENDING = ".pending"
"""Holds files that are to be put in place together, from the moment that all of them are complete."""

LOCK = ".lock"
"""Is there while a process changes a folder's files; the operating system ends the lock with the process."""


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


def write_folder_atomically(folder: Path, fill: Callable[[Path], object], replace: bool = True) -> Path:
    """Let `fill` write into a temporary folder beside `folder`, then rename it.

    Args:
        replace: replace a folder that is there.
    Raises:
        FileExistsError: it is there, and not to be replaced. It may have appeared in the meantime.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, replaced = _beside(folder), _beside(folder)
    temporary.mkdir()
    try:
        fill(temporary)
        if replace and folder.exists():
            folder.replace(replaced)
        try:
            return temporary.rename(folder)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder)) from error
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def changing(root: Path, timeout_s: float = 600.0) -> Iterator[None]:
    """Be the only one that changes the files of a folder: other threads, processes and machines wait for their turn.

    First a change that was interrupted is completed or taken back. The lock is the kernel's: it ends with its process,
    however that ends, and NFS passes it on to the server.

    Raises:
        BadInput: the folder cannot be locked, or others have been changing it for `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while (file := _lock(root)) is None:
        if time.monotonic() >= deadline:
            raise BadInput("folder", str(root), f"another process has been writing to it for {timeout_s:g} s: end it")
        time.sleep(0.05)
    with file:
        try:
            _finish_replacing(root)
            yield
        finally:
            (root / LOCK).unlink(missing_ok=True)  # while it is locked: nobody can lock another file of this name


def _lock(root: Path) -> IO[bytes] | None:
    """Lock a folder; None where somebody else has locked it, or just gave it back."""
    try:
        file = (root / LOCK).open("ab")  # NFS grants locks on files that are open for writing
    except OSError as error:
        raise BadInput("folder", str(root), f"make it writable ({error.strerror})") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), (root / LOCK).stat()):
                return file
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            file.close()
            fix = f"copy it to a file system that supports locks ({error.strerror})"
            raise BadInput("folder", str(root), fix) from error
    file.close()
    return None


def replace_together(root: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write files below a staging folder, then put each in the place of its namesake below `root`.

    The caller is `changing` the folder. Killed before everything is staged, nothing has changed; killed after that,
    the next `changing` does the rest, and `PENDING` is there until it has.
    """
    stage = _beside(root / "staged")
    stage.mkdir()
    try:
        fill(stage)
        stage.rename(root / PENDING)  # from here on it happens
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    _finish_replacing(root)


def _finish_replacing(root: Path) -> None:
    """Put the files in place that an interrupted `replace_together` had staged; remove what it had not staged whole."""
    for stage in root.glob(".staged.*"):
        if TEMPORARY.fullmatch(stage.name):
            shutil.rmtree(stage)
    pending = root / PENDING
    if not pending.exists():
        return
    for path in sorted(path for path in pending.rglob("*") if path.is_file()):
        place = root / path.relative_to(pending)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
    shutil.rmtree(pending)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf-8")


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
