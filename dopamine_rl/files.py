"""Files and folders that are either whole or absent."""

from __future__ import annotations

import codecs
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dopamine_rl.errors import BadInput, DopamineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}(\.\w+)?")
"""Names of what is not whole yet; nothing here reads a file whose name begins with a dot."""

PENDING = ".pending"
"""Holds files that are to be put in place together, from the moment that all of them are complete."""

ESCAPED = "dopamine_rl.escaped"
"""Error handler of encodings: what cannot be written becomes \\uXXXX, which JSON reads back."""

LONGEST_NAME = 255
"""Bytes of a file name that every file system takes."""


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(ESCAPED, _escape)
LOCK = ".lock"
"""Is there while a process changes a folder's files; the operating system ends the lock with the process."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` make a temporary file beside `path`, then rename it to `path`.

    A process killed in between leaves the previous file untouched.

    Raises:
        OSError: the system does not let it be written; `filename` is set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        with naming(path, temporary.parent):
            write(temporary)
        return temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a text file in UTF-8, whole or not at all. Bytes of a file name that are no text are written as \\uXXXX."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors=ESCAPED))


def write_folder_atomically(folder: Path, fill: Callable[[Path], object], replace: bool = True) -> Path:
    """Let `fill` write into a temporary folder beside `folder`, then rename it.

    Args:
        replace: replace a folder that is there.
    Raises:
        FileExistsError: it is there, and not to be replaced. It may have appeared in the meantime.
        OSError: the system does not let it be written; `filename` is set.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, replaced = _beside(folder), _beside(folder)
    temporary.mkdir()
    try:
        with naming(folder, temporary):
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
        with suppress(OSError):
            remove(replaced)


@contextmanager
def naming(path: Path, probed: Path) -> Iterator[None]:
    """Let an OSError out of the block name the file or folder that was to be written.

    Args:
        path: its name, for errors that name a temporary file or none: the system names no file where a write fails.
        probed: the folder being written to. Where a library hides the system's reason behind an error of its own, a
            small file is written there: if that fails too, its OSError is raised instead.
    """
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None or TEMPORARY.fullmatch(Path(os.fsdecode(error.filename)).name)
        if unnamed and error.errno is not None:
            raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error
        raise
    except DopamineError:
        raise
    except Exception as error:
        if (reason := _refusal(probed)) is not None:
            raise OSError(reason.errno, os.strerror(reason.errno or errno.EIO), str(path)) from error
        raise


def _refusal(folder: Path) -> OSError | None:
    """Why no file of 1 MiB can be written into a folder; None where it can."""
    probe = _beside(folder / "probe")
    try:
        try:
            probe.write_bytes(bytes(2**20))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        return error
    return None


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
    import numpy as np

    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def fingerprint(depends_on: object) -> str:
    """16 hexadecimal digits that change with the repr of an object (dataclasses, numbers, strings, tuples of these)."""
    return hashlib.sha256(repr(depends_on).encode()).hexdigest()[:16]


class JsonLines:
    """A file of JSON lines that only grows. As a context manager it is closed at the end.

    Args:
        path: the file; created where it is not there.
        size: its bytes that count; what an interrupted process wrote behind them is cut off.
    Raises:
        BadInput: the file is shorter.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._file = path, path.open("ab")
        present = path.stat().st_size
        if present < size:
            self._file.close()
            fix = f"put back the file that the checkpoint knows {size} bytes of, or give --fresh"
            raise BadInput(str(path), f"{present} bytes", fix)
        self._file.truncate(size)

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, value: Any) -> None:
        """Append a line. Raises ValueError on NaN or infinity: a failure is never a number."""
        self._file.write((json.dumps(value, allow_nan=False) + "\n").encode())
        self._file.flush()

    def sync(self) -> int:
        """Wait until all lines are on the disk; returns the file's size in bytes."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def read(self) -> list[Any]:
        """All lines."""
        return [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]


def remove(path: Path) -> None:
    """Remove a file, or a folder with all it holds. A link is removed itself; what it points to is left alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def becomes(name: str) -> str | None:
    """The name that a half-written file or folder would have got; None where the name is not a temporary one."""
    match = TEMPORARY.fullmatch(name)
    return f"{match[1]}{match[2] or ''}" if match else None


def remove_leftovers(folder: Path, ours: Callable[[str], object]) -> None:
    """Remove what killed processes left half-written directly in a folder. Nobody may be writing there.

    Args:
        ours: whether a file or folder of this name is one that we write there; anything else is left alone, whatever it
            is called.
    """
    for path in sorted(folder.iterdir()):
        name = becomes(path.name)
        if name is not None and ours(name):
            remove(path)


def _beside(path: Path) -> Path:
    ending = f".{uuid.uuid4().hex[:8]}{path.suffix}"
    stem = os.fsencode(path.stem)[: LONGEST_NAME - 1 - len(os.fsencode(ending))]
    return path.with_name(f".{os.fsdecode(stem)}{ending}")
