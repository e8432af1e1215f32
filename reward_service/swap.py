"""Hot swap: gives a running service another model, without losing a request and without downtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dopamine_rl.errors import BadInput, CheckpointError, ScoringError, ServiceUnavailable
from dopamine_rl.interfaces import OnProgress, no_progress
from reward_service import ledger_store
from reward_service.client import ServeRewardClient
from reward_service.releases import KEEP, Ledger, Release
from reward_service.service import ServiceDescription

POLL_S = 0.2
ASK_S = 5.0
"""Time limit for describing all replicas."""

IN_USE_S = 30.0
"""A version requested this recently is assumed to have running episodes."""


@dataclass(frozen=True)
class SwapConfig:
    """Settings of a swap.

    Args:
        keep: number of older models that stay loaded for the running episodes.
        timeout_s: time limit for all replicas to load the model, and again for all to switch to it.
        force: unload older models even if they are still in use.
    """

    keep: int = KEEP
    timeout_s: float = 180.0
    force: bool = False


@dataclass(frozen=True)
class SwapResult:
    """Result of a swap.

    Args:
        version: the new current version, used by new episodes.
        before: the current version before; equal to `version` if it was already served.
        replicas: number of replicas that serve it.
        took_s: duration of the swap.
    """

    version: str
    before: str
    replicas: int
    took_s: float


def swap(
    app_name: str,
    checkpoint: Path,
    config: SwapConfig | None = None,
    on_progress: OnProgress = no_progress,
) -> SwapResult:
    """Swap the model of a service: every replica loads it beside the current one, then new episodes use it.

    Running episodes keep their version. A failure before the switch leaves everything unchanged.

    Args:
        app_name: as given to `deploy`.
        checkpoint: folder that every node can read.
        config: settings of the swap.
        on_progress: called while the replicas load, and when new episodes use the model.
    Raises:
        BadInput: the checkpoint is not a folder.
        CheckpointError: a replica cannot load it.
        ServiceUnavailable: there is no such service, another swap is in progress, a model in use would be unloaded, or
            not all replicas loaded the new one in time. If not all switched in time, the swap still takes effect.
    """
    config, began = config or SwapConfig(), time.monotonic()
    folder = Path(checkpoint).absolute()
    if not folder.is_dir():
        raise BadInput("CHECKPOINT", str(checkpoint), "give the folder of a reward model")
    client = ServeRewardClient(app_name)
    with ledger_store.claim(app_name, 2 * config.timeout_s + 60.0) as claim:
        ledger = ledger_store.read(app_name)
        ledger = ledger.stage(str(folder))
        ledger_store.write(app_name, ledger, claim)
        try:
            replicas = _wait(client, config, lambda replicas: _is_settled(ledger, replicas), on_progress)
            version, before = _staged_version(ledger, replicas), replicas[0].versions[0]
            if version == before:
                on_progress(f"{version} is the current version already", True)
                return SwapResult(version, before, len(replicas), time.monotonic() - began)
            promoted = ledger.promote(version, config.keep)
            _check_idle(promoted, replicas, config)
            ledger = _with_versions(promoted, replicas)
        finally:
            ledger_store.write(app_name, ledger.withdraw(), claim)
        on_progress(f"new episodes use {version}, running ones keep their version", True)
        replicas = _wait(client, config, lambda replicas: all(r.versions[0] == version for r in replicas), on_progress)
    return SwapResult(version, before, len(replicas), time.monotonic() - began)


def _wait(
    client: ServeRewardClient,
    config: SwapConfig,
    done: Callable[[Sequence[ServiceDescription]], bool],
    on_progress: OnProgress,
) -> list[ServiceDescription]:
    """Poll all replicas until `done`."""
    deadline, reported_at = time.monotonic() + config.timeout_s, time.monotonic()
    while True:
        why = "they are not ready"
        try:
            replicas = client.describe_all(ASK_S)
            if replicas and done(replicas):
                return replicas
        except ScoringError as error:  # A replica was lost or none is up; the next poll reaches its replacement.
            why = str(error)
        if time.monotonic() > deadline:
            raise ServiceUnavailable(f"not all replicas were ready within {config.timeout_s:g} s: {why}")
        if time.monotonic() - reported_at > 5.0:
            reported_at = time.monotonic()
            on_progress("waiting for the replicas …", True)
        time.sleep(POLL_S)


def _staged(ledger: Ledger) -> Release:
    assert ledger.staged is not None
    return ledger.staged


def _is_settled(ledger: Ledger, replicas: Sequence[ServiceDescription]) -> bool:
    number = _staged(ledger).number
    return any(number in replica.refused for replica in replicas) or all(number in r.releases for r in replicas)


def _staged_version(ledger: Ledger, replicas: Sequence[ServiceDescription]) -> str:
    """The version of the staged model, which must be the same on all replicas."""
    release = _staged(ledger)
    for replica in replicas:
        if release.number in replica.refused:
            raise CheckpointError(f"{release.folder} is refused: {replica.refused[release.number]}")
    versions = {replica.releases[release.number] for replica in replicas}
    if len(versions) > 1:
        raise CheckpointError(f"{release.folder} holds different models on different nodes: {', '.join(versions)}")
    return versions.pop()


def _check_idle(promoted: Ledger, replicas: Sequence[ServiceDescription], config: SwapConfig) -> None:
    if config.force:
        return
    remaining = {release.number for release in promoted.releases}
    for replica in replicas:
        for number, version in replica.releases.items():
            stays = number in remaining or version == promoted.releases[0].version
            idle_s = replica.idle_s.get(version, IN_USE_S)
            if not stays and idle_s < IN_USE_S:
                raise ServiceUnavailable(
                    f"version {version} would be dropped, but was requested {idle_s:.0f} s ago: "
                    f"wait for its episodes to end, keep more versions (--keep), or drop it anyway (--force)"
                )


def _with_versions(ledger: Ledger, replicas: Sequence[ServiceDescription]) -> Ledger:
    """Fill in the loaded versions, so that a folder whose content changes later is noticed."""
    versions = {number: version for replica in replicas for number, version in replica.releases.items()}
    return Ledger(tuple(Release(r.number, r.folder, r.version or versions.get(r.number)) for r in ledger.releases))
