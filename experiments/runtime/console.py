"""Says what a run is doing: a line when a phase begins and ends, and at most one every few seconds in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")


class Console:
    """Prints readable lines with the time since the run began.

    Args:
        interval_s: shortest time between two lines of the same phase's progress.
    """

    def __init__(self, interval_s: float = 5.0) -> None:
        self._began, self._interval, self._last = time.monotonic(), interval_s, 0.0
        self.phase_seconds: dict[str, float] = {}

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        """Print a line."""
        print(f"[{self.elapsed_s:6.1f} s] {text}", flush=True)

    def progress(self, text: str, matters: bool = False) -> None:
        """Print a line unless one was printed a moment ago, and in any case if it matters."""
        now = time.monotonic()
        if matters or now - self._last >= self._interval:
            self._last = now
            self.say("  " + text)

    def attempt(self, what: str, work: Callable[[], Value], otherwise: Value) -> Value:
        """What `work` returns; `otherwise`, and a line of why, where it fails. For plots and pages, without which the
        results are worth as much."""
        try:
            return work()
        except Exception as error:
            self.say(f"warning: no {what}: {str(error).partition(chr(10))[0] or type(error).__name__}")
            return otherwise

    def say_passed_over(self, folders: Iterable[Path]) -> None:
        """Say which folders among raw episodes are not read, because there is no episode in them."""
        from dopamine_rl.episodes.source import passed_over

        for folder in folders:
            if names := passed_over(folder):
                self.say(f"warning: no episode in {', '.join(names)}, passed over (in {folder})")

    @contextmanager
    def phase(self, name: str, text: str) -> Iterator[None]:
        """Announce a phase and say how long it took."""
        self.say(text)
        began = self._last = time.monotonic()
        yield
        self.phase_seconds[name] = round(time.monotonic() - began, 1)
        self.say(f"  {name} took {self.phase_seconds[name]} s")
