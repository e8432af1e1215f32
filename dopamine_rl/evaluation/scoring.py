"""Asks a RewardClient about a whole recorded episode: fragments of bounded size, several under way, folded in order."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import Overloaded, require
from dopamine_rl.interfaces import OnProgress, PendingScore, RewardClient, no_progress
from dopamine_rl.progress import FoldState, fold
from dopamine_rl.types import EpisodeContext, FoldedProgress, FusionConfig, ScoreReply, ScoreRequest, Views, check_views

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
    def valid(self) -> NDArray[np.bool_]:
        """bool [T]: the frame has a value."""
        return np.array([not reason for reason in self.reasons], bool)

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
    on_progress: OnProgress = no_progress,
) -> EpisodeScores:
    """Ask for the progress of every frame of an episode.

    Args:
        client, context, frames, times, config: see `EpisodeScoring`.
        on_progress: called after each fragment.
    Raises:
        ScoringError: a request was not answered within its deadline; an overloaded service is asked again until then.
    """
    return EpisodeScoring(client, context, frames, times, config).run(on_progress)


class EpisodeScoring:
    """Asks for the progress of every frame of an episode, a few fragments at a time.

    What the valid frames get is what one request about the whole episode would give them. What a fragment's first frame
    was compared with is the frame sent before it; where that one turns out to have no value, the fragment is asked
    again with the last valid frame.

    Args:
        client: who answers.
        context: names the model version that is wanted.
        frames: uint8 [T, V, H, W, 3], without the one before the first.
        times: int64 [T], strictly increasing names of the frames, such as frame ids.
        config: how large fragments are, and how many are under way at once.
        previous: the frame before the first of `frames`; where left out, `context.init`.
    Raises:
        BadInput: there is no frame, or it is no picture.
    """

    def __init__(
        self,
        client: RewardClient,
        context: EpisodeContext,
        frames: NDArray[np.uint8],
        times: NDArray[np.int64],
        config: ScoringConfig,
        previous: Views | None = None,
    ) -> None:
        check_views("frames", frames, 5)
        self._client, self._context, self._config = client, context, config
        self._frames, self._times = frames, times
        self._start = context.init if previous is None else previous
        size = max(1, min(config.fragment, MAX_BYTES // frames[0].nbytes - OTHER_FRAMES))
        self._waiting = deque(slice(first, first + size) for first in range(0, len(frames), size))
        self._under_way: deque[_Question] = deque()
        self._replies: list[ScoreReply] = []
        self._answered, self._last_valid, self._asked_again = 0, -1, 0
        self._began: float | None = None
        self._seconds = 0.0

    @property
    def finished(self) -> bool:
        """Every frame is answered."""
        return self._answered == len(self._frames)

    def send(self) -> None:
        """Send as many fragments as may be under way; returns at once."""
        if self._began is None:
            self._began = time.monotonic()
        while self._waiting and len(self._under_way) < self._config.in_flight:
            part = self._waiting.popleft()
            self._under_way.append(self._ask(part, part.start - 1))

    def advance(self) -> None:
        """Send what may be sent, and wait for the next fragment's answer. Raises ScoringError."""
        self.send()
        if not self._under_way:
            return
        question = self._under_way.popleft()
        reply = question.reply()
        first = self._answered
        if question.anchor != self._last_valid:
            reply = self._ask(slice(first, first + len(reply.reasons)), self._last_valid).reply()
            self._asked_again += 1
        valid = np.flatnonzero(reply.valid)
        self._last_valid = first + int(valid[-1]) if len(valid) else self._last_valid
        self._replies.append(reply)
        self._answered += len(reply.reasons)
        self._seconds = time.monotonic() - (self._began or 0.0)

    def run(self, on_progress: OnProgress = no_progress) -> EpisodeScores:
        """Ask until every frame is answered. Arguments and errors are those of `score_episode`."""
        while not self.finished:
            self.advance()
            on_progress(f"{self._answered} of {len(self._frames)} frames", False)
        return self.scores()

    def scores(self) -> EpisodeScores:
        """The answers, once it is finished."""
        gain, loss, entropy = (
            np.concatenate([getattr(reply, name) for reply in self._replies]) for name in ("gain", "loss", "entropy")
        )
        reasons = tuple(reason for reply in self._replies for reason in reply.reasons)
        valid = np.array([not reason for reason in reasons])
        folded, _ = fold(FoldState(), gain, loss, valid, self._config.fusion)
        version = self._replies[0].model_version
        return EpisodeScores(gain, loss, entropy, reasons, folded, version, self._seconds, self._asked_again)

    def _ask(self, part: slice, anchor: int) -> _Question:
        before = self._frames[anchor] if anchor >= 0 else self._start
        return _Question(
            self._client, self._context, before, self._frames[part], self._times[part], anchor, self._config
        )


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
