"""Sends the frames of episodes to a reward service: one request per episode, all at once where the client can.

Frames that the actor has encoded are sent as tokens. Where the service cannot use them, because its model has another
vision tower, the same request is sent with pictures, and so are later ones for that model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput, ServiceUnavailable, TowerUnavailable, WireError
from dopamine_rl.interfaces import BundlingRewardClient, PendingScore, RewardClient
from dopamine_rl.tokens import FrameTokens
from dopamine_rl.types import EpisodeContext, ScoreReply, ScoreRequest, Views

REFUSALS = (TowerUnavailable, BadInput, WireError)
"""What a service says to tokens that it cannot use; the last two if it knows no tokens."""


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """A scored frame.

    Args:
        time: environment step.
        views: its pictures; None where there is no reward model.
        tokens: of its views, if the actor has encoded them.
    """

    time: int
    views: Views | None
    tokens: FrameTokens | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Question:
    """Frames of an episode to be scored together.

    Args:
        context: of the episode.
        version: the model version that must answer; "" if it is not known yet.
        frames: in time order.
        previous: the scored frame before them.
    """

    context: EpisodeContext | None
    version: str
    frames: tuple[Frame, ...]
    previous: Frame


@dataclass(slots=True)
class PendingFrame:
    """A requested frame without an outcome yet.

    Args:
        frame: what was requested.
        previous_time: environment step of the request's `previous`.
        index: of the frame in its request.
        score: the request; None if it could not be sent.
        error: why it could not be sent.
        again: it replaces a request whose answer was about an invalid anchor.
    """

    frame: Frame
    previous_time: int
    index: int
    score: PendingScore | None
    error: Exception | None
    again: bool = False

    @property
    def time(self) -> int:
        """Environment step."""
        return self.frame.time

    @property
    def ready(self) -> bool:
        """Its outcome is known without waiting."""
        return self.score is None or self.score.ready()


class RequestSender:
    """Sends questions through a client.

    Args:
        client: the reward service.
        clock: monotonic, seconds.
    """

    def __init__(self, client: RewardClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._clock = client, clock
        self._refused: set[tuple[str, str]] = set()
        """Towers that a model version cannot use."""

    def send(self, questions: Sequence[Question], remaining_s: float) -> list[list[PendingFrame]]:
        """Send questions without waiting for the answers; what cannot be sent says why in its frames.

        Args:
            remaining_s: time limit of each.
        Returns:
            The pending frames of each question.
        """
        deadline = self._clock() + remaining_s
        requests = [self._request(question, remaining_s) for question in questions]
        scores = iter(self._submit([request for request in requests if isinstance(request, ScoreRequest)]))
        pending = []
        for question, request in zip(questions, requests, strict=True):
            score = next(scores) if isinstance(request, ScoreRequest) else request
            if isinstance(request, ScoreRequest) and request.towers and not isinstance(score, Exception):
                score = _EncodedScore(score, self._with_pictures(question, deadline))
            pending.append(_pending(question, score))
        return pending

    def _request(self, question: Question, remaining_s: float) -> ScoreRequest | Exception:
        try:
            if not question.version:
                raise ServiceUnavailable("the service has not named a model version yet")
            tower = _common_tower(question.frames)
            if (question.version, tower) in self._refused:
                tower = ""
            return make_request(question, remaining_s * 1e3, tower)
        except Exception as error:  # The frames were requested and must get an outcome.
            return error

    def _with_pictures(self, question: Question, deadline: float) -> Callable[[], PendingScore | Exception]:
        """Sends a question whose tokens were refused, and remembers that they were."""

        def send_again() -> PendingScore | Exception:
            self._refused.add((question.version, _common_tower(question.frames)))
            [score] = self._submit([make_request(question, max(0.0, deadline - self._clock()) * 1e3)])
            return score

        return send_again

    def _submit(self, requests: Sequence[ScoreRequest]) -> list[PendingScore | Exception]:
        if isinstance(self._client, BundlingRewardClient) and len(requests) > 1:
            try:
                return list(self._client.submit_all(requests))
            except Exception as error:
                return [error] * len(requests)
        sent: list[PendingScore | Exception] = []
        for request in requests:
            try:
                sent.append(self._client.submit(request))
            except Exception as error:
                sent.append(error)
        return sent


class _EncodedScore:
    """A request with tokens, which is sent again with pictures if its tokens are refused (a PendingScore).

    Args:
        score: the request with tokens.
        send_again: sends it with pictures.
    """

    def __init__(self, score: PendingScore, send_again: Callable[[], PendingScore | Exception]) -> None:
        self._score: PendingScore | Exception = score
        self._send_again, self._refused = send_again, 0

    @property
    def retries(self) -> int:
        """How often the request was sent again."""
        return self._refused + (0 if isinstance(self._score, Exception) else self._score.retries)

    def ready(self) -> bool:
        """Whether the reply or an error is there; a refusal of the tokens is neither."""
        if isinstance(self._score, Exception):
            return True
        if not self._score.ready():
            return False
        if self._refused:
            return True
        try:
            self._score.result(0.0)
        except REFUSALS:
            self._replace()
            return self.ready()
        except Exception:  # `result` raises it
            return True
        return True

    def result(self, timeout_s: float) -> ScoreReply:
        """Wait for the reply. Raises as the client's."""
        deadline = time.monotonic() + timeout_s
        if not self._refused and not isinstance(self._score, Exception):
            try:
                return self._score.result(timeout_s)
            except REFUSALS:
                self._replace()
        if isinstance(self._score, Exception):
            raise self._score
        return self._score.result(max(0.0, deadline - time.monotonic()))

    def _replace(self) -> None:
        self._refused, self._score = 1, self._send_again()


def make_request(question: Question, remaining_ms: float, tower: str = "") -> ScoreRequest:
    """The request of a question.

    Args:
        tower: whose tokens are given in place of pictures, for all frames; "" gives pictures alone.
    """
    assert question.context is not None
    (before, before_tokens), frames = _given(question.previous, tower), [_given(f, tower) for f in question.frames]
    tokens = [values for _, values in frames if values is not None]
    return ScoreRequest(
        question.context,
        before,
        np.stack([pictures for pictures, _ in frames]),
        tuple(frame.time for frame in question.frames),
        remaining_ms,
        previous_tokens=None if before_tokens is None else FrameTokens(tower, before_tokens),
        frame_tokens=FrameTokens(tower, np.stack(tokens)) if tokens else None,
    )


def _given(frame: Frame, tower: str) -> tuple[Views, NDArray[np.floating] | None]:
    """A frame's pictures; or no pictures and its tokens, if they are that tower's."""
    assert frame.views is not None
    if frame.tokens is None or frame.tokens.tower != tower:
        return frame.views, None
    return frame.views[:0], frame.tokens.values


def _common_tower(frames: Sequence[Frame]) -> str:
    """The tower that has encoded all frames; "" if there is none."""
    towers = {frame.tokens.tower if frame.tokens is not None else "" for frame in frames}
    return towers.pop() if len(towers) == 1 else ""


def _pending(question: Question, score: PendingScore | Exception) -> list[PendingFrame]:
    before, outcome = question.previous.time, (None, score) if isinstance(score, Exception) else (score, None)
    return [PendingFrame(frame, before, i, *outcome) for i, frame in enumerate(question.frames)]
