"""A RewardClient without a cluster, which scores in the caller's process: for scoring without Ray, and for tests."""

from __future__ import annotations

import time

from dopamine_rl.errors import ScoringTimeout
from dopamine_rl.interfaces import ProgressScorer
from dopamine_rl.types import ScoreReply, ScoreRequest


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

    def result(self, timeout_s: float) -> ScoreReply:
        """Score now. Raises ScoringTimeout if no time is left, VersionUnavailable if the version differs."""
        if self._reply is None:
            if timeout_s <= 0 or time.monotonic() >= self._expires_at:
                raise ScoringTimeout("no time was left to score the request")
            [self._reply] = self._scorer.score([self._request])
        return self._reply
