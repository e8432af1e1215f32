"""Hops (the model's normalised answers) and their fusion into task progress.

All functions take numpy arrays of any broadcastable shape and compute in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dopamine_rl.errors import BadInput
from dopamine_rl.types import PERSPECTIVES, FoldedProgress, FusionConfig, ScoreReply, ScoreRequest

Floats = NDArray[np.float64]

HOP_BINS = 25
"""Uniform bins on [−1, 1] for balancing hops and reporting their errors."""

LOW_WEIGHT = 0.1
"""Frames whose consistency weight is below this are counted: they almost freeze progress."""

ROUNDING = 1e-5
"""Values outside their interval by at most this much (float32 rounding) are clipped instead of refused."""


def check_interval(field: str, values: ArrayLike, low: float = 0.0, high: float = 1.0) -> Floats:
    """Return `values` as float64 clipped to [low, high].

    Raises:
        BadInput: a value is not finite, or outside by more than float32 rounding.
    """
    array = np.asarray(values, np.float64)
    if not np.all((array >= low - ROUNDING) & (array <= high + ROUNDING)):
        raise BadInput(field, array, f"give finite values in [{low:g}, {high:g}]")
    return np.clip(array, low, high)


def hop(before: ArrayLike, after: ArrayLike) -> Floats:
    """Return the hop from one progress to another: gain as a share of the remaining, loss as a share of the covered
    part.

    Args:
        before, after: progress in [0, 1], broadcastable shapes.
    Returns:
        float64 in [−1, 1]; 0/0 is 0.
    Raises:
        BadInput: a progress lies outside [0, 1].
    Source: arXiv:2512.23703, Eq. 2.
    """
    before, after = np.broadcast_arrays(check_interval("before", before), check_interval("after", after))
    delta = after - before
    scale = np.where(delta >= 0, 1.0 - before, before)
    return np.divide(delta, scale, out=np.zeros_like(delta), where=scale > 0)


def apply_hop(progress: ArrayLike, hop: ArrayLike) -> Floats:
    """Return the progress after a hop; the inverse of `hop` in its second argument.

    Args:
        progress: in [0, 1].
        hop: in [−1, 1].
    Returns:
        float64 in [0, 1].
    Raises:
        BadInput: a value lies outside its interval.
    Source: arXiv:2512.23703, Eq. 2 and 4.
    """
    gain, loss = split_hop(hop)
    return apply_distribution(progress, gain, loss)


def split_hop(hop: ArrayLike) -> tuple[Floats, Floats]:
    """Return (H⁺, H⁻) of hops: E[H⁺] and E[H⁻] when the model answers with one number."""
    checked = check_interval("hop", hop, -1.0, 1.0)
    return np.maximum(checked, 0.0), np.maximum(-checked, 0.0)


def apply_distribution(progress: ArrayLike, gain: ArrayLike, loss: ArrayLike) -> Floats:
    """Return the expected progress after an uncertain hop: Φ + (1 − Φ) E[H⁺] − Φ E[H⁻].

    The expected hop alone is not enough, because the inverse of a hop has a kink at 0.

    Args:
        progress: Φ in [0, 1].
        gain, loss: E[H⁺] and E[H⁻], in [0, 1].
    Returns:
        float64 in [0, 1].
    Raises:
        BadInput: a value lies outside [0, 1].
    Source: arXiv:2512.23703, Eq. 5, in expectation.
    """
    progress = check_interval("progress", progress)
    gain, loss = check_interval("gain", gain), check_interval("loss", loss)
    # Rounding may exceed the interval by one bit.
    return np.clip(progress + (1.0 - progress) * gain - progress * loss, 0.0, 1.0)


def forward_progress(gain: ArrayLike, loss: ArrayLike) -> Floats:
    """Return progress relative to the first frame: the expected hop, clamped to [0, 1].

    Source: arXiv:2512.23703, Eq. 6. Differs: clamped, as the paper's proof of boundedness covers only Φ_I.
    """
    return np.clip(check_interval("gain", gain) - check_interval("loss", loss), 0.0, 1.0)


def backward_progress(gain: ArrayLike, loss: ArrayLike) -> Floats:
    """Return progress relative to the goal: 1 plus the expected hop, clamped to [0, 1].

    Source: arXiv:2512.23703, Eq. 7. Differs: clamped.
    """
    return np.clip(1.0 + check_interval("gain", gain) - check_interval("loss", loss), 0.0, 1.0)


def mean_fusion(incremental: ArrayLike, forward: ArrayLike, backward: ArrayLike) -> Floats:
    """Return the mean of the three perspectives, float64 in [0, 1]. Source: arXiv:2512.23703, Eq. 8."""
    return np.mean(_floats(incremental, forward, backward), axis=0)


def consistency_weight(forward: ArrayLike, backward: ArrayLike, alpha: float, epsilon: float) -> Floats:
    """Return the weight of the two anchored perspectives by their agreement: w = exp(−α Δ²), in [0, 1].

    Near Φ̄ = 0.1 a gap of 0.05 already gives w = 0.007 at α = 20, which freezes progress: report how often w < 0.1.

    Args:
        forward, backward: Φ_F and Φ_B in [0, 1].
        alpha: sharpness, at least 0.
        epsilon: added to the mean of the two in the denominator of Δ; above 0.
    Raises:
        BadInput: alpha or epsilon out of range.
    Source: arXiv:2512.23703, Eq. 9-10; the paper does not state ε.
    """
    if not (math.isfinite(alpha) and alpha >= 0):
        raise BadInput("fusion.alpha", alpha, "give a finite number of at least 0; the paper uses 20")
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise BadInput("fusion.epsilon", epsilon, "give a small finite number above 0, such as 1e-6")
    forward, backward = _floats(forward, backward)
    disagreement = np.abs(backward - forward) / ((forward + backward) / 2.0 + epsilon)
    return np.exp(-alpha * disagreement**2)


def consistency_fusion(
    progress: ArrayLike, incremental: ArrayLike, forward: ArrayLike, backward: ArrayLike, weight: ArrayLike
) -> Floats:
    """Return Φ* = (1 − w) Φ*_before + w (Φ̄ + Φ_I) / 2: a convex combination, so bounded.

    Args:
        progress: Φ* before, in [0, 1].
        incremental, forward, backward: the three perspectives now, in [0, 1].
        weight: w of `consistency_weight`.
    Source: arXiv:2512.23703, Eq. 11, with ΔΦ = Φ_I − Φ*_before.
    """
    progress, incremental, forward, backward, weight = _floats(progress, incremental, forward, backward, weight)
    return (1.0 - weight) * progress + weight * ((forward + backward) / 2.0 + incremental) / 2.0


@dataclass(frozen=True, slots=True)
class FoldState:
    """The state of folding, so that the fragments of an episode can be folded one after the other.

    Args:
        progress: fused Φ* of the last frame, in [0, 1]; 0 at the start of an episode.
        incremental: Φ_I of the last frame, in [0, 1]; 0 at the start of an episode.
        forward, backward: Φ_F and Φ_B of the last frame, in [0, 1]; None (unknown) means `progress`.
    Raises:
        BadInput: a value lies outside [0, 1].
    """

    progress: float = 0.0
    incremental: float = 0.0
    forward: float | None = None
    backward: float | None = None

    def __post_init__(self) -> None:
        for name in ("progress", "incremental", "forward", "backward"):
            value = getattr(self, name)
            if value is not None and not -ROUNDING <= value <= 1.0 + ROUNDING:
                raise BadInput(f"state.{name}", value, "give a finite value in [0, 1]")


def fold(
    state: FoldState, gain: ArrayLike, loss: ArrayLike, valid: ArrayLike, fusion: FusionConfig
) -> tuple[FoldedProgress, FoldState]:
    """Fold the hops of T frames into progress, in time order.

    At an invalid frame all values are held, because leaving one perspective out of the mean would make it jump. Before
    the first valid frame the values of `state` are held.

    Args:
        state: before the first frame.
        gain, loss: float [T, 3], E[H⁺] and E[H⁻] in the order of `PERSPECTIVES`; ignored where invalid.
        valid: bool [T], all three answers of the frame are readable.
        fusion: the rule, and what the incremental hop is applied to.
    Returns:
        progress after each frame, and the state after the last one. Folding in pieces gives identical bits.
    Raises:
        BadInput: shapes differ, or a value marked valid is not finite or outside [0, 1].
    Source: arXiv:2512.23703, Eq. 4-11. Differs: invalid answers hold Φ*.
    """
    gain, loss, valid = _check_hops(gain, loss, valid)
    forward, backward = forward_progress(gain[:, 1], loss[:, 1]), backward_progress(gain[:, 2], loss[:, 2])
    if fusion.kind == "consistency":
        weight = consistency_weight(forward, backward, fusion.alpha, fusion.epsilon)
    else:
        weight = np.ones(len(valid))
    progress, incremental = state.progress, state.incremental
    rows = np.empty((len(valid), 4))  # the three perspectives, then their fusion
    anchored = [progress if value is None else value for value in (state.forward, state.backward)]
    last = np.array([incremental, *anchored, progress])
    for t in range(len(valid)):
        if valid[t]:
            start = progress if fusion.chain == "fused" else incremental
            incremental = float(apply_distribution(start, gain[t, 0], loss[t, 0]))
            progress = float(_fused(progress, (incremental, forward[t], backward[t]), weight[t], fusion))
            last = np.array([incremental, forward[t], backward[t], progress])
        rows[t] = last
    folded = FoldedProgress(
        progress=rows[:, 3].astype(np.float32),
        perspectives=rows[:, :3].astype(np.float32),
        valid=valid,
        weight=np.where(valid, weight, 0.0).astype(np.float32),
    )
    return folded, FoldState(progress, incremental, *map(float, last[1:3])) if valid.any() else state


def fold_frames(
    states: Sequence[FoldState], gain: ArrayLike, loss: ArrayLike, fusion: FusionConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[FoldState]]:
    """Fold one valid frame of each of N episodes: what `fold` gives for each alone, bit for bit, but all at once.

    Args:
        states: N, before the frames.
        gain, loss: float [N, 3], as for `fold`.
    Returns:
        progress float32 [N], perspectives float32 [N, 3], and the states after the frames.
    Raises:
        BadInput: shapes differ, or a value is not finite or outside [0, 1].
    Source: arXiv:2512.23703, Eq. 4-11.
    """
    gain, loss, _ = _check_hops(gain, loss, np.ones(len(states), bool))
    forward, backward = forward_progress(gain[:, 1], loss[:, 1]), backward_progress(gain[:, 2], loss[:, 2])
    weight = np.ones(len(states))
    if fusion.kind == "consistency":
        weight = consistency_weight(forward, backward, fusion.alpha, fusion.epsilon)
    before = np.array([state.progress for state in states])
    start = before if fusion.chain == "fused" else np.array([state.incremental for state in states])
    incremental = apply_distribution(start, gain[:, 0], loss[:, 0])
    progress = _fused(before, (incremental, forward, backward), weight, fusion)
    rows = np.stack([progress, incremental, forward, backward], -1)
    return progress.astype(np.float32), rows[:, 1:].astype(np.float32), [FoldState(*row) for row in rows.tolist()]


def _fused(
    before: ArrayLike, perspectives: tuple[ArrayLike, ArrayLike, ArrayLike], weight: ArrayLike, fusion: FusionConfig
) -> Floats:
    """Φ* of frames, from Φ* before them, their perspectives, and w."""
    if fusion.kind == "consistency":
        fused = consistency_fusion(before, *perspectives, weight)
    elif fusion.kind == "mean":
        fused = mean_fusion(*perspectives)
    else:
        fused = np.asarray(perspectives[PERSPECTIVES.index(fusion.kind)], np.float64)
    return np.clip(fused, 0.0, 1.0)


def fold_reply(request: ScoreRequest, reply: ScoreReply) -> FoldedProgress:
    """Fold the reply for a whole fragment from the request's start progress.

    The perspectives start at `request.start_perspectives`; if omitted, all start at its progress, which `chain="own"`
    only allows at the start of an episode.

    Raises:
        BadInput: the request has no start progress; the reply has another number of frames or invalid values.
    """
    if request.start_progress is None:
        raise BadInput("request.start_progress", None, "give Φ* of the previous frame, or fold where it is available")
    if len(reply.reasons) != len(request.frames):
        raise BadInput("reply.reasons", len(reply.reasons), f"answer each of the {len(request.frames)} frames")
    start = request.start_progress
    state = FoldState(start, *(request.start_perspectives or (start,)))
    return fold(state, reply.gain, reply.loss, reply.valid, request.fusion)[0]


def hop_bin(hop: ArrayLike, bins: int = HOP_BINS) -> NDArray[np.int64]:
    """Return the index 0 … bins − 1 of each hop among `bins` uniform bins on [−1, 1].

    A hop within rounding of an edge belongs to the upper bin, in 32 as in 64 bits.
    """
    checked = check_interval("hop", hop, -1.0, 1.0)
    return np.minimum(((checked + 1.0) / 2.0 * bins + ROUNDING).astype(np.int64), bins - 1)


def _floats(*values: ArrayLike) -> tuple[Floats, ...]:
    """Return the values as float64 arrays of one shape."""
    return np.broadcast_arrays(*(np.asarray(value, np.float64) for value in values))


def _check_hops(gain: ArrayLike, loss: ArrayLike, valid: ArrayLike) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return gain and loss as float64 [T, 3], 0 where invalid, and a copy of valid."""
    valid = np.array(valid, bool)
    checked = []
    for name, values in (("gain", gain), ("loss", loss)):
        array = np.asarray(values, np.float64)
        if valid.ndim != 1 or array.shape != (len(valid), 3):
            raise BadInput(name, array.shape, f"give [T, 3] with one row for each frame of valid, {valid.shape}")
        checked.append(check_interval(name, np.where(valid[:, None], array, 0.0)))
    return checked[0], checked[1], valid
