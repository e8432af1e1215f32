"""What every implementation of a Protocol must do, as functions that raise AssertionError where it does not.

Each suite is run on the fake and on every real implementation, and is itself shown a broken one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import pytest

from dopamine_rl.errors import ScoringTimeout, VersionUnavailable
from dopamine_rl.interfaces import ProgressScorer, RewardClient
from dopamine_rl.types import PERSPECTIVES, ScoreReply, ScoreRequest
from tests.waiting import wait_until


class MakeRequest(Protocol):
    """Makes a request of `frames` frames; requests with different seeds show different pictures."""

    def __call__(self, frames: int, seed: int) -> ScoreRequest: ...


def check_scorer(scorer: ProgressScorer, make_request: MakeRequest, atol: float = 1e-4) -> None:
    """A ProgressScorer answers each request for itself, in order, from pictures alone."""
    requests = [make_request(frames, seed) for seed, frames in enumerate((1, 4, 3))]
    before = [request.frames.copy() for request in requests]
    replies = scorer.score(requests)
    assert len(replies) == len(requests)
    for request, reply in zip(requests, replies, strict=True):
        check_reply(request, reply, scorer.model_version)
        [alone] = scorer.score([request])
        assert_same_answer(reply, alone, atol)
    for request, pixels in zip(requests, before, strict=True):
        np.testing.assert_array_equal(request.frames, pixels)
    assert scorer.score([]) == []
    _check_continuation(scorer, make_request(5, 7), atol)
    _check_folding(scorer, make_request(4, 1))
    _check_version(scorer, make_request(2, 2))


def check_reward_client(client: RewardClient, make_request: MakeRequest, scorer: ProgressScorer) -> None:
    """A RewardClient carries every request to exactly one outcome, and its answers are those of the served model.

    Args:
        scorer: the same model in this process.
    """
    assert isinstance(client, RewardClient)
    assert client.model_version(30.0) == scorer.model_version
    requests = [make_request(frames, seed) for seed, frames in enumerate((1, 4, 3))]
    pending = [client.submit(request) for request in requests]
    for request, waiting in reversed(list(zip(requests, pending, strict=True))):
        reply = waiting.result(30.0)
        check_reply(request, reply, scorer.model_version)
        assert_same_answer(reply, scorer.score([request])[0])
        assert_same_answer(waiting.result(30.0), reply)
        assert waiting.retries == 0
    polled = client.submit(requests[0])
    wait_until(polled.ready, 30.0, "an answer that is there without waiting")
    assert_same_answer(polled.result(30.0), scorer.score([requests[0]])[0])
    assert polled.ready()
    with pytest.raises(ScoringTimeout):
        client.submit(replace(requests[0], remaining_ms=0.0)).result(30.0)
    pinned = replace(requests[0], context=replace(requests[0].context, model_version="no such version"))
    with pytest.raises(VersionUnavailable):
        client.submit(pinned).result(30.0)
    late = client.submit(requests[1])
    with pytest.raises(ScoringTimeout):
        late.result(-1.0)


def check_reply(request: ScoreRequest, reply: ScoreReply, model_version: str) -> None:
    """Shapes, ranges, and a value exactly where there is no reason against one."""
    shape = (len(request.frames), len(PERSPECTIVES))
    assert reply.model_version == model_version
    assert reply.queue_ms >= 0
    assert reply.model_ms >= 0
    assert len(reply.reasons) == len(reply.anchor_times) == shape[0]
    for values in (reply.gain, reply.loss, reply.entropy):
        assert values.shape == shape
        assert values.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(reply.gain), np.isnan(reply.loss))
    np.testing.assert_array_equal(np.isnan(reply.gain).any(axis=1), ~reply.valid)
    for values in (reply.gain, reply.loss):
        known = values[~np.isnan(values)]
        assert np.all((known >= -1e-5) & (known <= 1 + 1e-5))
    anchor = -1
    for time, asked, valid in zip(request.times, reply.anchor_times, reply.valid, strict=True):
        assert asked == anchor or not valid
        anchor = time if valid else anchor


def assert_same_answer(reply: ScoreReply, other: ScoreReply, atol: float = 1e-4) -> None:
    """Two replies say the same, whatever they took."""
    assert (reply.model_version, reply.reasons, reply.anchor_times) == (
        other.model_version,
        other.reasons,
        other.anchor_times,
    )
    for name in ("gain", "loss", "entropy"):
        np.testing.assert_allclose(getattr(reply, name), getattr(other, name), atol=atol, err_msg=name)
    assert (reply.folded is None) == (other.folded is None)
    if reply.folded is not None and other.folded is not None:
        np.testing.assert_allclose(reply.folded.progress, other.folded.progress, atol=atol)


def _check_continuation(scorer: ProgressScorer, request: ScoreRequest, atol: float) -> None:
    """Frame by frame, each with the last valid one as `previous`, gives what the whole fragment gives."""
    [whole] = scorer.score([request])
    previous = request.previous
    for index, time in enumerate(request.times):
        [part] = scorer.score(
            [replace(request, previous=previous, frames=request.frames[index : index + 1], times=(time,))]
        )
        assert bool(part.valid[0]) == bool(whole.valid[index])
        if part.valid[0]:
            np.testing.assert_allclose(part.hops[0], whole.hops[index], atol=atol)
            previous = request.frames[index]


def _check_folding(scorer: ProgressScorer, request: ScoreRequest) -> None:
    assert scorer.score([replace(request, start_progress=None)])[0].folded is None
    [reply] = scorer.score([replace(request, start_progress=0.25)])
    assert reply.folded is not None
    held = 0.25
    for progress, valid in zip(reply.folded.progress, reply.valid, strict=True):
        assert 0.0 <= progress <= 1.0
        assert valid or progress == pytest.approx(held)
        held = progress


def _check_version(scorer: ProgressScorer, request: ScoreRequest) -> None:
    right = replace(request, context=replace(request.context, model_version=scorer.model_version))
    assert scorer.score([right])[0].model_version == scorer.model_version
    wrong = replace(request, context=replace(request.context, model_version="no such version"))
    with pytest.raises(VersionUnavailable):
        scorer.score([wrong])
