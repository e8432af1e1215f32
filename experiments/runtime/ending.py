"""How a command begins and ends: readable output anywhere, one line for an error, a status that means something, Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from dopamine_rl.errors import BadInput, DopamineError
from dopamine_rl.files import ESCAPED
from dopamine_rl.texts import one_line

USAGE, REFUSED, INTERRUPTED, UNREAD = 2, 3, 130, 141
"""Exit status where the command line cannot be read, where the gate refused the reward model, after Ctrl-C, and where nobody reads the output any more."""

FIXES = {
    errno.ENOSPC: "make room on its disk, or write elsewhere",
    errno.EDQUOT: "make room in your quota, or write elsewhere",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or write elsewhere",
    errno.EROFS: "write elsewhere",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "end other programs that keep files open",
    errno.ENAMETOOLONG: "give a shorter name",
}
"""What helps where the system refuses, by the error's number."""


class UsageError(BadInput):
    """A command line cannot be read; the process ends with status USAGE."""


Main = Callable[..., None]
"""The `main` of a command; takes the words after its name, or None for the process's own."""


def command(main: Main) -> Main:
    """Make a function the entry of a command. Every command has it, so that none ends with a traceback of the system's.

    Whatever the locale, its output can be printed; `~` is expanded in its words, also after `--option=`; what was
    raised on purpose, and what the system refuses (no room, too many files, a folder that cannot be written), ends it
    with one line; so does Ctrl-C, wherever it comes; a reader that went away (`| head`) ends it without one.
    """

    @functools.wraps(main)
    def entry(argv: Sequence[str] | None = None, *rest: object) -> None:
        make_printable()
        words = [expand(word) for word in (sys.argv[1:] if argv is None else argv)]
        try:
            with interruptible("Interrupted."):
                main(words, *rest)
                sys.stdout.flush()
        except DopamineError as error:
            exit_with(error)
        except OSError as error:
            _exit_with_refusal(error)

    return entry


def make_printable() -> None:
    """Let standard output and error take any text: what their encoding lacks is printed as \\uXXXX, valid in JSON."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)


def expand(word: str) -> str:
    """A word of a command line with its `~` expanded; shells leave it alone in `--out=~/models`."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + os.path.expanduser(value) if value.startswith("~") else word


STOPPED = (
    "Interrupted. The same command keeps what is done and goes on from the training's last checkpoint, if there is one."
)


def exit_with(error: DopamineError) -> NoReturn:
    """End the process with an error's message, and the exit status that says whether the gate refused."""
    cause = getattr(error, "cause", None)  # Ray wraps what another process raised, with that process's traceback.
    text = str(cause if isinstance(cause, DopamineError) else error)
    if isinstance(error, BadInput):
        text = one_line(text.replace("\n", "\\n"))
    with contextlib.suppress(OSError):
        print(f"error: {text}", file=sys.stderr, flush=True)
    refused = type(error).__name__ == "GateRefused"  # its module imports torch
    raise SystemExit(USAGE if isinstance(error, UsageError) else REFUSED if refused else 1) from error


def refusal_of(error: OSError) -> DopamineError:
    """What the system refuses, as an error with the file and the fix."""
    cause = getattr(error, "cause", None)
    error = cause if isinstance(cause, OSError) else error
    why = error.strerror or str(error)
    if error.filename is not None:
        fix = FIXES.get(error.errno or 0)
        text = f"{why}: {fix}" if fix else f"give one that can be used ({why})"
        return BadInput("path", _text(error.filename), text)
    return DopamineError(f"{why}: {FIXES.get(error.errno or 0, 'the system refused a file or a connection')}")


def _text(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, bytes) else str(name)


def _exit_with_refusal(error: OSError) -> NoReturn:
    if isinstance(error, BrokenPipeError) and error.filename is None:
        _drop_output()
        raise SystemExit(UNREAD) from None
    if _unwritable(sys.stdout):
        _drop_output()
        error = OSError(error.errno, error.strerror, "standard output")
    exit_with(refusal_of(error))


def _unwritable(stream: Any) -> bool:
    """Whether what is still to be printed cannot be."""
    try:
        stream.flush()
    except OSError:
        return True
    return False


def _drop_output() -> None:
    """Let what is still to be printed go nowhere; else Python complains of it when it ends."""
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def interruptible(message: str, status: int = INTERRUPTED) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process cleanly: after the block's own cleaning up, `message` is said.

    Ray takes SIGTERM for itself when it starts, so what runs inside a cluster needs a block of its own.
    """
    # SIGINT too: a process that a shell started in the background begins with it ignored.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _terminate)
    try:
        yield
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr, flush=True)
        raise SystemExit(status) from None


def _terminate(*_: object) -> NoReturn:
    raise KeyboardInterrupt
