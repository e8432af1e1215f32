"""Judges a reward model before it drives training: unseen expert episodes against unseen failures.

Rank correlation with time alone is gameable (any model that always says "forward" has VOC+ = 1), so it stands beside
the correlation of the reversed episode, the error of progress, and how failures end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput, ScoringError
from dopamine_rl.grm.batches import label_demonstration
from dopamine_rl.interfaces import PendingScore, RewardClient
from dopamine_rl.metrics import MIN_POINTS, auc, false_success, progress_mae, voc_minus, voc_plus
from dopamine_rl.types import Demonstration, FoldedProgress, FusionConfig, ScoreReply, ScoreRequest, TaskReference

TOGETHER = 8
"""Episodes asked about at once; the service's queue is bounded."""


@dataclass(frozen=True, eq=False, slots=True)
class JudgedEpisode:
    """One episode as the reward model sees it.

    Args:
        demonstration: the recorded episode.
        folded: progress after each frame but the first.
        reply: the hops behind it.
        swapped: the hops of the reversed episode, in its order.
    """

    demonstration: Demonstration
    folded: FoldedProgress
    reply: ScoreReply
    swapped: ScoreReply

    @property
    def curve(self) -> NDArray[np.float32]:
        """Progress at every recorded frame, float32 [F], 0 at the first."""
        return np.concatenate([[np.float32(0.0)], self.folded.progress])


@dataclass(frozen=True, slots=True)
class GateReport:
    """Figures of a reward model on unseen episodes.

    Args:
        voc_plus, voc_minus: mean over the successes of at least 8 frames (metrics.voc_plus, metrics.voc_minus).
        progress_mae: mean absolute error of fused progress over the successes' frames.
        false_success: share of failures whose final progress reaches the threshold.
        auc: chance that a success ends higher than a failure.
        success_end, failure_end: mean final progress.
        invalid: frames without a value; they were held.
        successes, failures: episodes.
        stride: environment steps between scored frames.
    """

    voc_plus: float
    voc_minus: float
    progress_mae: float
    false_success: float
    auc: float
    success_end: float
    failure_end: float
    invalid: int
    successes: int
    failures: int
    stride: int


def episode_request(
    demonstration: Demonstration, reference: TaskReference, fusion: FusionConfig, reverse: bool, deadline_s: float
) -> ScoreRequest:
    """The request that scores a whole recorded episode, forwards from progress 0 or backwards from progress 1."""
    frames = demonstration.frames[::-1] if reverse else demonstration.frames
    context = reference.context(demonstration.episode_id, demonstration.frames[0])
    times = tuple(range(1, len(frames)))
    start = 1.0 if reverse else 0.0
    return ScoreRequest(context, frames[0], frames[1:], times, deadline_s * 1e3, start, fusion)


def judge(
    client: RewardClient,
    demonstrations: Sequence[Demonstration],
    reference: TaskReference,
    fusion: FusionConfig,
    deadline_s: float = 120.0,
) -> list[JudgedEpisode]:
    """Score recorded episodes in both directions.

    Args:
        deadline_s: for each `TOGETHER` episodes.
    Raises:
        ScoringError: the service cannot answer in time.
    """
    judged = []
    for first in range(0, len(demonstrations), TOGETHER):
        judged += _judge(client, demonstrations[first : first + TOGETHER], reference, fusion, deadline_s)
    return judged


def _judge(
    client: RewardClient,
    demonstrations: Sequence[Demonstration],
    reference: TaskReference,
    fusion: FusionConfig,
    deadline_s: float,
) -> list[JudgedEpisode]:
    deadline = time.monotonic() + deadline_s
    pending: list[tuple[PendingScore, PendingScore]] = [
        tuple(client.submit(episode_request(d, reference, fusion, reverse, deadline_s)) for reverse in (False, True))
        for d in demonstrations
    ]
    judged = []
    for demonstration, pair in zip(demonstrations, pending, strict=True):
        reply, swapped = (score.result(max(0.0, deadline - time.monotonic())) for score in pair)
        if reply.folded is None:
            raise ScoringError("the service did not fold a fragment that carried its starting progress")
        judged.append(JudgedEpisode(demonstration, reply.folded, reply, swapped))
    return judged


def report(judged: Sequence[JudgedEpisode], threshold: float, stride: int) -> GateReport:
    """Reduce judged episodes to the gate's figures.

    Args:
        threshold: final progress from which an episode counts as claimed success.
        stride: environment steps between scored frames, stated with the figures.
    Raises:
        BadInput: no failure, or no success of at least 8 frames, to judge by.
    """
    successes = [episode for episode in judged if episode.demonstration.success]
    failures = [episode for episode in judged if not episode.demonstration.success]
    long_enough = [e for e in successes if len(e.curve) >= MIN_POINTS]
    if not long_enough or not failures:
        seen = (
            f"{len(successes)} successes ({len(long_enough)} of {MIN_POINTS} frames or more), {len(failures)} failures"
        )
        raise BadInput("gate episodes", seen, "record more, give env.horizon more time, or choose a smaller env.stride")
    ends = [[float(episode.curve[-1]) for episode in group] for group in (successes, failures)]
    return GateReport(
        voc_plus=float(np.mean([voc_plus(e.reply.hops[:, 0]) for e in long_enough])),
        voc_minus=float(np.mean([voc_minus(e.swapped.hops[::-1, 0]) for e in long_enough])),
        progress_mae=float(
            np.mean([progress_mae(e.curve, label_demonstration(e.demonstration).progress) for e in successes])
        ),
        false_success=false_success(ends[1], threshold).mean,
        auc=auc(*ends),
        success_end=float(np.mean(ends[0])),
        failure_end=float(np.mean(ends[1])),
        invalid=sum(int((~e.folded.valid).sum()) for e in judged),
        successes=len(successes),
        failures=len(failures),
        stride=stride,
    )
