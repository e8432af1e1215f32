"""The reward model as a Ray Serve application: builds the service in a replica, forwards calls, reports health."""

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
from ray.serve.api import RunTarget
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.schema import ApplicationStatus

from dopamine_rl.errors import BadInput, CheckpointError, ServiceUnavailable
from dopamine_rl.interfaces import Engine, ProgressScorer
from dopamine_rl.types import ScoreRequest
from reward_service import lease, ledger
from reward_service.releases import Ledger, Release, Shelf
from reward_service.scorer import Scorer
from reward_service.service import Answer, ScoringService, ServiceConfig, ServiceDescription, warm_up

logger = logging.getLogger(__name__)

FOLLOW_S = 0.25
"""How often a replica looks into the ledger."""

ROUTER: Any = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""All requests of an episode go to one replica, where its pictures are kept; to its neighbour where that one is full or gone."""


class GRMDeployment:
    """One replica: it holds the models that the application's ledger names, and follows every change of it."""

    def __init__(self, app_name: str, config: ServiceConfig) -> None:
        if config.lease_s > 0:
            lease.watch(app_name, config.lease_s)
        self._app_name = app_name
        self._shelf = Shelf(lambda folder: _load(folder, config))
        record = ledger.read(app_name)
        self._latest = _Look(time.monotonic(), record)
        self._look_now = threading.Event()
        self._changed = threading.Event()
        self._held = self._shelf.follow(record)
        current = record.releases[0]
        if current.number not in self._held:
            raise CheckpointError(f"{current.folder} cannot be served: {self._shelf.refused[current.number]}")
        self._service = ScoringService(
            _serving(record, self._held), config.max_batch_frames, config.batch_wait_ms / 1e3, config.stuck_s
        )
        threading.Thread(target=self._look, name="ledger", daemon=True).start()
        threading.Thread(target=self._follow, args=(record,), name="models", daemon=True).start()

    async def score(self, request: ScoreRequest) -> Answer:
        """The reply to one request, or the error that is its own."""
        wanted = request.context.model_version
        if wanted is not None and wanted not in self._service.versions:
            await self._until_loaded(wanted, request.remaining_ms / 1e3)
        return await self._service.score(request)

    async def describe(self) -> ServiceDescription:
        """This replica's versions and counts."""
        now, service = time.monotonic(), self._service
        return ServiceDescription(
            versions=service.versions,
            counts=service.counts,
            process_id=os.getpid(),
            releases={number: scorer.model_version for number, scorer in self._held.items()},
            refused=dict(self._shelf.refused),
            idle_s={version: now - asked for version, asked in service.asked_at.items()},
        )

    async def check_health(self) -> None:
        """Called by Serve; raising gets the replica replaced."""
        self._service.check_health()

    def _look(self) -> None:
        """Keep the latest ledger at hand, so that no request has to ask the cluster for it."""
        while True:
            self._look_now.wait(FOLLOW_S)
            self._look_now.clear()
            began, record = time.monotonic(), self._latest.record
            try:
                record = ledger.read(self._app_name)
            except ServiceUnavailable as error:  # What is held stays.
                logger.warning("The ledger of %s could not be followed: %s", self._app_name, error)
                with contextlib.suppress(ServiceUnavailable):
                    ledger.restore(self._app_name, record)
            except Exception:  # The thread must live as long as the replica.
                logger.exception("The ledger of %s could not be read", self._app_name)
            self._latest = _Look(began, record)
            self._changed.set()

    def _follow(self, followed: Ledger) -> None:
        """Load and let go of models as the ledger changes, while the others answer."""
        while True:
            self._changed.wait()
            self._changed.clear()
            record = self._latest.record
            if record != followed:
                try:
                    self._held = self._shelf.follow(record)
                    self._service.scorers = _serving(record, self._held) or self._service.scorers
                    followed = record
                except Exception:  # What is held stays.
                    logger.exception("The models of %s could not be followed", self._app_name)

    async def _until_loaded(self, version: str, timeout_s: float) -> None:
        """A replica that has just started may still be loading what others answer with: wait for it, if it is coming.

        Whether it is coming says a look at the ledger that began after the request arrived; an older one may have missed it.
        """
        arrived = time.monotonic()
        while version not in self._service.versions and time.monotonic() < arrived + timeout_s:
            latest = self._latest
            if latest.began < arrived:
                self._look_now.set()
            elif not any(r.version == version and r.number not in self._shelf.refused for r in latest.record.releases):
                return
            await asyncio.sleep(0.02)


@dataclass(frozen=True)
class _Look:
    """What a look at the ledger showed, and when it began (monotonic seconds)."""

    began: float
    record: Ledger


def _serving(record: Ledger, held: Mapping[int, ProgressScorer]) -> tuple[ProgressScorer, ...]:
    """What is answered with: the releases that are held, the current one first."""
    return tuple(held[release.number] for release in record.releases if release.number in held)


def _load(folder: str, config: ServiceConfig) -> ProgressScorer:
    scorer = Scorer(make_engine(Path(folder), config))
    warm_up(scorer)
    return scorer


def make_engine(folder: Path, config: ServiceConfig) -> Engine:
    """Call the config's "module:callable" with a checkpoint folder and a number of threads.

    An engine that takes a `device` gets "cuda" where the replica has a GPU; any other finds its device itself.

    Raises:
        BadInput: the name is not "module:callable", or the engine cannot use the GPU.
        CheckpointError: the folder does not hold a usable model.
    """
    module, _, name = config.engine.partition(":")
    if not name:
        raise BadInput("engine", config.engine, 'write "module:callable"')
    load = getattr(importlib.import_module(module), name)
    # Ray may show a replica without a GPU those of the machine, so an engine must not choose by what it sees.
    on_gpu = config.num_gpus > 0 and "device" in inspect.signature(load).parameters
    engine: Engine = load(folder, config.threads, **({"device": "cuda"} if on_gpu else {}))
    return engine


def deploy(checkpoint: Path, name: str, config: ServiceConfig) -> None:
    """Serve a checkpoint as a new application and return when it answers.

    The application ends with this driver (config.lease_s) or by `shutdown`; `reward_service.swap` gives it other weights.

    Args:
        checkpoint: folder that every node can read.
        name: unique for the run, so that two jobs on one cluster do not meet.
    Raises:
        BadInput: an application of this name is running.
        ServiceUnavailable: no replica was ready within config.ready_s, or it failed to start: nothing is left of it; or
            another driver is deploying an application of this name.
    """
    serve.start(proxy_location="Disabled")
    with ledger.claimed(name, config.ready_s + 60.0) as claim:
        if name in serve.status().applications:
            raise BadInput("name", name, "choose another one: an application of this name is running on the cluster")
        if config.lease_s > 0:
            lease.hold(name)
        ledger.write(name, Ledger((Release(1, str(Path(checkpoint).absolute())),)), claim)
        _start(name, config)


def _start(name: str, config: ServiceConfig) -> None:
    """Start the application and wait until it answers; nothing is left of one that does not."""
    deployment = serve.deployment(
        **_scale(config),
        ray_actor_options={
            "num_cpus": config.num_cpus,
            "num_gpus": config.num_gpus,
            "runtime_env": {"py_executable": str(Path(config.python).absolute())} if config.python else {},
        },
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.max_queued_requests,
        max_constructor_retry_count=2,
        # A lost replica is noticed by its health check: this is most of the time until its replacement answers.
        health_check_period_s=1.0,
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
        logging_config={"enable_access_log": False},
    )(GRMDeployment)
    target = RunTarget(deployment.bind(name, config), name=name, route_prefix=None)
    try:
        serve.run_many([target], wait_for_applications_running=False)
        _wait_until_running(name, config.ready_s)
    except BaseException:
        shutdown(name)
        raise


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
    """Delete the application; harmless where there is none."""
    serve.delete(name)
    lease.release(name)
    ledger.forget(name)


def _reason(message: str) -> str:
    """What a replica said on purpose, without the traceback that Serve puts around it; else the whole message."""
    said = [line.strip() for line in message.splitlines() if line.strip().startswith("dopamine_rl.errors.")]
    return said[-1].removeprefix("dopamine_rl.errors.") if said else message


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
            raise ServiceUnavailable(f"the reward service {name} is not up after {ready_s:g} s: {application.message}")
        time.sleep(0.1)
