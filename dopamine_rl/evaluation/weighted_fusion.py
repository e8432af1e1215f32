"""Fusing the perspectives by how far each is to be trusted: the weight of one is its precision, 1 over its expected
squared error.

What error to expect is read off an answer's entropy, or off the gap between forward and backward progress, by maps that
were fitted on other episodes. An experiment beside the core's fusions (Eq. 8, Eq. 9-11).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.calibration import ErrorMap, fit_error_map
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.answers import EpisodeHops
from dopamine_rl.evaluation.unseen import UnseenEpisode
from dopamine_rl.evaluation.variants import Variant
from dopamine_rl.progress import apply_distribution, backward_progress, forward_progress
from dopamine_rl.types import PERSPECTIVES, FoldedProgress, FusionConfig

Source = Literal["entropy", "disagreement"]
"""What tells that an answer is doubtful: the entropy of each answer, or the gap |Φ_B − Φ_F|."""
SOURCES: tuple[Source, ...] = get_args(Source)
Doubt = Literal[Source, "both"]
DOUBTS: tuple[Doubt, ...] = get_args(Doubt)
LEAST_ERROR = 0.01
"""No perspective is trusted beyond this, so that none takes all the weight."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ErrorMaps:
    """Expected error of each perspective's progress.

    Args:
        entropy: P maps from the entropy of its answer, nats.
        disagreement: P maps from |Φ_B − Φ_F|.
    """

    entropy: tuple[ErrorMap, ...]
    disagreement: tuple[ErrorMap, ...]

    def expected(self, answers: EpisodeHops, doubt: Doubt) -> Floats:
        """Expected absolute error of each perspective at each frame, float64 [T, P]; NaN where an answer is invalid."""
        if doubt == "both":
            return (self.expected(answers, "entropy") + self.expected(answers, "disagreement")) / 2.0
        maps = self.entropy if doubt == "entropy" else self.disagreement
        found = uncertainty(answers, doubt)
        return np.stack([one.expected(found[:, i]) for i, one in enumerate(maps)], axis=1)


def uncertainty(answers: EpisodeHops, source: Source) -> Floats:
    """Of each perspective, float64 [T, P], NaN where an answer is invalid; the disagreement is one for all."""
    if source == "entropy":
        return answers.entropy.astype(np.float64)
    forward, backward = _anchored(answers)
    gap = np.where(answers.valid, np.abs(backward - forward), np.nan)
    return np.repeat(gap[:, None], len(PERSPECTIVES), axis=1)


def perspective_errors(episode: UnseenEpisode, answers: EpisodeHops) -> Floats:
    """Absolute error of each perspective's progress where Eq. 8 fuses them, float64 [T, P]. The truth has to be
    known."""
    assert episode.truth is not None
    _, folded = Variant(FusionConfig()).curve(answers)
    return np.abs(folded.perspectives - episode.truth[answers.frame_ids][1:, None])


def fit_maps(held_in: Sequence[tuple[UnseenEpisode, EpisodeHops]]) -> ErrorMaps:
    """Fit the maps on episodes that nothing is judged by.

    Raises:
        BadInput: no episode's truth is known, or the model gives no distribution.
    """
    known = [(episode, answers) for episode, answers in held_in if episode.truth is not None]
    if not known:
        raise BadInput("--held-in", len(held_in), "give episodes whose true progress is known")
    errors = np.concatenate([perspective_errors(episode, answers)[answers.valid] for episode, answers in known])
    maps = []
    for source in SOURCES:
        found = np.concatenate([uncertainty(answers, source)[answers.valid] for _, answers in known])
        maps.append(tuple(fit_error_map(found[:, i], errors[:, i]) for i in range(len(PERSPECTIVES))))
    return ErrorMaps(*maps)


@dataclass(frozen=True, slots=True)
class Weighted:
    """Φ* = Σ w_P Φ_P / Σ w_P with w_P = 1 / expected error², the incremental perspective chained on Φ*."""

    maps: ErrorMaps
    doubt: Doubt

    def curve(self, answers: EpisodeHops) -> tuple[NDArray[np.float32], FoldedProgress]:
        """As the core folds: where a frame is invalid everything holds its last value."""
        precision = 1.0 / np.maximum(self.maps.expected(answers, self.doubt), LEAST_ERROR) ** 2
        forward, backward = _anchored(answers)
        progress, perspectives = np.zeros(len(answers.valid) + 1), np.zeros((len(answers.valid), len(PERSPECTIVES)))
        for t, valid in enumerate(answers.valid):
            progress[t + 1], perspectives[t] = progress[t], perspectives[t - 1] if t else 0.0
            if valid:
                incremental = float(apply_distribution(progress[t], answers.gain[t, 0], answers.loss[t, 0]))
                perspectives[t] = incremental, forward[t], backward[t]
                progress[t + 1] = np.average(perspectives[t], weights=precision[t])
        weight = answers.valid.astype(np.float32)
        folded = FoldedProgress(progress[1:].astype(np.float32), perspectives.astype(np.float32), answers.valid, weight)
        return progress.astype(np.float32), folded


def _anchored(answers: EpisodeHops) -> tuple[Floats, Floats]:
    """Φ_F and Φ_B, float64 [T]; 0 and 1 where an answer is invalid."""
    gain, loss = (np.where(answers.valid[:, None], values, 0.0) for values in (answers.gain, answers.loss))
    return forward_progress(gain[:, 1], loss[:, 1]), backward_progress(gain[:, 2], loss[:, 2])
