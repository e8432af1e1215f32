"""Where the ledgers of all applications lie: in one detached named actor of the cluster.

So they outlive replicas, the Serve controller and the job that wrote them, and end with the cluster. Where the actor itself
is lost, Ray starts it again, empty, and the replicas that follow a ledger give it back (`restore`).
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
"""Time for one question to it; it has none to think about."""
FORGOTTEN = 1000
"""How many of the applications that were forgotten are remembered as such."""


@dataclass
class Store:
    """Ledgers by application, and who may change them. Its methods run one after the other.

    A claim is its holder's name and the time at which it ends by itself. Every method may be called again with the same
    arguments, as Ray does where an answer was lost.
    """

    ledgers: dict[str, bytes] = field(default_factory=dict)
    claims: dict[str, tuple[str, float]] = field(default_factory=dict)
    forgotten: dict[str, None] = field(default_factory=dict)

    def read(self, app_name: str) -> bytes | None:
        """The ledger's bytes; None where there is none."""
        return self.ledgers.get(app_name)

    def names(self) -> list[str]:
        """The applications that have a ledger."""
        return sorted(self.ledgers)

    def write(self, app_name: str, data: bytes, holder: str | None) -> bool:
        """Keep a ledger. False, and nothing is kept, where somebody else holds the claim."""
        if self._holder(app_name) not in (None, holder):
            return False
        self.ledgers[app_name] = data
        self.forgotten.pop(app_name, None)
        return True

    def restore(self, app_name: str, data: bytes) -> None:
        """Keep what a replica follows, unless there is a ledger or it was forgotten on purpose."""
        if app_name not in self.forgotten:
            self.ledgers.setdefault(app_name, data)

    def forget(self, app_name: str) -> None:
        """Remove a ledger and its claim."""
        self.ledgers.pop(app_name, None)
        self.claims.pop(app_name, None)
        self.forgotten[app_name] = None
        while len(self.forgotten) > FORGOTTEN:
            del self.forgotten[next(iter(self.forgotten))]

    def claim(self, app_name: str, holder: str, for_s: float) -> bool:
        """Give the claim to a holder. False where another one has it."""
        if self._holder(app_name) not in (None, holder):
            return False
        self.claims[app_name] = (holder, time.monotonic() + for_s)
        return True

    def release(self, app_name: str, holder: str) -> None:
        """Take a claim back; harmless where it has passed to another holder."""
        if self.claims.get(app_name, ("", 0.0))[0] == holder:
            del self.claims[app_name]

    def _holder(self, app_name: str) -> str | None:
        holder, until = self.claims.get(app_name, (None, 0.0))
        return holder if until > time.monotonic() else None


def read(app_name: str) -> Ledger:
    """The ledger of an application. Raises ServiceUnavailable where there is none, or the cluster cannot be asked."""
    data = _ask("read", app_name)
    if data is None:
        running = ", ".join(names()) or "none"
        raise ServiceUnavailable(f"no reward service named {app_name} is running on this cluster (running: {running})")
    return Ledger.from_json(data)


def write(app_name: str, ledger: Ledger, claim: str | None = None) -> None:
    """Write the ledger of an application; whoever reads it sees the old one or the new one.

    Args:
        claim: what `claim` gave.
    Raises:
        ServiceUnavailable: the claim has passed to somebody else.
    """
    if not _ask("write", app_name, ledger.to_json(), claim):
        raise ServiceUnavailable(f"another deployment to {app_name} has begun: this one took too long")


def restore(app_name: str, ledger: Ledger) -> None:
    """Give back the ledger that a replica follows, where the actor that held it was lost."""
    _ask("restore", app_name, ledger.to_json())


def forget(app_name: str) -> None:
    """Remove the ledger; harmless where there is none."""
    _ask("forget", app_name)


def names() -> list[str]:
    """The applications that have a ledger."""
    listed: list[str] = _ask("names")
    return listed


@contextmanager
def claim(app_name: str, for_s: float) -> Iterator[str]:
    """Be the only one who changes an application's models; a claim whose holder died ends by itself after `for_s`.

    Returns:
        The claim, which `write` asks for.
    Raises:
        ServiceUnavailable: somebody else is changing them.
    """
    holder = uuid.uuid4().hex
    if not _ask("claim", app_name, holder, for_s):
        raise ServiceUnavailable(f"another deployment to {app_name} is under way: wait for its end")
    try:
        yield holder
    finally:
        with suppress(ServiceUnavailable):  # It ends by itself.
            _ask("release", app_name, holder)


def _ask(method: str, *arguments: object) -> Any:
    """Call the actor, which is started where there is none. Raises ServiceUnavailable where it does not answer in time."""
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
