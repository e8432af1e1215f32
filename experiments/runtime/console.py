"""Reports what a run is doing: a line when a phase starts and ends, and progress in between.

On a terminal, progress is one live line at the bottom; in a pipe, a plain line every few seconds.
"""

from __future__ import annotations

import atexit
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dopamine_rl.texts import one_line

if TYPE_CHECKING:
    import rich.console
    import rich.progress

Value = TypeVar("Value")
logger = logging.getLogger(__name__)

COUNT = re.compile(r"\b(\d+) of (\d+)\b")
"""The count that the live line shows as a bar."""


class Console:
    """Prints readable lines with the time since the run began.

    Args:
        interval_s: shortest time between two lines of the same phase's progress.
        terminal: where the live line is; None for standard output, if that is a terminal.
    """

    def __init__(self, interval_s: float = 5.0, terminal: rich.console.Console | None = None) -> None:
        self._began, self._interval, self._last = time.monotonic(), interval_s, 0.0
        self.phase_seconds: dict[str, float] = {}
        self._live = _LiveLine(terminal) if terminal is not None or sys.stdout.isatty() else None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def say(self, *lines: str) -> None:
        """Print a line, or several under one time. Control characters, as in names of files, are shown escaped."""
        logger.info("%s", " ".join(line.strip() for line in lines))
        line = f"[{self.elapsed_s:6.1f} s] " + "\n".join(map(one_line, lines))
        if self._live is not None:
            self._live.print(line)
        else:
            print(line, flush=True)

    def progress(self, text: str, matters: bool = False) -> None:
        """Show progress; an `OnProgress`. Prints a line if `matters`, or from time to time without a terminal."""
        if self._live is not None and not matters:
            self._live.show(text)
        now = time.monotonic()
        if matters or (self._live is None and now - self._last >= self._interval):
            self._last = now
            self.say("  " + text)

    def attempt(self, what: str, work: Callable[[], Value], otherwise: Value) -> Value:
        """Return `work()`, or print a warning and return `otherwise` if it fails. For optional output such as plots."""
        try:
            return work()
        except Exception as error:
            self.say(f"warning: no {what}: {str(error).partition(chr(10))[0] or type(error).__name__}")
            return otherwise

    def say_passed_over(self, folders: Iterable[Path]) -> None:
        """Warn about folders among raw episodes that contain no episode."""
        from dopamine_rl.episodes.listing import passed_over

        for folder in folders:
            if names := passed_over(folder):
                self.say(f"warning: no episode in {', '.join(names)} (in {folder}): skipped")

    @contextmanager
    def phase(self, name: str, text: str) -> Iterator[None]:
        """Print a line when a phase starts, and its duration when it ends."""
        self.say(text)
        began = self._last = time.monotonic()
        try:
            yield
        finally:
            if self._live is not None:
                self._live.hide()
        self.phase_seconds[name] = round(time.monotonic() - began, 1)
        self.say(f"  {name} took {self.phase_seconds[name]} s")


class _LiveLine:
    """A spinner, a text and, if the text contains a count, a bar."""

    def __init__(self, terminal: rich.console.Console | None) -> None:
        import rich.console

        self._terminal = terminal or rich.console.Console(highlight=False, soft_wrap=True)
        self._bar: rich.progress.Progress | None = None

    def print(self, line: str) -> None:
        """Print a line above."""
        self._terminal.print(line, markup=False)

    def show(self, text: str) -> None:
        """Replace the text."""
        count = COUNT.search(text)
        done, total = (int(count[1]), int(count[2])) if count else (0, None)
        if self._bar is None:
            self._bar = self._start()
        self._bar.update(self._bar.task_ids[0], description=text, completed=done, total=total)

    def hide(self) -> None:
        """Remove the line."""
        if self._bar is not None:
            self._bar.stop()
            atexit.unregister(self._bar.stop)
            self._bar = None

    def _start(self) -> rich.progress.Progress:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        text = TextColumn("{task.description}", markup=False)
        bar = Progress(
            SpinnerColumn(), text, BarColumn(20), TimeElapsedColumn(), console=self._terminal, transient=True
        )
        bar.add_task("", total=None)
        bar.start()
        atexit.register(bar.stop)  # show the cursor again
        return bar
