"""Where results go: one folder a run, under a path or a URI, the same however the run was started."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dopamine_rl.errors import BadInput
from dopamine_rl.files import write_text
from experiments.runtime.cluster import ROOT, in_job
from experiments.runtime.ending import UsageError


def check_folder(path: Path, field: str = "--out", inside: Path | None = None) -> None:
    """Check that results can be written into a folder, which may not exist yet. Leaves nothing behind.

    Args:
        field: what named it.
        inside: the folder that is written into; `path` itself if left out.
    Raises:
        BadInput: naming `field`: it, or a part of its path, is a file, or the system does not let it be written.
    """
    existing = inside or path
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        fix = "this is a file: give a folder" if existing == path else f"{existing} is a file: give another folder"
        raise BadInput(field, str(path), fix)
    try:
        tempfile.TemporaryDirectory(prefix=".", dir=existing).cleanup()
    except OSError as error:
        raise BadInput(field, str(path), f"give a writable folder ({error.strerror})") from error


def check_new_folder(path: Path, field: str = "--out", data: Path | None = None) -> None:
    """Raise BadInput naming `field` unless a folder can be created at a path, outside the data it is made from."""
    if os.path.lexists(path):
        raise BadInput(field, str(path), "it already exists: give a new folder")
    check_folder(path, field)
    if data is not None and path.resolve().is_relative_to(data.resolve()):
        raise BadInput(field, str(path), f"give a folder outside of {data}: what is read must not change")


def check_own_report(folder: Path, names: Sequence[str], key: str, field: str = "--out") -> None:
    """Raise BadInput naming `field` if a report would replace files that are not an earlier report. Creates nothing.

    Args:
        names: the report's files; the first is a JSON object.
        key: of that object, by which an earlier report is known. One that was interrupted has saved answers in `hops`.
    """
    check_folder(folder, field)
    existing = [name for name in names if (folder / name).exists()]
    if not existing or any((folder / "hops").glob("*.npz")):
        return
    try:
        report = json.loads((folder / names[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report = None
    if not isinstance(report, dict) or key not in report:
        fix = f"give another folder: {', '.join(existing)} in it is not a report of ours and is not replaced"
        raise BadInput(field, str(folder), fix)


def make_folder(path: Path, field: str = "--out") -> None:
    """Create a folder, with its parents, unless it is there. Raises BadInput naming `field` where that cannot be."""
    check_folder(path, field)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(field, str(path), f"give a writable folder ({error.strerror})") from error


def lasting_path(path: str | Path, field: str = "--out", instead: str = "an absolute path") -> Path:
    """Where a command writes its result: a local path with `~` expanded, which outlives a submitted job.

    Args:
        field: what named it. instead: what is to be given where it would not last.
    Raises:
        UsageError: it is a URI or another account's folder that is not there; or the command runs inside a submitted
            job, and the path lies in the job's scratch copy of the working folder.
    """
    text = os.path.expanduser(str(path).removeprefix("file://"))
    if not text.strip():
        raise UsageError(field, str(path), "give a path: this one is empty")
    if re.match(r"\w+:/+", text):
        raise UsageError(field, str(path), "give a local path: this command cannot write to a URI")
    if text.startswith("~"):
        raise UsageError(field, str(path), "give a path: there is no user of this name")
    if in_job():
        copy = Path.cwd() if "runtime_resources" in Path.cwd().parts else None
        if not Path(text).is_absolute() or (copy and Path(text).resolve().is_relative_to(copy)):
            outside = instead if not Path(text).is_absolute() else "a path outside the job's working folder"
            raise UsageError(field, str(path), f"give {outside}: a job's working folder is deleted at its end")
    return Path(text)


@contextmanager
def only_writer(folder: Path, field: str = "--out") -> Iterator[None]:
    """Hold a folder for the length of the block; the system lets go of it however the process ends.

    Raises:
        BadInput: naming `field`: another process holds it.
    """
    with (folder / ".lock").open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            fix = "another command is writing to this folder: wait for it, or give another folder"
            raise BadInput(field, str(folder), fix) from error
        yield


def default_storage() -> str:
    """`runs/` of the checkout; inside a submitted job, whose checkout is a scratch copy, `~/dopamine_rl/runs`."""
    if os.environ.get("DOPAMINE_STORAGE"):
        return os.environ["DOPAMINE_STORAGE"]
    return str(Path.home() / "dopamine_rl" / "runs") if in_job() else str(ROOT / "runs")


@dataclass(frozen=True)
class RunFolder:
    """The results of one run.

    Args:
        path: local folder that everything is written to first.
        uri: where a copy is kept; None where `path` is the place itself.
    """

    path: Path
    uri: str | None = None

    @classmethod
    def resolve(cls, out: str | None, storage: str | None, name: str) -> RunFolder:
        """The folder `out`, or `storage`/`name`; either may be a local path or a URI such as s3://bucket/runs.

        Raises: UsageError where a relative path is given inside a submitted job: it would lie in Ray's scratch copy;
            BadInput where it cannot be written.
        """
        for field, given in (("--out", out), ("--storage", storage)):
            if given is not None and not given.strip():
                raise UsageError(field, given, "give a folder: this name is empty")
        target = out or f"{(storage or default_storage()).rstrip('/')}/{name}"
        if "://" in target and not target.startswith("file://"):
            key = hashlib.sha256(target.encode()).hexdigest()[:8]
            local = Path.home() / ".cache" / "dopamine_rl" / "runs" / f"{name}-{key}"
            folder = cls(local, target)
        else:
            folder = cls(lasting_path(target, "--out" if out else "--storage", "an absolute path or a URI").resolve())
        make_folder(folder.path, "--out" if out else "--storage")
        return folder

    @property
    def place(self) -> str:
        """Where a person finds the results."""
        return self.uri or str(self.path)

    def publish(self) -> None:
        """Copy everything to the URI, where there is one."""
        if self.uri is None:
            return
        from pyarrow import fs

        filesystem, path = fs.FileSystem.from_uri(self.uri)
        filesystem.create_dir(path)
        fs.copy_files(str(self.path), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file, whole or not at all."""
        return write_text(self.path / name, text)

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file, whole or not at all. Raises ValueError on NaN or infinity: a failure is never a number."""
        return self.write_text(name, json.dumps(value, indent=2, allow_nan=False) + "\n")
