"""Stores which phases of a run are complete and what they depended on, so that the next run resumes there."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dopamine_rl.errors import BadInput
from dopamine_rl.files import fingerprint, write_atomically
from dopamine_rl.interfaces import OnProgress, no_progress
from experiments.runtime import ownership
from experiments.runtime.ownership import LOCK, PHASES
from experiments.runtime.storage import RunFolder


class PhaseStore:
    """The finished phases of a run folder. A phase is its name, what it depended on, and a JSON value that it returned.

    A phase is done again where anything it depended on has changed; what depends on its value then follows by itself,
    because the value (a content version, a count) is part of the next phase's dependencies.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder.path / PHASES

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
        """Delete a phase's result, so that the next call runs it again."""
        (self._folder / f"{name}.json").unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            stored = json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return stored if isinstance(stored, dict) and "value" in stored else None


@contextmanager
def only_run(folder: RunFolder, fresh: bool = False, on_progress: OnProgress = no_progress) -> Iterator[None]:
    """Hold the run folder for the length of the block; the system lets go of it however the process ends.

    What a killed run left half-written is removed first.

    Args:
        fresh: forget the run that is there, and remove everything that it wrote.
        on_progress: called with what was not removed, and if other code resumes a run.
    Raises:
        BadInput: the folder is neither empty nor a run, its run cannot be continued, or another run works in it.
    """
    ownership.check_usable(folder.path, folder.place, fresh)
    with (folder.path / LOCK).open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput(
                "--out", folder.place, "another run is using this folder: wait for it, or give another folder"
            ) from error
        if fresh and (left := ownership.clear(folder.path)):
            on_progress(f"--fresh did not remove files that no run wrote: {', '.join(left)}", True)
        ownership.remove_leftovers(folder.path)
        if changed := ownership.begin(folder.path):
            on_progress(changed, True)
        yield
