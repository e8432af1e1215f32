"""RewardClients without a cluster, which score in the caller's process: for scoring without Ray, and for tests."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from dopamine_rl.errors import BadInput, Overloaded, ScoringError, ScoringTimeout
from dopamine_rl.interfaces import ProgressScorer, tower_version
from dopamine_rl.types import ScoreReply, ScoreRequest
from reward_service.scorer import Scorer
from reward_service.service import Answer, ScoringService


class LocalRewardClient:
    """Scores when the result is collected, so that `submit` never waits for the model.

    Args:
        scorer: answers the requests.
    """

    def __init__(self, scorer: ProgressScorer) -> None:
        self._scorer = scorer

    def model_version(self, timeout_s: float) -> str:
        """The scorer's version."""
        return self._scorer.model_version

    def tower_version(self, timeout_s: float) -> str:
        """The scorer's vision tower."""
        return tower_version(self._scorer)

    def submit(self, request: ScoreRequest) -> LocalPendingScore:
        """Store the request until its result is collected."""
        return LocalPendingScore(self._scorer, request)


class LocalPendingScore:
    """A request that is scored by the first `result` with time left."""

    retries = 0

    def __init__(self, scorer: ProgressScorer, request: ScoreRequest) -> None:
        self._scorer, self._request = scorer, request
        self._expires_at = time.monotonic() + request.remaining_ms / 1e3
        self._reply: ScoreReply | None = None

    def ready(self) -> bool:
        """True: `result` scores in this process, and waits for nobody."""
        return True

    def result(self, timeout_s: float) -> ScoreReply:
        """Score now. Raises ScoringTimeout if no time is left, VersionUnavailable or TowerUnavailable as `score`."""
        if self._reply is None:
            if timeout_s <= 0 or time.monotonic() >= self._expires_at:
                raise ScoringTimeout("no time was left to score the request")
            [self._reply] = self._scorer.score([self._request])
        return self._reply


class BackgroundRewardClient:
    """Scores in a thread of its own, so that a caller never waits beyond its deadline. Starts on first use.

    What is submitted while the model is busy is scored together.

    Args:
        scorer: answers the requests.
        max_pending: most requests in progress; further ones fail immediately as Overloaded.
        max_batch_frames: most frames that the model scores at once.
        batch_wait_s: how long the model waits for more requests after the first.
    Raises:
        BadInput: a limit is out of range.
    """

    def __init__(
        self, scorer: ProgressScorer, max_pending: int = 1024, max_batch_frames: int = 32, batch_wait_s: float = 0.002
    ) -> None:
        for name, value in (("max_pending", max_pending), ("max_batch_frames", max_batch_frames)):
            if value < 1:
                raise BadInput(name, value, "give at least 1")
        self._scorer, self._max_pending = scorer, max_pending
        self._places = threading.BoundedSemaphore(max_pending)
        # Nothing replaces a model of this process that is stuck: its requests become late.
        self._service = ScoringService([scorer], max_batch_frames, batch_wait_s, stuck_s=float("inf"))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    def model_version(self, timeout_s: float) -> str:
        """The scorer's version."""
        return self._scorer.model_version

    def tower_version(self, timeout_s: float) -> str:
        """The scorer's vision tower."""
        return tower_version(self._scorer)

    def submit(self, request: ScoreRequest) -> BackgroundPendingScore:
        """Start scoring a request."""
        [pending] = self.submit_all([request])
        return pending

    def submit_all(self, requests: Sequence[ScoreRequest]) -> list[BackgroundPendingScore]:
        """Start scoring requests. The thread is woken once for all."""
        futures: list[Future[Answer]] = [Future() for _ in requests]
        accepted = []
        for request, future in zip(requests, futures, strict=True):
            if self._places.acquire(blocking=False):
                future.add_done_callback(lambda _: self._places.release())
                accepted.append((request, future))
            else:
                future.set_result(Overloaded(f"{self._max_pending} requests are pending already"))
        if accepted:
            loop = self._running_loop()
            loop.call_soon_threadsafe(_start, self._service, loop, accepted)
        return [BackgroundPendingScore(future) for future in futures]

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_run, args=(self._loop,), name="background-reward", daemon=True)
                thread.start()
                weakref.finalize(self, _end, self._loop, thread)
            return self._loop


def _start(
    service: ScoringService, loop: asyncio.AbstractEventLoop, accepted: Sequence[tuple[ScoreRequest, Future[Answer]]]
) -> None:
    """Score requests on their loop; a future that is cancelled elsewhere cancels its request."""

    def deliver(future: Future[Answer], task: asyncio.Task[Answer]) -> None:
        if task.cancelled():
            future.cancel()
        elif future.set_running_or_notify_cancel():  # else it was given up in the meantime
            future.set_result(task.result())

    def give_up(task: asyncio.Task[Answer], future: Future[Answer]) -> None:
        if future.cancelled() and not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)

    for request, future in accepted:
        task = loop.create_task(service.score(request))
        task.add_done_callback(partial(deliver, future))
        future.add_done_callback(partial(give_up, task))


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, then cancel what still waits in it."""
    asyncio.set_event_loop(loop)
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Stop a loop, also as the program ends."""
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join(1.0)


class BackgroundPendingScore:
    """A request that is being scored, or waits for it."""

    retries = 0

    def __init__(self, future: Future[Answer]) -> None:
        self._future, self._late = future, False

    def ready(self) -> bool:
        """Whether the reply or an error is there."""
        return self._late or self._future.done()

    def result(self, timeout_s: float) -> ScoreReply:
        """Wait for the reply; a late request is given up and stays late.

        Raises:
            ScoringTimeout, Overloaded, VersionUnavailable, TowerUnavailable, ServiceUnavailable.
        """
        try:
            if self._late or timeout_s < 0:
                raise TimeoutError
            answer = self._future.result(timeout_s)
        except TimeoutError:
            self._late = True
            self._future.cancel()
            raise ScoringTimeout("no answer in time") from None
        if isinstance(answer, ScoringError):
            raise answer
        return answer


def embedded_client(model: str | Path, threads: int | None = None, device: str = "cpu") -> BackgroundRewardClient:
    """A reward model in this process, with no server at all.

    Args:
        model: folder of a checkpoint, a hub id, or a shipped model such as grm-mini.
        threads: CPU threads of torch, for the whole process; None leaves the current setting.
        device: torch device of the model, such as "cpu" or "cuda".
    Raises:
        CheckpointError: there is no such model.
        BadInput: a setting is out of range, or torch cannot use the device.
    """
    from dopamine_rl.grm.checkpoint import load_grm  # imports torch
    from reward_service.engines.transformers import TransformersEngine
    from reward_service.service import warm_up

    scorer = Scorer(TransformersEngine(load_grm(model), threads=threads, device=device))
    warm_up(scorer)
    return BackgroundRewardClient(scorer)
