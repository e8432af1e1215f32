"""How a command starts and ends: printable output in any locale, one-line errors, exit statuses, Ctrl-C."""

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
from typing import Any, NoReturn, TextIO, cast

from dopamine_rl.errors import BadInput, CheckpointError, DopamineError
from dopamine_rl.files import ESCAPED
from dopamine_rl.texts import one_line

OUTPUT = "standard output"
"""Stands for a file name in an OSError of standard output."""

USAGE, REFUSED, INTERRUPTED, UNREAD = 2, 3, 130, 141
"""Exit statuses: invalid command line, reward model refused by the gate, Ctrl-C, closed output pipe."""

FIXES = {
    errno.ENOSPC: "free disk space, or write to another disk",
    errno.EDQUOT: "free space in your quota, or write to another disk",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EROFS: "write to another folder: this file system is read-only",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs that hold files open",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EEXIST: "give another path, this one is taken",
    errno.ENOTDIR: "give another path, a part of this one is a file",
}
"""Fixes for errors of the operating system, by errno."""


class UsageError(BadInput):
    """An invalid command line; the process ends with status USAGE."""


Main = Callable[..., None]
"""The `main` of a command; takes the words after its name, or None for the process's own."""


def command(main: Main) -> Main:
    """Decorate the `main` of a command.

    Output can be printed in any locale. `~` is expanded in all words, also after `--option=`. A DopamineError, an error
    of the operating system (disk full, too many open files) and Ctrl-C end the process with one line and no traceback;
    a closed pipe (`| head`) ends it silently.
    """

    @functools.wraps(main)
    def entry(argv: Sequence[str] | None = None, *rest: object) -> None:
        words = [expand(word) for word in (sys.argv[1:] if argv is None else argv)]
        try:
            with printable_output(), interruptible("Interrupted."):
                try:
                    main(words, *rest)
                except SystemExit:
                    sys.stdout.flush()
                    raise
                sys.stdout.flush()
        except DopamineError as error:
            exit_with(error)
        except OSError as error:
            _exit_with_refusal(error)

    return entry


@contextmanager
def printable_output() -> Iterator[None]:
    """Let stdout and stderr print any text: characters outside their encoding become \\uXXXX, valid in JSON.

    A failed write to stdout names it. A stream that the caller closed (`>&-`) discards everything.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (kept until the process ends)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)
    before = sys.stdout
    if not isinstance(before, _NamedOutput):
        sys.stdout = cast(TextIO, _NamedOutput(before))
    try:
        yield
    finally:
        sys.stdout = before


class _NamedOutput:
    """A stream whose errors name standard output, so that no file being written at that moment is blamed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _naming_output():
            return self._stream.write(text)

    def flush(self) -> None:
        with _naming_output():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _naming_output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, OUTPUT) from error


def expand(word: str) -> str:
    """Expand `~` in a word of the command line; shells do not expand it in `--out=~/models`."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + os.path.expanduser(value) if value.startswith("~") else word


STOPPED = (
    "Interrupted. Run the same command again to resume: completed phases are reused, and training continues from its "
    "last checkpoint."
)


def exit_with(error: DopamineError) -> NoReturn:
    """End the process with the error's message and exit status."""
    cause = getattr(error, "cause", None)  # Ray wraps errors of other processes, with their traceback.
    text = str(cause if isinstance(cause, DopamineError) else error)
    if isinstance(error, BadInput | CheckpointError):
        text = one_line(text)
    with contextlib.suppress(OSError):
        print(f"error: {text}", file=sys.stderr, flush=True)
    if _unwritable(sys.stdout):
        _drop_output()
    refused = type(error).__name__ == "GateRefused"  # its module imports torch
    raise SystemExit(USAGE if isinstance(error, UsageError) else REFUSED if refused else 1) from error


def refusal_of(error: OSError) -> DopamineError:
    """Convert an error of the operating system to one with the file and the fix."""
    cause = getattr(error, "cause", None)
    error = cause if isinstance(cause, OSError) else error
    why = error.strerror or str(error)
    if error.filename == OUTPUT:
        remedy = FIXES.get(error.errno or 0, "redirect it elsewhere")
        return BadInput("output", OUTPUT, f"it could not be written ({why}): {remedy}")
    if error.filename is not None:
        fix = FIXES.get(error.errno or 0)
        text = f"{why}: {fix}" if fix else f"give a usable path ({why})"
        return BadInput("path", _text(error.filename), text)
    return DopamineError(f"{why}: {FIXES.get(error.errno or 0, 'a file or a connection failed')}")


def _text(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, bytes) else str(name)


def _exit_with_refusal(error: OSError) -> NoReturn:
    if isinstance(error, BrokenPipeError) and error.filename in (None, OUTPUT):
        _drop_output()
        raise SystemExit(UNREAD) from None
    exit_with(refusal_of(error))


def _unwritable(stream: Any) -> bool:
    """Whether flushing the stream fails."""
    try:
        stream.flush()
    except OSError:
        return True
    return False


def _drop_output() -> None:
    """Discard buffered output; otherwise Python reports an error at exit."""
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def interruptible(message: str, status: int = INTERRUPTED) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process cleanly: the block cleans up, then `message` is printed.

    Ray replaces the SIGTERM handler when it starts, so code inside a cluster needs its own block.
    """
    # SIGINT too: a background process of a shell starts with SIGINT ignored.
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
