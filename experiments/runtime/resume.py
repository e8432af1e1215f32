"""Remembers which phases of a run are done, and on what they depended, so that the next run goes on where this one ended."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dopamine_rl.errors import BadInput
from dopamine_rl.files import fingerprint, remove_leftovers, write_atomically
from experiments.runtime.storage import RunFolder

PHASES = "phases"


class PhaseStore:
    """The finished phases of a run folder. A phase is its name, what it depended on, and a JSON value that it returned.

    A phase is done again where anything it depended on has changed; what depends on its value then follows by itself,
    because the value (a content version, a count) is part of the next phase's dependencies.

    Args:
        folder: the run's.
        fresh: forget all phases first, and everything that they left.
    """

    def __init__(self, folder: RunFolder, fresh: bool = False) -> None:
        self._folder = folder.path / PHASES
        if fresh:
            for path in folder.path.iterdir():
                if path.name == LOCK:
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def run(self, name: str, depends_on: object, work: Callable[[], Any], skipped: Callable[[], None]) -> Any:
        """Return the phase's value: the stored one where it was finished with the same dependencies, else `work`'s.

        Args:
            depends_on: anything whose repr tells all that the phase's outcome hangs on.
            work: does the phase and returns a JSON value.
            skipped: called instead where there is nothing to do.
        """
        key, path = fingerprint(depends_on), self._folder / f"{name}.json"
        stored = self._read(name)
        if stored is not None and stored.get("key") == key:
            skipped()
            return stored["value"]
        path.unlink(missing_ok=True)
        value = json.loads(json.dumps(work(), allow_nan=False))
        text = json.dumps({"key": key, "value": value}, indent=2)
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return value

    def forget(self, name: str) -> None:
        """Let a phase be done again at the next call."""
        (self._folder / f"{name}.json").unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            stored = json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return stored if isinstance(stored, dict) and "value" in stored else None


LOCK = ".lock"


@contextmanager
def only_run(folder: RunFolder) -> Iterator[None]:
    """Hold the run folder for the length of the block; the system lets go of it however the process ends.

    What a killed run left half-written is removed first.

    Raises:
        BadInput: another run is working in it.
    """
    with (folder.path / LOCK).open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput(
                "--out", folder.place, "another run is working there: wait for it, or name another"
            ) from error
        remove_leftovers(folder.path)
        yield
