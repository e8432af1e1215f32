"""Dynamic batching in a replica, without Ray: queued requests are batched and scored by their model version.

Requests of all callers share one queue. Whenever the model is free, everything in the queue (up to a number of frames)
becomes the next batch, so batches grow with the load; an idle service waits a few milliseconds for more. (Ray Serve's
batching closes a batch a fixed time after its first request, even while the model is busy, so under load it piles up
small batches; it also moves a request that does not fit behind newer ones.)
"""

from __future__ import annotations

import ast
import asyncio
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from dopamine_rl.errors import (
    BadInput,
    CheckpointError,
    ScoringError,
    ScoringTimeout,
    ServiceUnavailable,
    TowerUnavailable,
    VersionUnavailable,
    require,
)
from dopamine_rl.interfaces import ProgressScorer, tower_version
from dopamine_rl.spelling import nearest
from dopamine_rl.types import EpisodeContext, ScoreReply, ScoreRequest
from reward_service.scorer import check_tower

logger = logging.getLogger(__name__)

Answer = ScoreReply | ScoringError
"""What a replica returns. Errors are returned as values, so that one neither has a traceback nor fails the batch."""


@dataclass(frozen=True)
class ServiceConfig:
    """How the reward model is served.

    Args:
        replicas: copies of the model, each in its own process.
        num_cpus: CPUs reserved for each replica.
        num_gpus: GPUs (or a share of one) reserved for each replica.
        threads: CPU threads of a replica's forward pass.
        max_batch_frames: most frames in a batch; a longer request is a batch of its own.
        batch_wait_ms: how long an idle replica waits for more requests after the first.
        max_ongoing_requests: requests a replica holds, queued or in the model; the rest are queued at their callers.
        max_queued_requests: requests queued at each caller; more are refused as Overloaded.
        stuck_s: a replica whose batch takes longer than this is replaced.
        ready_s: how long `deploy` waits for the first ready replica.
        lease_s: the application is deleted this long after the job that deployed it died; 0 keeps it for ever.
        max_replicas: if larger than `replicas`, the number of replicas follows the load.
        target_requests: average number of requests per replica, queued or in the model, above which one is added.
        scale_up_s: how long the load must be high before a replica is added.
        scale_down_s: how long the load must be low before a replica is removed.
        engine: "module:callable" that makes an engine from (checkpoint folder, threads); if it has a `device` argument
            and num_gpus is above 0, it gets "cuda".
        python: Python interpreter of the replicas, from an environment with the engine's dependencies and the cluster's
            Ray and Python versions; empty for the cluster's own.
    """

    replicas: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    threads: int = 1
    max_batch_frames: int = 32
    batch_wait_ms: float = 4.0
    max_ongoing_requests: int = 64
    max_queued_requests: int = 256
    stuck_s: float = 60.0
    ready_s: float = 180.0
    lease_s: float = 10.0
    max_replicas: int = 1
    target_requests: float = 8.0
    scale_up_s: float = 10.0
    scale_down_s: float = 300.0
    engine: str = "reward_service.engines.transformers:TransformersEngine"
    python: str = ""

    def __post_init__(self) -> None:
        counts = ("replicas", "threads", "max_batch_frames", "max_ongoing_requests", "max_queued_requests")
        require(
            "service",
            self,
            *((name, getattr(self, name) >= 1, "give at least 1") for name in counts),
            ("max_replicas", self.max_replicas >= 1, "give a number of replicas"),
            ("target_requests", self.target_requests > 0, "give a number above 0"),
            ("num_gpus", 0.0 <= self.num_gpus < math.inf, "give a number of GPUs, a share of one, or 0"),
            *((name, getattr(self, name) >= 0, "give 0 or more seconds") for name in ("scale_up_s", "scale_down_s")),
            ("batch_wait_ms", 0.0 <= self.batch_wait_ms < 1e6, "give 0 or more milliseconds"),
            ("lease_s", 0.0 <= self.lease_s < 1e9, "give 0 or more seconds; 0 keeps the application for ever"),
            ("ready_s", 0.0 < self.ready_s < 1e6, "give seconds above 0"),
            ("engine", all(self.engine.partition(":")), "write module:callable"),
        )


def check_engine(config: ServiceConfig) -> None:
    """Check that the engine's module can be found and defines the callable, without importing it.

    Engines of another interpreter are not checked, but that there is such an interpreter.

    Raises:
        BadInput: there is no such module, callable or interpreter.
    """
    if config.python:
        if not (Path(config.python).is_file() and os.access(config.python, os.X_OK)):
            raise BadInput("service.python", config.python, "give the Python interpreter of an environment")
        return
    module, _, name = config.engine.partition(":")
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # a parent package is missing, or the name is not one
        spec = None
    if spec is None:
        raise BadInput("service.engine", config.engine, f"there is no module {module!r}: write module:callable")
    names = _names_in(spec)
    if names is not None and name not in names:
        near = nearest(name, names)
        fix = f"write {module}:{near}" if near else "write module:callable"
        raise BadInput("service.engine", config.engine, f"{module} has no {name}: {fix}")


def _names_in(spec: ModuleSpec) -> set[str] | None:
    """The names that a module's source defines or imports; None if they cannot be told without running it."""
    try:
        waiting: list[ast.AST] = [ast.parse(Path(spec.origin or "").read_bytes())]
    except (OSError, ValueError, SyntaxError, RecursionError):  # not Python; importing it says what is wrong
        return None
    names: set[str] = set()
    while waiting:
        match waiting.pop():
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=asname):
                names.add(asname or name.partition(".")[0])
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case node:
                waiting.extend(ast.iter_child_nodes(node))
    return None if names & {"*", "__getattr__"} else names


@dataclass
class ServiceCounts:
    """Counters of a replica since its start.

    Args:
        requests, frames, batches: answered by the model.
        encoded: of the frames, those with tokens in place of pictures.
        expired, cancelled: requests dropped before they reached the model.
        wrong_version: requests for a model version that this replica does not serve.
        wrong_tower: requests with tokens that the model cannot use.
        failed: requests that failed in the engine.
        largest_batch: in frames.
        longest_line: most requests queued at once.
        model_s: seconds spent in the model.
    """

    requests: int = 0
    frames: int = 0
    batches: int = 0
    encoded: int = 0
    expired: int = 0
    cancelled: int = 0
    wrong_version: int = 0
    wrong_tower: int = 0
    failed: int = 0
    largest_batch: int = 0
    longest_line: int = 0
    model_s: float = 0.0


@dataclass(frozen=True)
class ServiceDescription:
    """State of a replica.

    Args:
        versions: the model versions served, the current one first.
        towers: the version of each one's vision tower, whose tokens it takes; "" where it takes pictures alone.
        counts: counters since its start.
        process_id: of the replica.
        releases: versions of the loaded releases (staged ones included), by release number.
        refused: why a release could not be loaded, by number.
        idle_s: seconds since the last request for each version that was ever requested.
    """

    versions: tuple[str, ...]
    towers: tuple[str, ...]
    counts: ServiceCounts
    process_id: int
    releases: dict[int, str]
    refused: dict[int, str]
    idle_s: dict[str, float]


@dataclass(eq=False)
class _Waiting:
    request: ScoreRequest
    scorer: ProgressScorer
    arrived: float
    answer: asyncio.Future[Answer]


@dataclass
class ScoringService:
    """Answers requests of many callers in batches, on one event loop.

    Args:
        scorers: one per model version, the current one first; older ones serve the episodes that started with them. May
            be replaced as a whole at any time; queued requests keep their scorer.
        max_batch_frames, batch_wait_s, stuck_s: as in ServiceConfig.
        clock: seconds, monotonic.
    """

    scorers: Sequence[ProgressScorer]
    max_batch_frames: int
    batch_wait_s: float
    stuck_s: float
    clock: Callable[[], float] = time.monotonic
    counts: ServiceCounts = field(default_factory=ServiceCounts)
    last_requests: dict[str, float] = field(default_factory=dict)
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _worker: asyncio.Task[None] | None = None
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _busy_since: float | None = None

    @property
    def versions(self) -> tuple[str, ...]:
        """The model versions served, the current one first."""
        return tuple(scorer.model_version for scorer in self.scorers)

    @property
    def towers(self) -> tuple[str, ...]:
        """The vision tower of each version; "" where it takes pictures alone."""
        return tuple(tower_version(scorer) for scorer in self.scorers)

    @property
    def waiting(self) -> int:
        """Requests queued for the model."""
        return len(self._waiting)

    async def score(self, request: ScoreRequest) -> Answer:
        """Queue a request; returns its reply, or its error as a value."""
        scorer = self._scorer(request.context.model_version)
        if scorer is None:
            self.counts.wrong_version += 1
            version, served = request.context.model_version, ", ".join(self.versions)
            return VersionUnavailable(f"version {version} is requested, {served} served")
        try:
            check_tower(request, tower_version(scorer))
        except TowerUnavailable as error:
            self.counts.wrong_tower += 1
            return error.with_traceback(None)
        self.last_requests[scorer.model_version] = self.clock()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        waiting = _Waiting(request, scorer, self.clock(), asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self.counts.longest_line = max(self.counts.longest_line, len(self._waiting))
        self._arrived.set()
        return await waiting.answer

    def check_health(self) -> None:
        """Raise RuntimeError if the batch loop died, the model is stuck, or an engine cannot recover."""
        if self._worker is not None and self._worker.done():
            raise RuntimeError("the batch loop ended")
        for scorer in self.scorers:
            getattr(scorer, "check_health", lambda: None)()
        if self._busy_since is not None and self.clock() - self._busy_since > self.stuck_s:
            raise RuntimeError(f"one batch has been in the model for more than {self.stuck_s:g} s")

    def _scorer(self, version: str | None) -> ProgressScorer | None:
        scorers = self.scorers
        return scorers[0] if version is None else next((s for s in scorers if s.model_version == version), None)

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            left = self._waiting[0].arrived + self.batch_wait_s - self.clock()
            if left > 0 and sum(len(w.request.frames) for w in self._waiting) < self.max_batch_frames:
                await asyncio.sleep(left)
            for scorer, batch in self._next_batch():
                self._busy_since = self.clock()
                answers = await asyncio.to_thread(score_each, scorer, [w.request for w in batch])
                self._finish(batch, answers, self._busy_since)
                self._busy_since = None
            if not self._waiting:
                self._arrived.clear()

    def _next_batch(self) -> list[tuple[ProgressScorer, list[_Waiting]]]:
        """Take the oldest requests that fit, drop expired and cancelled ones, and group them by model version."""
        by_scorer: dict[int, tuple[ProgressScorer, list[_Waiting]]] = {}
        frames = 0
        while self._waiting:
            first = self._waiting[0]
            alive = self._alive(first)
            if alive and frames and frames + len(first.request.frames) > self.max_batch_frames:
                break
            self._waiting.popleft()
            if alive:
                frames += len(first.request.frames)
                by_scorer.setdefault(id(first.scorer), (first.scorer, []))[1].append(first)
        return list(by_scorer.values())

    def _alive(self, waiting: _Waiting) -> bool:
        if waiting.answer.done():
            self.counts.cancelled += 1
            return False
        waited_ms = (self.clock() - waiting.arrived) * 1e3
        if waited_ms >= waiting.request.remaining_ms:
            self.counts.expired += 1
            waiting.answer.set_result(ScoringTimeout(f"the request expired after {waited_ms:.0f} ms in the queue"))
            return False
        return True

    def _finish(self, batch: list[_Waiting], answers: list[Answer], started: float) -> None:
        frames = sum(len(waiting.request.frames) for waiting in batch)
        self.counts.batches += 1
        self.counts.largest_batch = max(self.counts.largest_batch, frames)
        self.counts.model_s += self.clock() - started
        for waiting, answer in zip(batch, answers, strict=True):
            if isinstance(answer, ScoreReply):
                self.counts.requests += 1
                self.counts.frames += len(answer.reasons)
                self.counts.encoded += len(answer.reasons) if waiting.request.frame_tokens is not None else 0
                answer = replace(answer, queue_ms=(started - waiting.arrived) * 1e3)
            else:
                self.counts.failed += 1
            if not waiting.answer.done():
                waiting.answer.set_result(answer)


def score_each(scorer: ProgressScorer, requests: list[ScoreRequest]) -> list[Answer]:
    """Score a batch; if that fails, score each request alone, so that a bad one does not fail the others."""
    try:
        return list(scorer.score(requests))
    except ServiceUnavailable as error:  # The engine is down: retrying each request would only take longer.
        return [error] * len(requests)
    except Exception as error:
        if len(requests) > 1:
            return [answer for request in requests for answer in score_each(scorer, [request])]
        logger.exception("The reward model failed on a request of episode %s", requests[0].context.episode_id)
        return [ServiceUnavailable(f"the reward model failed: {type(error).__name__}: {error}")]


def warm_up(scorer: ProgressScorer, side: int = 64, views: int = 2) -> None:
    """Score one blank frame, so that lazy loading does not delay the first request and a model of NaNs is noticed.

    Raises:
        CheckpointError: the model gives no valid answer.
    """
    frame = np.zeros((views, side, side, 3), np.uint8)
    context = EpisodeContext("warm-up", "nothing", frame[0], frame[0], frame, frame)
    [reply] = scorer.score([ScoreRequest(context, frame, frame[None], (1,), 1e6)])
    if not reply.valid.all():
        raise CheckpointError(f"the model gives no valid answer for a blank picture: {reply.reasons[0]}")
