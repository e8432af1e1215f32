"""Moves a running service to other weights, without a request lost and without a pause."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dopamine_rl.errors import BadInput, CheckpointError, ScoringError, ServiceUnavailable
from reward_service import ledger_store
from reward_service.client import ServeRewardClient
from reward_service.releases import KEEP, Ledger, Release
from reward_service.service import ServiceDescription

POLL_S = 0.2
ASK_S = 5.0
"""Time for one question to all replicas."""

IN_USE_S = 30.0
"""A version that was asked for this recently has episodes running."""


@dataclass(frozen=True)
class SwapConfig:
    """How a service is moved to other weights.

    Args:
        keep: older models that stay for the episodes that began with them.
        timeout_s: time for all replicas to load the model, and again for all to begin with it.
        force: drop a model even where it is still being asked for.
    """

    keep: int = KEEP
    timeout_s: float = 180.0
    force: bool = False


@dataclass(frozen=True)
class SwapResult:
    """What a swap did.

    Args:
        version: that new episodes begin with.
        before: that they began with until now; equal where nothing was to do.
        replicas: how many answer with it.
        took_s: from the first look at the checkpoint to the last replica.
    """

    version: str
    before: str
    replicas: int
    took_s: float


def swap(
    app_name: str,
    checkpoint: Path,
    config: SwapConfig | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> SwapResult:
    """Give a service another model: loaded beside the present one by every replica, then new episodes begin with it.

    Running episodes keep their version. A failure before new episodes begin with it leaves everything as it was.

    Args:
        app_name: given to `deploy`.
        checkpoint: folder that every node can read.
        say: told what goes on.
    Raises:
        BadInput: the checkpoint is not a folder.
        CheckpointError: a replica cannot use it.
        ServiceUnavailable: no such service, another swap is under way, a model in use would be dropped, or not all replicas
            loaded it in time; or, after the last word to `say`, not all began with it in time: the ledger stands, they will.
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
            told = _wait(client, config, lambda told: _settled(ledger, told), say)
            version, before = _verdict(ledger, told), told[0].versions[0]
            if version == before:
                say(f"{version} is what new episodes begin with already")
                return SwapResult(version, before, len(told), time.monotonic() - began)
            promoted = ledger.promote(version, config.keep)
            _check_idle(promoted, told, config)
            ledger = _named(promoted, told)
        finally:
            ledger_store.write(app_name, ledger.withdraw(), claim)
        say(f"new episodes begin with {version}, running ones keep theirs")
        told = _wait(client, config, lambda told: all(one.versions[0] == version for one in told), say)
    return SwapResult(version, before, len(told), time.monotonic() - began)


def _wait(
    client: ServeRewardClient,
    config: SwapConfig,
    done: Callable[[Sequence[ServiceDescription]], bool],
    say: Callable[[str], None],
) -> list[ServiceDescription]:
    """Ask all replicas until they are done."""
    deadline, heard = time.monotonic() + config.timeout_s, time.monotonic()
    while True:
        why = "they are not ready"
        try:
            told = client.describe_all(ASK_S)
            if told and done(told):
                return told
        except ScoringError as error:  # A replica was lost just now, or none is up; its replacement will be asked.
            why = str(error)
        if time.monotonic() > deadline:
            raise ServiceUnavailable(f"not all replicas followed within {config.timeout_s:g} s: {why}")
        if time.monotonic() - heard > 5.0:
            heard = time.monotonic()
            say("waiting for the replicas …")
        time.sleep(POLL_S)


def _staged(ledger: Ledger) -> Release:
    assert ledger.staged is not None
    return ledger.staged


def _settled(ledger: Ledger, told: Sequence[ServiceDescription]) -> bool:
    number = _staged(ledger).number
    return any(number in one.refused for one in told) or all(number in one.releases for one in told)


def _verdict(ledger: Ledger, told: Sequence[ServiceDescription]) -> str:
    """The version that every replica found in the folder."""
    release = _staged(ledger)
    for one in told:
        if release.number in one.refused:
            raise CheckpointError(f"{release.folder} is refused: {one.refused[release.number]}")
    versions = {one.releases[release.number] for one in told}
    if len(versions) > 1:
        raise CheckpointError(f"{release.folder} holds different models on different nodes: {', '.join(versions)}")
    return versions.pop()


def _check_idle(promoted: Ledger, told: Sequence[ServiceDescription], config: SwapConfig) -> None:
    if config.force:
        return
    kept = {release.number for release in promoted.releases}
    for one in told:
        for number, version in one.releases.items():
            stays = number in kept or version == promoted.releases[0].version
            idle_s = one.idle_s.get(version, IN_USE_S)
            if not stays and idle_s < IN_USE_S:
                raise ServiceUnavailable(
                    f"version {version} would be dropped, and was asked for {idle_s:.0f} s ago: "
                    f"wait for its episodes to end, keep more versions (--keep), or drop it all the same (--force)"
                )


def _named(ledger: Ledger, told: Sequence[ServiceDescription]) -> Ledger:
    """The same with the versions that replicas found, so that a folder which changes later is noticed."""
    found = {number: version for one in told for number, version in one.releases.items()}
    return Ledger(tuple(Release(r.number, r.folder, r.version or found.get(r.number)) for r in ledger.releases))
