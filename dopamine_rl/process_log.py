"""Structured logs: a JSON object per event and line, which says the run, the process's role and its number.

The time is UTC. Fields that an event itself carries (`extra` of logging) stand beside its message.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

RUN_VARIABLE = "DOPAMINE_RUN"
"""Environment variable of every process of a run: the run's name."""
WORKER_HOOK = "dopamine_rl.process_log.log_as_worker"
"""For Ray's runtime_env (`worker_process_setup_hook`)."""
DRIVER_LOG = "log.jsonl"
"""The driver's events, in the run's folder."""
PACKAGES = ("actors", "dopamine_rl", "experiments", "learner", "reward_service")
"""Loggers whose events are written from INFO on; of others, warnings are."""

_STANDARD = {*vars(logging.LogRecord("", 0, "", 0, "", None, None)), "message", "asctime", "taskName"}
_identity: dict[str, str | int] = {}


class JsonFormatter(logging.Formatter):
    """Formats a record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. Values that JSON does not know are written as text."""
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_identity,
            "host": socket.gethostname(),
            "process_id": record.process,
            **{name: _plain(value) for name, value in vars(record).items() if name not in _STANDARD and name[0] != "_"},
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str, ensure_ascii=False)


def _plain(value: object) -> object:
    """The value; None for NaN and infinite numbers, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def identify(**fields: str | int) -> None:
    """Add fields to all later events of this process, such as role="env_runner", index=3."""
    _identity.update(fields)


def log_as_worker() -> None:
    """Write this process's events to standard error, which Ray keeps in the file worker-*.err of its session."""
    identify(run=os.environ.get(RUN_VARIABLE, ""), role="worker")
    logging.getLogger().addHandler(_with_json(logging.StreamHandler()))


@contextmanager
def driver_log(path: Path, run: str) -> Iterator[None]:
    """Append a driver's events to a file, during the block. What people see on the console stays as it is.

    Args:
        path: of the file, whose folder exists.
        run: the run's name.
    """
    identify(run=run, role="driver")
    root, last = logging.getLogger(), logging.lastResort
    handlers = [_with_json(logging.FileHandler(path, encoding="utf-8"))]
    if last is not None and not root.handlers:  # logging shows warnings by itself only where nobody handles them
        handlers.append(last)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
        handlers[0].close()
        _identity.clear()


def _with_json(handler: logging.Handler) -> logging.Handler:
    handler.setFormatter(JsonFormatter())
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.INFO)
    return handler
