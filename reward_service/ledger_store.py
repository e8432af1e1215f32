"""Stores the ledgers of all applications in one detached, named actor of the cluster.

They outlive replicas, the Serve controller and the job that wrote them, and end with the cluster. If the actor is lost,
Ray restarts it empty, and the replicas restore the ledgers that they follow (`restore`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from dopamine_rl.errors import ServiceUnavailable
from reward_service.releases import Ledger

NAMESPACE = "dopamine_rl"
STORE = "ledgers"
"""Name of the actor."""
CALL_S = 10.0
"""Time limit of a call to it."""
FORGOTTEN = 1000
"""Number of deleted applications that are remembered as deleted."""


@dataclass
class Store:
    """The actor: ledgers by application, and claims to change them. Its methods run one at a time.

    A claim consists of its holder's name and its expiry time. All methods are idempotent, because Ray repeats a call
    whose answer was lost.
    """

    ledgers: dict[str, bytes] = field(default_factory=dict)
    claims: dict[str, tuple[str, float]] = field(default_factory=dict)
    forgotten: dict[str, None] = field(default_factory=dict)

    def read(self, app_name: str) -> bytes | None:
        """The ledger's bytes; None if there is none."""
        return self.ledgers.get(app_name)

    def names(self) -> list[str]:
        """The names of all applications with a ledger."""
        return sorted(self.ledgers)

    def write(self, app_name: str, data: bytes, holder: str | None) -> bool:
        """Store a ledger. False, without storing it, if another holder has the claim."""
        if self._holder(app_name) not in (None, holder):
            return False
        self.ledgers[app_name] = data
        self.forgotten.pop(app_name, None)
        return True

    def restore(self, app_name: str, data: bytes) -> None:
        """Store a replica's copy, unless there is a ledger or it was deleted on purpose."""
        if app_name not in self.forgotten:
            self.ledgers.setdefault(app_name, data)

    def forget(self, app_name: str) -> None:
        """Delete a ledger and its claim."""
        self.ledgers.pop(app_name, None)
        self.claims.pop(app_name, None)
        self.forgotten[app_name] = None
        while len(self.forgotten) > FORGOTTEN:
            del self.forgotten[next(iter(self.forgotten))]

    def claim(self, app_name: str, holder: str, for_s: float) -> bool:
        """Give the claim to a holder. False if another holder has it."""
        if self._holder(app_name) not in (None, holder):
            return False
        self.claims[app_name] = (holder, time.monotonic() + for_s)
        return True

    def release(self, app_name: str, holder: str) -> None:
        """Release a claim, unless another holder has it by now."""
        if self.claims.get(app_name, ("", 0.0))[0] == holder:
            del self.claims[app_name]

    def _holder(self, app_name: str) -> str | None:
        holder, until = self.claims.get(app_name, (None, 0.0))
        return holder if until > time.monotonic() else None


def read(app_name: str) -> Ledger:
    """The ledger of an application. Raises ServiceUnavailable if there is none, or the actor does not answer."""
    data = _ask("read", app_name)
    if data is None:
        running = ", ".join(names()) or "none"
        raise ServiceUnavailable(f"no reward service named {app_name} is running on this cluster (running: {running})")
    return Ledger.from_json(data)


def write(app_name: str, ledger: Ledger, claim: str | None = None) -> None:
    """Write the ledger of an application, atomically.

    Args:
        claim: from the context manager `claim`.
    Raises:
        ServiceUnavailable: the claim expired, and another deployment has it.
    """
    if not _ask("write", app_name, ledger.to_json(), claim):
        raise ServiceUnavailable(f"another deployment to {app_name} has started: this one took too long")


def restore(app_name: str, ledger: Ledger) -> None:
    """Restore the ledger from a replica's copy, after the actor was lost."""
    _ask("restore", app_name, ledger.to_json())


def forget(app_name: str) -> None:
    """Delete the ledger, if it exists."""
    _ask("forget", app_name)


def names() -> list[str]:
    """The names of all applications with a ledger."""
    app_names: list[str] = _ask("names")
    return app_names


@contextmanager
def claim(app_name: str, for_s: float) -> Iterator[str]:
    """Get exclusive permission to change an application's models; it expires after `for_s` if the holder dies.

    Returns:
        The claim, for `write`.
    Raises:
        ServiceUnavailable: another deployment has the claim.
    """
    holder = uuid.uuid4().hex
    if not _ask("claim", app_name, holder, for_s):
        raise ServiceUnavailable(f"another deployment to {app_name} is under way: wait until it has finished")
    try:
        yield holder
    finally:
        with suppress(ServiceUnavailable):  # It expires anyway.
            _ask("release", app_name, holder)


def _ask(method: str, *arguments: object) -> Any:
    """Call the actor; starts it if necessary. Raises ServiceUnavailable if it does not answer in time."""
    try:
        store = ray.remote(Store).options(
            name=STORE,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
        )
        return ray.get(getattr(store.remote(), method).remote(*arguments), timeout=CALL_S)
    except (GetTimeoutError, RayError) as error:
        raise ServiceUnavailable(f"the cluster's ledger did not answer: {type(error).__name__}") from error
