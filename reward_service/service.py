"""One replica's work without Ray: waiting requests become batches, batches go to the scorer of their version.

Requests of many callers wait in one line. Whenever the model is free, everything that waits (up to a number of frames)
becomes the next batch, so batches grow with the load by themselves; an idle service waits a few milliseconds for more.
(Serve's own batching closes a batch a fixed time after its first request, whether or not the model is free, so under
load it piles up small batches; it also puts a request that does not fit behind the younger ones.)
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dopamine_rl.errors import (
    CheckpointError,
    ScoringError,
    ScoringTimeout,
    ServiceUnavailable,
    VersionUnavailable,
    require,
)
from dopamine_rl.interfaces import ProgressScorer
from dopamine_rl.types import EpisodeContext, ScoreReply, ScoreRequest

logger = logging.getLogger(__name__)

Answer = ScoreReply | ScoringError
"""What a replica returns. Errors travel as values: a failure costs no traceback and no other request."""


@dataclass(frozen=True)
class ServiceConfig:
    """How the reward model is served.

    Args:
        replicas: copies of the model, each in its own process.
        num_cpus: CPU cores that the scheduler sets aside for each replica.
        num_gpus: GPUs (or a share of one) that the scheduler sets aside for each replica.
        threads: threads of a replica's forward pass.
        max_batch_frames: scored frames in one batch; a longer request forms a batch alone.
        batch_wait_ms: how long an idle model waits for more requests after the first.
        max_ongoing_requests: requests a replica holds, waiting or in the model; the rest wait at their callers.
        max_queued_requests: requests that wait at each caller; more are refused as Overloaded.
        stuck_s: a replica whose batch takes longer than this is replaced.
        ready_s: how long `deploy` waits for the first answerable replica.
        lease_s: the application is deleted this long after the job that deployed it died; 0 keeps it for ever.
        max_replicas: where larger than `replicas`, replicas are added and taken away with the load.
        target_requests: requests waiting or in the model for each replica, on average, above which one is added.
        scale_up_s: how long the load must ask for more replicas before it happens.
        scale_down_s: how long it must ask for fewer.
        engine: "module:callable" that makes an engine from (checkpoint folder, threads); one that takes a `device` gets "cuda" where
            num_gpus is above 0.
        python: interpreter of the replicas, of an environment with what the engine needs (the cluster's Ray and Python releases
            among it); empty means the cluster's own.
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
            ("num_gpus", 0.0 <= self.num_gpus < math.inf, "give GPUs, or a share of one, or 0"),
            *((name, getattr(self, name) >= 0, "give seconds from 0 on") for name in ("scale_up_s", "scale_down_s")),
            ("batch_wait_ms", 0.0 <= self.batch_wait_ms < 1e6, "give milliseconds from 0 on"),
            ("lease_s", 0.0 <= self.lease_s < 1e9, "give seconds from 0 on; 0 keeps the application for ever"),
            ("engine", ":" in self.engine, "write module:callable"),
        )


@dataclass
class ServiceCounts:
    """What a replica did since it started.

    Args:
        requests, frames, batches: answered by the model.
        expired, cancelled: requests dropped before they cost anything.
        wrong_version: requests that wanted a version this replica does not hold.
        failed: requests whose batch failed in the engine.
        largest_batch: frames.
        longest_line: requests that waited at once.
        model_s: time spent in the model.
    """

    requests: int = 0
    frames: int = 0
    batches: int = 0
    expired: int = 0
    cancelled: int = 0
    wrong_version: int = 0
    failed: int = 0
    largest_batch: int = 0
    longest_line: int = 0
    model_s: float = 0.0


@dataclass(frozen=True)
class ServiceDescription:
    """A replica's own account of itself.

    Args:
        versions: the model versions it answers with, the current one first.
        counts: what it did since it started.
        process_id: of the replica.
        releases: numbers of the releases it holds, staged ones included, each with its version.
        refused: why it could not load a release, by number.
        idle_s: for every version that was asked for, how long ago that was.
    """

    versions: tuple[str, ...]
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
    """Answers requests of many callers in batches, from one event loop.

    Args:
        scorers: one for each model version, the current one first; older ones serve the episodes that began with them. May
            be replaced as a whole at any time; what waits keeps the scorer that it came in for.
        max_batch_frames, batch_wait_s, stuck_s: as in ServiceConfig.
        clock: seconds, monotonic.
    """

    scorers: Sequence[ProgressScorer]
    max_batch_frames: int
    batch_wait_s: float
    stuck_s: float
    clock: Callable[[], float] = time.monotonic
    counts: ServiceCounts = field(default_factory=ServiceCounts)
    asked_at: dict[str, float] = field(default_factory=dict)
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _worker: asyncio.Task[None] | None = None
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _busy_since: float | None = None

    @property
    def versions(self) -> tuple[str, ...]:
        """The model versions held, the current one first."""
        return tuple(scorer.model_version for scorer in self.scorers)

    async def score(self, request: ScoreRequest) -> Answer:
        """Wait in line and return the reply, or the error that is this request's own."""
        scorer = self._scorer(request.context.model_version)
        if scorer is None:
            self.counts.wrong_version += 1
            wanted, served = request.context.model_version, ", ".join(self.versions)
            return VersionUnavailable(f"version {wanted} is wanted, {served} served")
        self.asked_at[scorer.model_version] = self.clock()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        waiting = _Waiting(request, scorer, self.clock(), asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self.counts.longest_line = max(self.counts.longest_line, len(self._waiting))
        self._arrived.set()
        return await waiting.answer

    def check_health(self) -> None:
        """Raise RuntimeError where the batch loop died, the model is stuck, or an engine says that it is beyond help."""
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
        """Take the oldest requests that fit, in order of arrival, drop those nobody waits for, split by version."""
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
            waiting.answer.set_result(ScoringTimeout(f"its time had passed after {waited_ms:.0f} ms in the line"))
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
                answer = replace(answer, queue_ms=(started - waiting.arrived) * 1e3)
            else:
                self.counts.failed += 1
            if not waiting.answer.done():
                waiting.answer.set_result(answer)


def score_each(scorer: ProgressScorer, requests: list[ScoreRequest]) -> list[Answer]:
    """Score a batch; where it fails as a whole, each request alone, so that a bad one fails nobody else's."""
    try:
        return list(scorer.score(requests))
    except ServiceUnavailable as error:  # The engine is down: asking it again for each request would only take longer.
        return [error] * len(requests)
    except Exception as error:
        if len(requests) > 1:
            return [answer for request in requests for answer in score_each(scorer, [request])]
        logger.exception("The reward model failed on a request of episode %s", requests[0].context.episode_id)
        return [ServiceUnavailable(f"the reward model failed: {type(error).__name__}: {error}")]


def warm_up(scorer: ProgressScorer, side: int = 64, views: int = 2) -> None:
    """Score one blank frame: the first real request shall not pay for what is loaded late, nor meet a model of NaNs.

    Raises:
        CheckpointError: the model has no answer.
    """
    frame = np.zeros((views, side, side, 3), np.uint8)
    context = EpisodeContext("warm-up", "nothing", frame[0], frame[0], frame, frame)
    [reply] = scorer.score([ScoreRequest(context, frame, frame[None], (1,), 1e6)])
    if not reply.valid.all():
        raise CheckpointError(f"the model does not answer about a blank picture: {reply.reasons[0]}")
