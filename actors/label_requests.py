"""Sends the frames of episodes to a reward service: one request per episode, all at once where the client can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dopamine_rl.errors import ServiceUnavailable
from dopamine_rl.interfaces import BundlingRewardClient, PendingScore, RewardClient
from dopamine_rl.types import EpisodeContext, ScoreRequest, Views

Frame = tuple[int, Views | None]
"""Environment step and pictures."""


@dataclass(frozen=True, eq=False, slots=True)
class Question:
    """Frames of an episode to be scored together.

    Args:
        context: of the episode.
        version: the model version that must answer; "" if it is not known yet.
        frames: (environment step, views) of each, in time order.
        previous: the scored frame before them.
    """

    context: EpisodeContext | None
    version: str
    frames: tuple[tuple[int, Views], ...]
    previous: Frame


@dataclass(slots=True)
class PendingFrame:
    """A requested frame without an outcome yet.

    Args:
        time, views: the frame.
        previous_time: environment step of the request's `previous`.
        index: of the frame in its request.
        score: the request; None if it could not be sent.
        error: why it could not be sent.
        again: it replaces a request whose answer was about an invalid anchor.
    """

    time: int
    views: Views
    previous_time: int
    index: int
    score: PendingScore | None
    error: Exception | None
    again: bool = False

    @property
    def ready(self) -> bool:
        """Its outcome is known without waiting."""
        return self.score is None or self.score.ready()


def send(client: RewardClient, questions: Sequence[Question], remaining_s: float) -> list[list[PendingFrame]]:
    """Send questions without waiting for the answers; what cannot be sent says why in its frames.

    Args:
        remaining_s: time limit of each.
    Returns:
        The pending frames of each question.
    """
    requests = [_request(question, remaining_s) for question in questions]
    scores = iter(_submit(client, [request for request in requests if isinstance(request, ScoreRequest)]))
    sent = [next(scores) if isinstance(request, ScoreRequest) else request for request in requests]
    return [_pending(question, score) for question, score in zip(questions, sent, strict=True)]


def _request(question: Question, remaining_s: float) -> ScoreRequest | Exception:
    try:
        if not question.version:
            raise ServiceUnavailable("the service has not named a model version yet")
        assert question.context is not None
        assert question.previous[1] is not None
        times, views = zip(*question.frames, strict=True)
        return ScoreRequest(question.context, question.previous[1], np.stack(views), times, remaining_s * 1e3)
    except Exception as error:  # The frames were requested and must get an outcome.
        return error


def _submit(client: RewardClient, requests: Sequence[ScoreRequest]) -> list[PendingScore | Exception]:
    if isinstance(client, BundlingRewardClient) and len(requests) > 1:
        try:
            return list(client.submit_all(requests))
        except Exception as error:
            return [error] * len(requests)
    sent: list[PendingScore | Exception] = []
    for request in requests:
        try:
            sent.append(client.submit(request))
        except Exception as error:
            sent.append(error)
    return sent


def _pending(question: Question, score: PendingScore | Exception) -> list[PendingFrame]:
    before, outcome = question.previous[0], (None, score) if isinstance(score, Exception) else (score, None)
    return [PendingFrame(time, views, before, i, *outcome) for i, (time, views) in enumerate(question.frames)]
