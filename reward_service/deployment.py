"""The reward model as a Ray Serve application: builds the service in a replica, forwards calls, reports health."""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path

from ray import serve
from ray.serve.api import RunTarget
from ray.serve.schema import ApplicationStatus

from dopamine_rl.errors import BadInput, ServiceUnavailable
from dopamine_rl.interfaces import Engine
from dopamine_rl.types import ScoreRequest
from reward_service import lease
from reward_service.scorer import Scorer
from reward_service.service import Answer, ScoringService, ServiceConfig, ServiceDescription, warm_up


class GRMDeployment:
    """One replica: the current checkpoint and, for episodes that began with it, the previous one.

    What it loads are its arguments, which Serve keeps: a replacement of a lost replica comes back with the same.
    """

    def __init__(self, app_name: str, checkpoints: tuple[str, ...], config: ServiceConfig) -> None:
        if config.lease_s > 0:
            lease.watch(app_name, config.lease_s)
        scorers = [Scorer(make_engine(config.engine, Path(folder), config.threads)) for folder in checkpoints]
        for scorer in scorers:
            warm_up(scorer)
        self._service = ScoringService(scorers, config.max_batch_frames, config.batch_wait_ms / 1e3, config.stuck_s)

    async def score(self, request: ScoreRequest) -> Answer:
        """The reply to one request, or the error that is its own."""
        return await self._service.score(request)

    async def describe(self) -> ServiceDescription:
        """This replica's versions and counts."""
        return ServiceDescription(self._service.versions, self._service.counts, os.getpid())

    async def check_health(self) -> None:
        """Called by Serve; raising gets the replica replaced."""
        self._service.check_health()


def make_engine(target: str, folder: Path, threads: int) -> Engine:
    """Call "module:callable" with a checkpoint folder and a number of threads."""
    module, _, name = target.partition(":")
    if not name:
        raise BadInput("engine", target, 'write "module:callable"')
    engine: Engine = getattr(importlib.import_module(module), name)(folder, threads)
    return engine


def deploy(checkpoint: Path, name: str, config: ServiceConfig, previous: Path | None = None) -> None:
    """Serve a checkpoint as the application `name` and return when it answers.

    The application ends with this driver (config.lease_s) or by `shutdown`. Deploying again under the same name
    replaces it without a pause, where there is room for two replicas at once.

    Args:
        checkpoint: folder that every node can read.
        name: unique for the run, so that two jobs on one cluster do not replace each other's application.
        previous: the checkpoint that running episodes began with; it stays available to them.
    Raises:
        ServiceUnavailable: no replica was ready within config.ready_s, or it failed to start; an application that
            did not exist before is deleted again.
    """
    serve.start(proxy_location="Disabled")
    is_new = name not in serve.status().applications
    if config.lease_s > 0:
        lease.hold(name)
    checkpoints = tuple(str(Path(folder).absolute()) for folder in (checkpoint, previous) if folder is not None)
    deployment = serve.deployment(
        num_replicas=config.replicas,
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
        max_surge_percent=100,
        logging_config={"enable_access_log": False},
    )(GRMDeployment)
    target = RunTarget(deployment.bind(name, checkpoints, config), name=name, route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)
    try:
        _wait_until_running(name, config.ready_s)
    except ServiceUnavailable:
        if is_new:
            shutdown(name)
        raise


def shutdown(name: str) -> None:
    """Delete the application; harmless where there is none."""
    serve.delete(name)
    lease.release(name)


def _wait_until_running(name: str, ready_s: float) -> None:
    deadline = time.monotonic() + ready_s
    while True:
        application = serve.status().applications[name]
        if application.status == ApplicationStatus.RUNNING:
            return
        if application.status == ApplicationStatus.DEPLOY_FAILED:
            reasons = "; ".join(deployment.message for deployment in application.deployments.values())
            raise ServiceUnavailable(f"the reward service {name} failed to start: {application.message} {reasons}")
        if time.monotonic() > deadline:
            raise ServiceUnavailable(f"the reward service {name} is not up after {ready_s:g} s: {application.message}")
        time.sleep(0.1)
