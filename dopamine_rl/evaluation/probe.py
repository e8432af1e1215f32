"""The precision probe: does a reward model see whether the held object is aligned, and what does it pay for advancing?

Demonstrations never show an object at the mouth of its hole but beside it; a policy goes there. Figures over whole
episodes do not see what a model says of such states. So pictures are taken of the object at rest, turned the right way,
at some gaps before the mouth and some offsets from its axis (`actors.probe.record_probe`), and two things are asked: at
every gap, does progress fall with the offset? And is less paid for standing at the mouth misaligned than further off
aligned? Else whoever stands there must give progress back to retreat and align: a trap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.scoring import ScoringConfig, score_episode
from dopamine_rl.interfaces import OnProgress, RewardClient, no_progress
from dopamine_rl.metrics import spearman
from dopamine_rl.progress import backward_progress, forward_progress
from dopamine_rl.types import TaskReference, Views

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class ProbePictures:
    """N states of the probe. The object at no offset is there once a gap, at the others in several directions.

    Args:
        start: uint8 [V, H, W, 3], the first frame of an episode of the same scene.
        frames: uint8 [N, V, H, W, 3].
        gaps_m, offsets_m: float64 [N], to the mouth and from its axis.
        truth: float64 [N], true progress in [0, 1].
    """

    start: Views
    frames: NDArray[np.uint8]
    gaps_m: Floats
    offsets_m: Floats
    truth: Floats


@dataclass(frozen=True, eq=False, slots=True)
class ProbeFigures:
    """What progress says of the probe's states; NaN where it cannot be told.

    Args:
        gaps_m: float64 [G], from far to near.
        offsets_m: float64 [O], rising from 0.
        progress: float64 [G, O], mean over the directions.
        ranks: float64 [G], Spearman's rank correlation of progress with alignment (the negative offset) at each gap: 1
            where it falls with every step aside, 0 for a model that says the same everywhere.
        trade: progress of the nearest gap at the largest offset minus that of the furthest gap on the axis. Above 0,
            advancing misaligned pays more than staying back aligned.
    """

    gaps_m: Floats
    offsets_m: Floats
    progress: Floats
    ranks: Floats
    trade: float

    @property
    def rank(self) -> float:
        """The lowest rank correlation of all gaps."""
        return float(self.ranks.min())


def ask(
    client: RewardClient,
    reference: TaskReference,
    pictures: ProbePictures,
    deadline_s: float = 120.0,
    on_progress: OnProgress = no_progress,
) -> Floats:
    """A reward model's progress in the probe's states, float64 [N]: the mean of the forward and backward perspectives.

    These two compare with the scene's first frame and with the goal. The incremental perspective compares with the
    frame before, and a state of the probe has none. NaN where an answer could not be read.

    Args:
        deadline_s: for each request.
        on_progress: is told how many states are answered.
    Raises:
        ScoringError: a request was not answered within its deadline.
    """
    context = replace(reference.context("probe", pictures.start), model_version=client.model_version(deadline_s))
    times = np.arange(1, len(pictures.frames) + 1)
    scoring = ScoringConfig(deadline_s=deadline_s)
    scores = score_episode(client, context, pictures.frames, times, scoring, on_progress)
    gain, loss = (np.where(scores.valid[:, None], part, 0.0)[:, 1:] for part in (scores.gain, scores.loss))
    forward, backward = forward_progress(gain[:, 0], loss[:, 0]), backward_progress(gain[:, 1], loss[:, 1])
    return np.where(scores.valid, (forward + backward) / 2.0, np.nan)


def probe_figures(gaps_m: ArrayLike, offsets_m: ArrayLike, progress: ArrayLike) -> ProbeFigures:
    """Reduce progress in the probe's states to figures.

    Directions of one gap and offset are averaged first, those without a value left out; where none has one, what rests
    on it is NaN.

    Args:
        gaps_m, offsets_m: float [N].
        progress: float [N] in [0, 1], NaN where unreadable.
    Raises:
        BadInput: lengths differ, fewer than two offsets or gaps, or a gap that lacks an offset.
    """
    gap, offset, values = (np.asarray(part, np.float64) for part in (gaps_m, offsets_m, progress))
    if not gap.shape == offset.shape == values.shape or gap.ndim != 1:
        raise BadInput("progress", values.shape, f"give one value for each state, {gap.shape}")
    gaps, offsets = np.unique(gap)[::-1], np.unique(offset)
    if len(gaps) < 2 or len(offsets) < 2:
        raise BadInput("states", (len(gaps), len(offsets)), "give at least two gaps and two offsets")
    table = np.full((len(gaps), len(offsets)), np.nan)
    for i, j in np.ndindex(table.shape):
        there = values[(gap == gaps[i]) & (offset == offsets[j])]
        if not len(there):
            raise BadInput("states", (gaps[i], offsets[j]), "give every offset at every gap")
        known = there[np.isfinite(there)]
        table[i, j] = known.mean() if len(known) else np.nan
    ranks = np.array([spearman(row, -offsets) if np.isfinite(row).all() else np.nan for row in table])
    return ProbeFigures(gaps, offsets, table, ranks, float(table[-1, -1] - table[0, 0]))
