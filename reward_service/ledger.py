"""Where an application's ledger lies: in the cluster's own key-value store, beside what Serve remembers of it.

So it outlives replicas, the Serve controller and the job that wrote it, and ends with the cluster.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray.experimental import internal_kv

from dopamine_rl.errors import ServiceUnavailable
from reward_service.releases import Ledger

NAMESPACE = "dopamine_rl"


def read(app_name: str) -> Ledger:
    """The ledger of an application. Raises ServiceUnavailable where there is none."""
    data = internal_kv._internal_kv_get(_key(app_name), namespace=NAMESPACE)
    if data is None:
        known = ", ".join(names()) or "none"
        raise ServiceUnavailable(f"no reward service named {app_name} is running on this cluster (running: {known})")
    return Ledger.from_json(data)


def write(app_name: str, ledger: Ledger) -> None:
    """Write the ledger of an application; whoever reads it sees the old one or the new one."""
    internal_kv._internal_kv_put(_key(app_name), ledger.to_json(), namespace=NAMESPACE)


def forget(app_name: str) -> None:
    """Remove the ledger; harmless where there is none."""
    internal_kv._internal_kv_del(_key(app_name), namespace=NAMESPACE)


def names() -> list[str]:
    """The applications that have a ledger."""
    prefix = _key("")
    keys = internal_kv._internal_kv_list(prefix, namespace=NAMESPACE)
    return sorted(bytes(key)[len(prefix) :].decode() for key in keys)


@contextmanager
def claimed(app_name: str, for_s: float) -> Iterator[None]:
    """Be the only one who changes an application's models; a claim whose holder died ends by itself after `for_s`.

    Raises:
        ServiceUnavailable: somebody else is changing them.
    """
    key = f"claim/{app_name}".encode()
    held = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
    if held is not None and float(held) < time.time():
        internal_kv._internal_kv_del(key, namespace=NAMESPACE)
    until = repr(time.time() + for_s).encode()
    if internal_kv._internal_kv_put(key, until, overwrite=False, namespace=NAMESPACE):
        raise ServiceUnavailable(f"another deployment to {app_name} is under way: wait for its end")
    try:
        yield
    finally:
        internal_kv._internal_kv_del(key, namespace=NAMESPACE)


def _key(app_name: str) -> bytes:
    return f"ledger/{app_name}".encode()
