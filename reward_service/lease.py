"""Ends a Serve application together with the job that deployed it, even if that job is killed.

The deploying driver holds a named actor that is not detached, so Ray ends it together with the driver. Every replica
watches that actor, and deletes the application when the actor has been gone for a while. Watching starts before a
replica loads its model, so an application whose replicas keep failing is cleaned up as well.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import ray

logger = logging.getLogger(__name__)

NAMESPACE = "dopamine_rl"
"""Where lease actors are named; the same for all jobs."""

RETRY_S = 2.0
"""Pause before an application that could not be deleted is tried again."""

_held: dict[str, Any] = {}


class _Lease:
    """Does nothing: it is alive as long as its driver."""


def hold(app_name: str) -> None:
    """Take the lease of an application for the life of this driver, or until `release`."""
    # It restarts if its process is lost: only the end of the driver ends it for good.
    actor = ray.remote(_Lease).options(
        name=_lease_name(app_name), namespace=NAMESPACE, get_if_exists=True, num_cpus=0, max_restarts=-1
    )
    _held[app_name] = actor.remote()


def release(app_name: str) -> None:
    """Release the lease; the application must be deleted before."""
    lease = _held.pop(app_name, None)
    if lease is not None:
        ray.kill(lease)


def watch(app_name: str, lease_s: float) -> None:
    """Delete the application once its lease has been gone for `lease_s`; returns at once."""
    threading.Thread(target=_watch, args=(app_name, lease_s), name="lease", daemon=True).start()


def _watch(app_name: str, lease_s: float) -> None:
    last_held = time.monotonic()
    while time.monotonic() - last_held < lease_s:
        time.sleep(lease_s / 10)
        if _held_by_somebody(app_name):
            last_held = time.monotonic()
    logger.warning("The job that deployed %s is gone; deleting the application.", app_name)
    while not _deleted(app_name):
        time.sleep(min(RETRY_S, lease_s))
        if _held_by_somebody(app_name):  # Of a new job, which may have taken the name: what it deploys is not ours.
            return


def _held_by_somebody(app_name: str) -> bool:
    """True unless the lease is known to be gone."""
    try:
        ray.get_actor(_lease_name(app_name), namespace=NAMESPACE)
    except ValueError:
        return False  # No such actor.
    except Exception as error:  # The cluster could not be asked, which says nothing about the driver.
        logger.warning("The lease of %s could not be looked up: %s", app_name, error)
    return True


def _deleted(app_name: str) -> bool:
    """Delete the application and its ledger. False if that failed and must be retried, as while Serve restarts."""
    from ray import serve  # Here: it would double the memory of the lease's own process.

    from reward_service import ledger_store

    try:
        ledger_store.forget(app_name)  # First, since deleting the application ends this process.
        serve.delete(app_name)
        return app_name not in serve.status().applications
    except Exception as error:
        logger.warning("%s could not be deleted yet: %s", app_name, error)
        return False


def _lease_name(app_name: str) -> str:
    return f"lease of {app_name}"
