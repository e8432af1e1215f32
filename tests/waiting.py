"""Waiting for something that happens elsewhere, with a deadline: no test sleeps for a time that it hopes is enough."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0, what: str = "it") -> None:
    """Ask again and again until the condition holds. Where an event can be had (a lock, a pipe, a thread), use that.

    Raises:
        AssertionError: it did not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:g} s"
        time.sleep(0.02)
