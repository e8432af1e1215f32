"""The reward model as a Ray Serve application: builds the service in each replica, forwards calls, reports health."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.api import RunTarget
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.schema import ApplicationStatus

from dopamine_rl.errors import BadInput, CheckpointError, ServiceUnavailable
from dopamine_rl.interfaces import Engine, ProgressScorer
from dopamine_rl.process_log import RUN_VARIABLE, identify
from dopamine_rl.types import ScoreRequest
from reward_service import lease, ledger_store
from reward_service.releases import Ledger, LoadedModels, Release
from reward_service.replica_metrics import record_counts
from reward_service.scorer import Scorer
from reward_service.service import (
    Answer,
    ScoringService,
    ServiceConfig,
    ServiceCounts,
    ServiceDescription,
    warm_up,
)

logger = logging.getLogger(__name__)

RECORD_S = 1.0
"""Interval at which a replica records its metrics."""

FOLLOW_S = 0.25
"""Interval at which a replica reads the ledger."""

ROUTER: Any = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""Routes an episode's requests to one replica, which caches its pictures; to the next one if it is full or gone."""


class GRMDeployment:
    """A replica. It serves the models listed in the application's ledger, and follows changes of the ledger."""

    def __init__(self, app_name: str, config: ServiceConfig, checkpoint: str | None = None) -> None:
        """Serve the ledger's models; where nobody has written a ledger, that of `checkpoint`."""
        identify(role="replica", application=app_name)
        if config.lease_s > 0:
            lease.watch(app_name, config.lease_s)
        self._app_name = app_name
        self._models = LoadedModels(lambda folder: _load(folder, config))
        if checkpoint is not None:
            ledger_store.restore(app_name, _first(checkpoint))
        ledger = ledger_store.read(app_name)
        self._latest = _LedgerRead(time.monotonic(), ledger)
        self._read_now = threading.Event()
        self._changed = threading.Event()
        self._scorers = self._models.update(ledger)
        current = ledger.releases[0]
        if current.number not in self._scorers:
            raise CheckpointError(f"{current.folder} cannot be served: {self._models.refused[current.number]}")
        self._service = ScoringService(
            _serving(ledger, self._scorers), config.max_batch_frames, config.batch_wait_ms / 1e3, config.stuck_s
        )
        threading.Thread(target=self._watch_ledger, name="ledger", daemon=True).start()
        threading.Thread(target=self._record, name="metrics", daemon=True).start()
        threading.Thread(target=self._update_models, args=(ledger,), name="models", daemon=True).start()

    async def score(self, request: ScoreRequest) -> Answer:
        """The reply to a request, or its error as a value."""
        version = request.context.model_version
        if version is not None and version not in self._service.versions:
            await self._until_loaded(version, request.remaining_ms / 1e3)
        return await self._service.score(request)

    async def describe(self) -> ServiceDescription:
        """This replica's model versions and counters."""
        now, service = time.monotonic(), self._service
        return ServiceDescription(
            versions=service.versions,
            towers=service.towers,
            counts=service.counts,
            process_id=os.getpid(),
            releases={number: scorer.model_version for number, scorer in self._scorers.items()},
            refused=dict(self._models.refused),
            idle_s={version: now - requested_at for version, requested_at in service.last_requests.items()},
        )

    async def check_health(self) -> None:
        """Called by Serve, which replaces the replica if this raises."""
        self._service.check_health()

    def _watch_ledger(self) -> None:
        """Thread: keep a recent copy of the ledger, so that requests need not read it from the cluster."""
        while True:
            self._read_now.wait(FOLLOW_S)
            self._read_now.clear()
            began, ledger = time.monotonic(), self._latest.ledger
            try:
                ledger = ledger_store.read(self._app_name)
            except ServiceUnavailable as error:  # The loaded models stay.
                logger.warning("The ledger of %s is not available: %s", self._app_name, error)
                with contextlib.suppress(ServiceUnavailable):
                    ledger_store.restore(self._app_name, ledger)
            except Exception:  # The thread must not end before the replica.
                logger.exception("The ledger of %s could not be read", self._app_name)
            self._latest = _LedgerRead(began, ledger)
            self._changed.set()

    def _update_models(self, followed: Ledger) -> None:
        """Thread: load and unload models as the ledger changes, while the service keeps answering."""
        while True:
            self._changed.wait()
            self._changed.clear()
            ledger = self._latest.ledger
            if ledger != followed:
                try:
                    self._scorers = self._models.update(ledger)
                    self._service.scorers = _serving(ledger, self._scorers) or self._service.scorers
                    followed = ledger
                except Exception:  # The loaded models stay.
                    logger.exception("The models of %s could not be updated", self._app_name)

    def _record(self) -> None:
        """Thread: record metrics, so that no request pays for them."""
        recorded = ServiceCounts()
        while True:
            time.sleep(RECORD_S)
            recorded = record_counts(self._app_name, self._service, recorded)

    async def _until_loaded(self, version: str, timeout_s: float) -> None:
        """Wait for a version that this replica is still loading, as after a start, while others already serve it.

        Whether the version is coming is decided by a read of the ledger that began after the request arrived; an older
        one may have missed it.
        """
        arrived = time.monotonic()
        while version not in self._service.versions and time.monotonic() < arrived + timeout_s:
            latest = self._latest
            if latest.began < arrived:
                self._read_now.set()
            elif not any(r.version == version and r.number not in self._models.refused for r in latest.ledger.releases):
                return
            await asyncio.sleep(0.02)


@dataclass(frozen=True)
class _LedgerRead:
    """A copy of the ledger, and when reading it began (monotonic seconds)."""

    began: float
    ledger: Ledger


def _serving(ledger: Ledger, scorers: Mapping[int, ProgressScorer]) -> tuple[ProgressScorer, ...]:
    """The scorers to serve: those of the loaded releases, the current one first."""
    return tuple(scorers[release.number] for release in ledger.releases if release.number in scorers)


def _load(folder: str, config: ServiceConfig) -> ProgressScorer:
    scorer = Scorer(make_engine(Path(folder), config))
    warm_up(scorer)
    return scorer


def make_engine(folder: Path, config: ServiceConfig) -> Engine:
    """Make an engine: call the config's "module:callable" with a checkpoint folder and a number of threads.

    An engine with a `device` argument gets "cuda" if the replica has a GPU; others choose their device themselves.

    Raises:
        BadInput: the engine's name is not "module:callable", or the engine cannot use the GPU.
        CheckpointError: the folder holds no usable model.
    """
    module, _, name = config.engine.partition(":")
    if not name:
        raise BadInput("engine", config.engine, 'write "module:callable"')
    load = getattr(importlib.import_module(module), name)
    # Without num_gpus Ray may not hide the machine's GPUs, so an engine must not choose by what it detects.
    on_gpu = config.num_gpus > 0 and "device" in inspect.signature(load).parameters
    engine: Engine = load(folder, config.threads, **({"device": "cuda"} if on_gpu else {}))
    return engine


def deploy(checkpoint: Path, name: str, config: ServiceConfig) -> None:
    """Serve a checkpoint as a new application; returns when it answers.

    The application ends with this driver (see config.lease_s) or by `shutdown`; `reward_service.swap` changes its
    model.

    Args:
        checkpoint: folder that every node can read.
        name: application name; unique per run, so that jobs on one cluster do not collide.
        config: how it is served.
    Raises:
        BadInput: an application with this name is running.
        ServiceUnavailable: no replica was ready within config.ready_s, or a replica failed to start (the application is
            deleted in both cases); or another driver is deploying an application with this name.
    """
    serve.start(proxy_location="Disabled")
    with ledger_store.claim(name, config.ready_s + 60.0) as claim:
        if name in serve.status().applications:
            raise BadInput("name", name, "choose another name: an application with this one is running on the cluster")
        if config.lease_s > 0:
            lease.hold(name)
        ledger_store.write(name, _first(checkpoint.absolute()), claim)
        _start(name, config)


def _first(checkpoint: Path | str) -> Ledger:
    return Ledger((Release(1, str(checkpoint)),))


def _start(name: str, config: ServiceConfig) -> None:
    """Start the application and wait until it answers; delete it if it does not."""
    target = RunTarget(application(name, config), name=name, route_prefix=None)
    try:
        serve.run_many([target], wait_for_applications_running=False)
        _wait_until_running(name, config.ready_s)
    except BaseException:
        shutdown(name)
        raise


def application(name: str, config: ServiceConfig, checkpoint: str | None = None) -> Application:
    """The Serve application; as for GRMDeployment."""
    deployment = serve.deployment(
        **_scale(config),
        ray_actor_options={
            "num_cpus": config.num_cpus,
            "num_gpus": config.num_gpus,
            "runtime_env": _environment(config),
        },
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.max_queued_requests,
        max_constructor_retry_count=2,
        # Health checks detect a lost replica: their period is most of the time until its replacement answers.
        health_check_period_s=1.0,
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
        logging_config={"enable_access_log": False},
    )(GRMDeployment)
    bound: Application = deployment.bind(name, config, checkpoint)
    return bound


def _environment(config: ServiceConfig) -> dict[str, Any]:
    """The replicas' runtime_env. Serve's own processes, which start them, may belong to another run."""
    named = {"env_vars": {RUN_VARIABLE: os.environ[RUN_VARIABLE]}} if RUN_VARIABLE in os.environ else {}
    return named | ({"py_executable": str(Path(config.python).absolute())} if config.python else {})


def _scale(config: ServiceConfig) -> dict[str, Any]:
    if config.max_replicas <= config.replicas:
        return {"num_replicas": config.replicas}
    scaling = AutoscalingConfig(
        min_replicas=config.replicas,
        initial_replicas=config.replicas,
        max_replicas=config.max_replicas,
        target_ongoing_requests=config.target_requests,
        upscale_delay_s=config.scale_up_s,
        downscale_delay_s=config.scale_down_s,
        look_back_period_s=max(1.0, min(30.0, config.scale_up_s)),
        metrics_interval_s=max(0.5, min(10.0, config.scale_up_s / 3)),
    )
    return {"autoscaling_config": scaling}


def shutdown(name: str) -> None:
    """Delete the application, if it exists."""
    serve.delete(name)
    lease.release(name)
    ledger_store.forget(name)


def _reason(message: str) -> str:
    """A replica's own error, without the traceback that Serve adds; without such an error the last line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("dopamine_rl.errors.")]
    return (errors or lines or [""])[-1].removeprefix("dopamine_rl.errors.")


def _wait_until_running(name: str, ready_s: float) -> None:
    deadline = time.monotonic() + ready_s
    while True:
        application = serve.status().applications[name]
        if application.status == ApplicationStatus.RUNNING:
            return
        if application.status == ApplicationStatus.DEPLOY_FAILED:
            reasons = "; ".join(_reason(deployment.message) for deployment in application.deployments.values())
            raise ServiceUnavailable(f"the reward service {name} failed to start: {application.message} {reasons}")
        if time.monotonic() > deadline:
            raise ServiceUnavailable(
                f"the reward service {name} was not ready after {ready_s:g} s: {application.message}"
            )
        time.sleep(0.1)
