"""Scores a whole recorded episode through a RewardClient: fragments of bounded size, several under way, folded in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import Overloaded, require
from dopamine_rl.interfaces import PendingScore, RewardClient
from dopamine_rl.progress import FoldState, fold
from dopamine_rl.types import EpisodeContext, FoldedProgress, FusionConfig, ScoreReply, ScoreRequest, Views

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
"""Pauses before an overloaded service is asked again; they double."""
MAX_BYTES = 48 * 2**20
"""Of all pictures of a request, which may hold 64 MiB on the wire."""
OTHER_FRAMES = 4
"""What a request holds beside its fragment: INIT, GOAL, the previous frame, and two references."""


@dataclass(frozen=True)
class ScoringConfig:
    """How an episode is asked for.

    Args:
        fusion: how three perspectives become one progress.
        fragment: most frames of one request.
        in_flight: requests under way at once.
        deadline_s: for each request, from the moment it is sent.
    """

    fusion: FusionConfig = field(default_factory=FusionConfig)
    fragment: int = 16
    in_flight: int = 4
    deadline_s: float = 120.0

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("fragment", self.fragment >= 1, "give at least 1"),
            ("in_flight", self.in_flight >= 1, "give at least 1"),
            ("deadline_s", 0.0 < self.deadline_s < 1e6, "give seconds above 0"),
        )


@dataclass(frozen=True, eq=False, slots=True)
class EpisodeScores:
    """What a reward model says of an episode's frames after the first.

    Args:
        gain, loss, entropy: float32 [T, P]; NaN where invalid (entropy: or unknown).
        reasons: T strings, "" where the frame has a value.
        folded: progress after each frame, from 0 at the first one.
        model_version: one for the whole episode.
        seconds: from the first request to the last reply.
        asked_again: fragments asked a second time because they were compared with a frame that has no value.
    """

    gain: NDArray[np.float32]
    loss: NDArray[np.float32]
    entropy: NDArray[np.float32]
    reasons: tuple[str, ...]
    folded: FoldedProgress
    model_version: str
    seconds: float
    asked_again: int

    @property
    def hops(self) -> NDArray[np.float32]:
        """float32 [T, P] in [−1, 1], NaN where invalid."""
        return self.gain - self.loss


def score_episode(
    client: RewardClient,
    context: EpisodeContext,
    frames: NDArray[np.uint8],
    times: NDArray[np.int64],
    config: ScoringConfig,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    previous: Views | None = None,
) -> EpisodeScores:
    """Ask for the progress of every frame of an episode.

    What the valid frames get is what one request about the whole episode would give them. What a fragment's first frame was compared with is the
    frame sent before it; where that one turns out to have no value, the fragment is asked again with the last valid frame.

    Args:
        context: names the model version that is wanted.
        frames: uint8 [T, V, H, W, 3], without the first frame, which is `context.init`.
        times: int64 [T], strictly increasing names of the frames, such as frame ids.
        on_progress: called with the number of frames answered and of all, after each fragment.
        previous: the frame before the first of `frames`; where left out, `context.init`.
    Raises:
        ScoringError: a request was not answered within its deadline; an overloaded service is asked again until then.
    """
    began = time.monotonic()
    size = max(1, min(config.fragment, MAX_BYTES // frames[0].nbytes - OTHER_FRAMES))
    waiting = deque(slice(first, first + size) for first in range(0, len(frames), size))
    under_way: deque[_Question] = deque()
    replies: list[ScoreReply] = []
    last_valid, asked_again = -1, 0
    start = context.init if previous is None else previous

    def ask(part: slice, anchor: int) -> _Question:
        before = frames[anchor] if anchor >= 0 else start
        return _Question(client, context, before, frames[part], times[part], anchor, config)

    while waiting or under_way:
        while waiting and len(under_way) < config.in_flight:
            part = waiting.popleft()
            under_way.append(ask(part, part.start - 1))
        question = under_way.popleft()
        reply = question.reply()
        first = sum(len(known.reasons) for known in replies)
        if question.anchor != last_valid:
            reply = ask(slice(first, first + len(reply.reasons)), last_valid).reply()
            asked_again += 1
        valid = np.flatnonzero(reply.valid)
        last_valid = first + int(valid[-1]) if len(valid) else last_valid
        replies.append(reply)
        on_progress(first + len(reply.reasons), len(frames))
    return _joined(replies, config.fusion, time.monotonic() - began, asked_again)


def _joined(replies: list[ScoreReply], fusion: FusionConfig, seconds: float, asked_again: int) -> EpisodeScores:
    gain, loss, entropy = (
        np.concatenate([getattr(reply, name) for reply in replies]) for name in ("gain", "loss", "entropy")
    )
    reasons = tuple(reason for reply in replies for reason in reply.reasons)
    valid = np.array([not reason for reason in reasons])
    folded, _ = fold(FoldState(), gain, loss, valid, fusion)
    return EpisodeScores(gain, loss, entropy, reasons, folded, replies[0].model_version, seconds, asked_again)


class _Question:
    """A fragment that was sent, and what to do where the service has no room for it."""

    def __init__(
        self,
        client: RewardClient,
        context: EpisodeContext,
        previous: Views,
        frames: NDArray[np.uint8],
        times: NDArray[np.int64],
        anchor: int,
        config: ScoringConfig,
    ) -> None:
        self.anchor = anchor
        self._client = client
        self._request = ScoreRequest(context, previous, frames, tuple(times.tolist()), config.deadline_s * 1e3)
        self._deadline = time.monotonic() + config.deadline_s
        self._pending: PendingScore = client.submit(self._request)

    def reply(self) -> ScoreReply:
        """Wait for the reply until the deadline. Raises ScoringError."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return self._pending.result(max(0.0, self._deadline - time.monotonic()))
            except Overloaded:
                left_s = self._deadline - time.monotonic() - pause_s
                if left_s <= 0.0:
                    raise
            time.sleep(pause_s)
            pause_s = min(2.0 * pause_s, LONGEST_PAUSE_S)
            self._pending = self._client.submit(replace(self._request, remaining_ms=left_s * 1e3))
