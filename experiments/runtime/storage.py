"""Where results go: one folder a run, under a path or a URI, the same however the run was started."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dopamine_rl.errors import BadInput
from dopamine_rl.files import write_atomically
from experiments.runtime.cluster import ROOT, in_job


def check_folder(path: Path, field: str = "--out") -> None:
    """Raises BadInput naming `field` where something that is no folder has its place. Creates nothing."""
    if path.exists() and not path.is_dir():
        raise BadInput(field, str(path), "that is a file: give a folder")


def make_folder(path: Path, field: str = "--out") -> None:
    """Create a folder, with its parents, unless it is there. Raises BadInput naming `field` where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(field, str(path), f"give a folder that can be written ({error})") from error


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

        Raises: BadInput where a relative path is given inside a submitted job: it would lie in Ray's scratch copy.
        """
        target = out or f"{(storage or default_storage()).rstrip('/')}/{name}"
        if target.startswith("file://"):
            target = target.removeprefix("file://")
        if "://" in target:
            key = hashlib.sha256(target.encode()).hexdigest()[:8]
            local = Path.home() / ".cache" / "dopamine_rl" / "runs" / f"{name}-{key}"
            folder = cls(local, target)
        else:
            if in_job() and not Path(target).is_absolute():
                field = "--out" if out else "--storage"
                raise BadInput(field, target, "give an absolute path or a URI: a job's working folder is thrown away")
            folder = cls(Path(target).expanduser().resolve())
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
        return write_atomically(self.path / name, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file, whole or not at all. Raises ValueError on NaN or infinity: a failure is never a number."""
        return self.write_text(name, json.dumps(value, indent=2, allow_nan=False) + "\n")
