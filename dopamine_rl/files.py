"""Atomic writing of files and folders: each is either complete or absent."""

from __future__ import annotations

import codecs
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dopamine_rl.errors import BadInput, DopamineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}(\.\w+)?")
"""Names of files and folders that are being written. Nothing here reads a file whose name begins with a dot."""

PENDING = ".pending"
"""Folder of complete files that are about to replace others together."""

ESCAPED = "dopamine_rl.escaped"
"""Encoding error handler: a character that cannot be encoded becomes \\uXXXX, which JSON reads back."""

LONGEST_NAME = 255
"""Longest file name in bytes that every file system accepts."""


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(ESCAPED, _escape)
LOCK = ".lock"
"""Lock file in a folder whose files are being changed; the operating system releases the lock with the process."""


def write_atomically(path: Path, write: Callable[[Path], object], replace: bool = True) -> Path:
    """Let `write` create a temporary file next to `path`, then rename it to `path`.

    If the process is killed, the previous file stays untouched.

    Args:
        replace: replace an existing file.
    Raises:
        FileExistsError: the file exists (it may have appeared meanwhile) and `replace` is False.
        OSError: the system does not let it be written; `filename` is set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        with naming(path, temporary.parent):
            write(temporary)
            return temporary.replace(path) if replace or not _linked(temporary, path) else path
    finally:
        temporary.unlink(missing_ok=True)


def _linked(file: Path, path: Path) -> bool:
    """Give a file a second name that nobody has; False if the file system has no links and nobody has the name.

    Raises:
        FileExistsError: somebody has it.
    """
    try:
        os.link(file, path)
    except FileExistsError:
        raise
    except OSError as error:
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        return False
    return True


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 text file atomically. Bytes of file names that are not valid text are written as \\uXXXX."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors=ESCAPED))


def write_folder_atomically(folder: Path, fill: Callable[[Path], object], replace: bool = True) -> Path:
    """Let `fill` write into a temporary folder next to `folder`, then rename it.

    Args:
        replace: replace an existing folder.
    Raises:
        FileExistsError: the folder exists (it may have appeared meanwhile) and `replace` is False.
        OSError: the system does not let it be written; `filename` is set.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, replaced = _beside(folder), _beside(folder)
    try:
        with naming(folder, temporary):
            temporary.mkdir()
            fill(temporary)
        if replace and folder.exists():
            if _exchange(temporary, folder):
                return folder
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


def _exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two files or folders in one step, so that a killed process leaves both names taken.

    False, without a change, where the system or the file system cannot (Linux can, NFS cannot).
    """
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    current_folder, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
    names = (os.fsencode(first), os.fsencode(second))
    return renameat2 is not None and not renameat2(current_folder, names[0], current_folder, names[1], exchange)


@contextmanager
def naming(path: Path, probed: Path) -> Iterator[None]:
    """Make an OSError raised in the block name the file or folder being written.

    Args:
        path: its name, for errors that name a temporary file or none; the system names no file when a write fails.
        probed: the folder being written to. If a library raises its own error in place of an OSError, a small file is
            written there as a probe; if that fails too, its OSError is raised instead.
    """
    try:
        yield
    except DopamineError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            if error.filename is None or TEMPORARY.fullmatch(Path(os.fsdecode(error.filename)).name):
                raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error
            raise
        if (cause := _probe(probed)) is not None:
            raise OSError(cause.errno, os.strerror(cause.errno or errno.EIO), str(path)) from error
        raise


def _probe(folder: Path) -> OSError | None:
    """The error of writing a file of 1 MiB into a folder; None if that succeeds."""
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
    """Lock a folder for changes: other threads, processes and machines wait.

    First completes or reverts an interrupted change. The kernel holds the lock: it is released when the process ends,
    however it ends, and works over NFS.

    Raises:
        BadInput: the folder cannot be locked, or stays locked by others for `timeout_s`.
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
            (root / LOCK).unlink(missing_ok=True)  # before unlocking, so that nobody locks another file of this name


def _lock(root: Path) -> IO[bytes] | None:
    """Try to lock a folder; None if somebody else has locked it, or just released it."""
    try:
        file = (root / LOCK).open("ab")  # NFS only locks files that are open for writing
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
    """Let `fill` write files into a staging folder, then replace the files of the same paths below `root`.

    Call it inside `changing`. If the process is killed before staging is complete, nothing changes; if later, the next
    `changing` completes the replacement, and `PENDING` exists until then.
    """
    stage = _beside(root / "staged")
    try:
        with naming(root, stage):
            stage.mkdir()
            fill(stage)
        stage.rename(root / PENDING)  # from here on the change is completed, even after a crash
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    _finish_replacing(root)


def _finish_replacing(root: Path) -> None:
    """Complete an interrupted `replace_together`; remove an incomplete staging folder."""
    for stage in root.glob(".staged.*"):
        if TEMPORARY.fullmatch(stage.name):
            shutil.rmtree(stage)
    pending = root / PENDING
    if not pending.exists():
        return
    for path in sorted(path for path in pending.rglob("*") if path.is_file()):
        target = root / path.relative_to(pending)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    shutil.rmtree(pending)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file; create its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    """The content of a UTF-8 JSON file, with or without a byte order mark.

    Raises:
        FileNotFoundError: there is none.
        ValueError: why it cannot be read, in words.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    if not text.strip():
        raise ValueError("it is empty")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON (line {error.lineno}, column {error.colno}: {error.msg})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise ValueError("it cannot be read as JSON") from error


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file. Raises ValueError: why it cannot be read, in words."""
    import numpy as np

    try:
        if not zipfile.is_zipfile(path):  # numpy would take it for a pickle or a single array
            raise ValueError("it is no .npz file" if path.stat().st_size else "it is empty")
        with np.load(path, allow_pickle=False) as file:
            return {name: _read_array(file, name) for name in file.files}
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except zipfile.BadZipFile as error:
        raise ValueError("its list of arrays is damaged") from error


def _read_array(file: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    try:
        array = file[name]
    except Exception as error:  # numpy, zipfile and zlib raise errors of many types for damaged bytes
        raise ValueError(f"its array {name} cannot be read") from error
    if not hasattr(array, "dtype"):
        raise ValueError(f"{name} in it is no array")
    return array


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to exactly `path`; numpy would append a suffix to a file name."""
    import numpy as np

    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def fingerprint(depends_on: object) -> str:
    """16 hexadecimal digits that identify an object by its repr (dataclasses, numbers, strings, tuples of these)."""
    return hashlib.sha256(repr(depends_on).encode()).hexdigest()[:16]


class JsonLines:
    """An append-only file of JSON lines; also a context manager that closes it.

    Args:
        path: the file; created if missing.
        size: valid bytes; anything that an interrupted process wrote after them is cut off.
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
        """Flush all lines to disk and return the file size in bytes."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def read(self) -> list[Any]:
        """All lines."""
        return [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]


def remove(path: Path) -> None:
    """Remove a file, or a folder and its content. A link is removed, not its target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def becomes(name: str) -> str | None:
    """The final name of a temporary file or folder; None if the name is not a temporary one."""
    match = TEMPORARY.fullmatch(name)
    return f"{match[1]}{match[2] or ''}" if match else None


def remove_leftovers(folder: Path, ours: Callable[[str], object]) -> None:
    """Remove the incomplete files and folders that killed processes left in a folder. Nobody may be writing there.

    Args:
        ours: whether we write a file or folder of this name there; all others are kept.
    """
    for path in sorted(folder.iterdir()):
        name = becomes(path.name)
        if name is not None and ours(name):
            remove(path)


def _beside(path: Path) -> Path:
    ending = f".{uuid.uuid4().hex[:8]}{path.suffix}"
    stem = os.fsencode(path.stem)[: LONGEST_NAME - 1 - len(os.fsencode(ending))]
    return path.with_name(f".{os.fsdecode(stem)}{ending}")
