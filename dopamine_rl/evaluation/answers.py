"""A reward model's answers about one episode, forwards and backwards: what every figure is computed from, whoever was
asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.evaluation.scoring import EpisodeScores, EpisodeScoring, ScoringConfig
from dopamine_rl.interfaces import RewardClient
from dopamine_rl.types import EpisodeContext


@dataclass(frozen=True, eq=False, slots=True)
class EpisodeHops:
    """The answers about an episode of T scored frames after its first.

    Args:
        frame_ids: int64 [T + 1], which frames of the recording.
        gain, loss, entropy: float32 [T, P]; NaN where invalid (entropy: or unknown).
        valid: bool [T].
        swapped: float32 [T], the hop from each frame back to the one before it; NaN where invalid.
    """

    frame_ids: NDArray[np.int64]
    gain: NDArray[np.float32]
    loss: NDArray[np.float32]
    entropy: NDArray[np.float32]
    valid: NDArray[np.bool_]
    swapped: NDArray[np.float32]

    @property
    def hops(self) -> NDArray[np.float32]:
        """float32 [T, P] in [−1, 1], NaN where invalid."""
        return self.gain - self.loss


def both_directions(
    client: RewardClient, context: EpisodeContext, frames: NDArray[np.uint8], scoring: ScoringConfig
) -> tuple[EpisodeScoring, EpisodeScoring]:
    """How an episode is asked about forwards, and from its end back to its beginning. Nothing is sent yet.

    Args:
        context: of the episode; its pictures are those of the first frame.
        frames: uint8 [T + 1, V, H, W, 3], the first frame and the scored ones.
    """
    times = np.arange(1, len(frames))
    return (
        EpisodeScoring(client, context, frames[1:], times, scoring),
        EpisodeScoring(client, context, frames[-2::-1], times, scoring, frames[-1]),
    )


def join_directions(frame_ids: NDArray[np.int64], forwards: EpisodeScores, backwards: EpisodeScores) -> EpisodeHops:
    """The answers about an episode from the scores of both directions, each in the order in which it was asked."""
    swapped = backwards.hops[::-1, 0].copy()
    return EpisodeHops(frame_ids, forwards.gain, forwards.loss, forwards.entropy, forwards.valid, swapped)
