"""How a command ends: with an error's message and a status that means something, or cleanly after Ctrl-C."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from dopamine_rl.errors import BadInput, DopamineError

USAGE, REFUSED, INTERRUPTED = 2, 3, 130
"""Exit status where the command line cannot be read, where the gate refused the reward model, and after Ctrl-C."""


STOPPED = (
    "Interrupted. The same command keeps what is done and goes on from the training's last checkpoint, if there is one."
)


Main = Callable[..., None]
"""The `main` of a command; takes the words after its name, or None for the process's own."""


def command(main: Main) -> Main:
    """Make a function the entry of a command: what is raised on purpose ends it with one line."""

    @functools.wraps(main)
    def entry(argv: Sequence[str] | None = None, *rest: object) -> None:
        words = list(sys.argv[1:] if argv is None else argv)
        try:
            main(words, *rest)
        except DopamineError as error:
            exit_with(error)

    return entry


class UsageError(BadInput):
    """A command line cannot be read; the process ends with status USAGE."""


def exit_with(error: DopamineError) -> NoReturn:
    """End the process with an error's message, and the exit status that says whether the gate refused."""
    cause = getattr(error, "cause", None)  # Ray wraps what another process raised, with that process's traceback.
    print(f"error: {cause if isinstance(cause, DopamineError) else error}", file=sys.stderr)
    refused = type(error).__name__ == "GateRefused"  # its module imports torch
    raise SystemExit(USAGE if isinstance(error, UsageError) else REFUSED if refused else 1) from error


@contextmanager
def interruptible(message: str, status: int = INTERRUPTED) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process cleanly: after the block's own cleaning up, `message` is said.

    Ray takes SIGTERM for itself when it starts, so what runs inside a cluster needs a block of its own.

    Raises:
        BadInput: a file or folder cannot be read or written, by its path.
    """
    # SIGINT too: a process that a shell started in the background begins with it ignored.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _terminate)
    try:
        yield
    except KeyboardInterrupt:
        print(message, file=sys.stderr, flush=True)
        raise SystemExit(status) from None
    except OSError as error:
        if error.filename is None:
            raise
        raise BadInput("path", str(error.filename), f"give one that can be used ({error.strerror})") from error


def _terminate(*_: object) -> NoReturn:
    raise KeyboardInterrupt
