"""One replica's work: the line, batches, deadlines, versions. No Ray."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from dopamine_rl.errors import BadInput, ScoringTimeout, ServiceUnavailable, VersionUnavailable
from dopamine_rl.types import ScoreReply, ScoreRequest
from reward_service.scorer import Scorer
from reward_service.service import Answer, ScoringService, ServiceConfig, check_engine, warm_up
from tests.contracts import assert_same_answer
from tests.fakes import FakeEngine, make_request, seeded_request

T = TypeVar("T")


class _Gate(Scorer):
    """A scorer that waits until it is let through, and fails on request."""

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(engine)
        self.open, self.entered, self.batches = threading.Event(), threading.Event(), []

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        self.batches.append([request.context.episode_id for request in requests])
        self.entered.set()
        assert self.open.wait(10)
        if any(request.context.episode_id == "poison" for request in requests):
            raise ValueError("this picture cannot be read")
        return super().score(requests)


def _service(*scorers: Scorer, frames: int = 8, wait_s: float = 0.0) -> ScoringService:
    return ScoringService(scorers, max_batch_frames=frames, batch_wait_s=wait_s, stuck_s=5.0)


def _ask(frames: int, name: str, **changes: Any) -> ScoreRequest:
    return make_request(np.linspace(0.1, 0.9, frames).tolist(), episode_id=name, **changes)


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(coroutine, 20))


async def _while_busy(gate: _Gate, service: ScoringService, requests: list[ScoreRequest]) -> list[asyncio.Task[Answer]]:
    """Put one request into the model, then the others into the line, where they are for 20 ms already."""
    service.clock = lambda: 0.0
    tasks = [asyncio.create_task(service.score(_ask(1, "first")))]
    await asyncio.to_thread(gate.entered.wait, 10)
    tasks += [asyncio.create_task(service.score(request)) for request in requests]
    while service.counts.longest_line < len(requests):
        await asyncio.sleep(0)
    service.clock = lambda: 0.02
    return tasks


def test_what_waits_while_the_model_is_busy_becomes_the_next_batches_in_order() -> None:
    gate = _Gate(FakeEngine())
    service = _service(gate, frames=8)
    requests = [_ask(3, "a"), _ask(4, "b"), _ask(2, "c"), _ask(20, "long"), _ask(1, "d")]

    async def go() -> list[Answer]:
        tasks = await _while_busy(gate, service, requests)
        gate.open.set()
        return await asyncio.gather(*tasks)

    answers = _run(go())
    assert gate.batches == [["first"], ["a", "b"], ["c"], ["long"], ["d"]]
    for request, answer in zip(requests, answers[1:], strict=True):
        assert isinstance(answer, ScoreReply)
        assert_same_answer(answer, Scorer(FakeEngine()).score([request])[0])
        assert answer.queue_ms == pytest.approx(20)
    assert (service.counts.requests, service.counts.frames, service.counts.batches) == (6, 31, 5)
    assert service.counts.largest_batch == 20


def test_an_idle_model_waits_a_little_for_more() -> None:
    engine = FakeEngine()

    async def go() -> None:
        service = _service(Scorer(engine), wait_s=0.5)
        first = asyncio.create_task(service.score(_ask(1, "a")))
        for _ in range(5):  # The loop over batches has seen it, and waits.
            await asyncio.sleep(0)
        assert not engine.calls
        await asyncio.gather(first, service.score(_ask(1, "b")))

    _run(go())
    assert len(engine.calls) == 1


def test_expired_and_cancelled_requests_cost_nothing() -> None:
    gate = _Gate(FakeEngine())
    service = _service(gate)

    async def go() -> tuple[Answer, Answer]:
        requests = [_ask(1, "expired", remaining_ms=5.0), _ask(1, "cancelled"), _ask(1, "alive")]
        _, expired, cancelled, alive = await _while_busy(gate, service, requests)
        cancelled.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        return await expired, await alive

    expired, alive = _run(go())
    assert isinstance(expired, ScoringTimeout)
    assert isinstance(alive, ScoreReply)
    assert gate.batches == [["first"], ["alive"]]
    assert (service.counts.expired, service.counts.cancelled) == (1, 1)


def test_each_request_is_answered_by_the_version_it_wants() -> None:
    service = _service(Scorer(FakeEngine("new")), Scorer(FakeEngine("old")))

    async def go() -> list[Answer]:
        wanted = (None, "old", "new", "gone")
        return await asyncio.gather(*(service.score(_ask(1, "e", model_version=version)) for version in wanted))

    *answers, gone = _run(go())
    assert [answer.model_version for answer in answers if isinstance(answer, ScoreReply)] == ["new", "old", "new"]
    assert isinstance(gone, VersionUnavailable)
    assert service.counts.wrong_version == 1


def test_a_request_that_breaks_the_model_fails_alone() -> None:
    gate = _Gate(FakeEngine())
    service = _service(gate)

    async def go() -> list[Answer]:
        tasks = await _while_busy(gate, service, [_ask(1, "a"), _ask(1, "poison"), _ask(1, "b")])
        gate.open.set()
        answers = await asyncio.gather(*tasks)
        service.check_health()
        return answers

    _, a, poison, b = _run(go())
    assert isinstance(a, ScoreReply)
    assert isinstance(b, ScoreReply)
    assert isinstance(poison, ServiceUnavailable)
    assert "ValueError: this picture cannot be read" in str(poison)


def test_health_notices_a_stuck_model_and_a_dead_loop() -> None:
    gate, now = _Gate(FakeEngine()), [0.0]
    service = replace(_service(gate), clock=lambda: now[0])

    async def go() -> None:
        service.check_health()
        task = asyncio.create_task(service.score(_ask(1, "a")))
        await asyncio.to_thread(gate.entered.wait, 10)
        service.check_health()
        now[0] = 6.0
        with pytest.raises(RuntimeError, match="more than 5 s"):
            service.check_health()
        gate.open.set()
        await task
        service.check_health()
        assert service._worker is not None
        service._worker.cancel()
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="loop ended"):
            service.check_health()

    _run(go())


def test_warm_up_asks_the_model_once() -> None:
    engine = FakeEngine()
    warm_up(Scorer(engine))
    assert len(engine.calls) == 1


def test_many_callers_get_their_own_answers() -> None:
    service = _service(Scorer(FakeEngine()), frames=16, wait_s=0.002)
    requests = [seeded_request(1 + seed % 4, seed) for seed in range(40)]

    async def go() -> list[Answer]:
        return await asyncio.gather(*(service.score(request) for request in requests))

    for request, answer in zip(requests, _run(go()), strict=True):
        assert isinstance(answer, ScoreReply)
        assert_same_answer(answer, Scorer(FakeEngine()).score([request])[0])
    assert service.counts.batches < 15


@pytest.mark.parametrize(
    ("source", "is_there"),
    [
        ("def engine(): ...", True),
        ("class engine: ...", True),
        ("if True:\n    try:\n        from json import loads as engine\n    except ImportError:\n        pass", True),
        ("other = engine = print", True),
        ("from json import *", True),  # cannot be told without running it
        ("def __getattr__(name): ...", True),
        ("def (", True),
        ("def other():\n    engine = 1", False),
        ("class Other:\n    def engine(self): ...", False),
        ("print(engine)", False),
    ],
)
def test_an_engine_that_its_module_lacks_is_refused_without_importing_it(
    source: str, is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "an_engine_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    config = ServiceConfig(engine="an_engine_module:engine")
    if is_there:
        check_engine(config)
    else:
        with pytest.raises(BadInput, match=r"service\.engine = .* has no engine: write "):
            check_engine(config)
    assert "an_engine_module" not in sys.modules
