"""Balanced sampling of training pairs: two frames of a demonstration with their hop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.mismatch import mismatched_hop
from dopamine_rl.episodes.states import state_progress
from dopamine_rl.errors import BadInput
from dopamine_rl.progress import HOP_BINS, hop, hop_bin

GAP_BINS = 4
"""Quantiles of the distance in states, within each hop bin."""

ZERO_WINDOW = (0.075, 0.1)
"""Distance of the frames of a zero-hop pair, as a share of the distance to the neighbouring state."""

EPISODES_PER_BLOCK = 64
"""Demonstrations per block of `sample_blocks`."""


@dataclass(frozen=True, eq=False, slots=True)
class HopPairs:
    """N training pairs, each within one demonstration, in random order.

    Args:
        episode_index: int64 [N], index of the demonstration.
        before_index, after_index: int64 [N], frame indices within it.
        hop: float32 [N], ground truth in [−1, 1].
        mismatched: bool [N], pairs to be asked about under another task's instruction; their hop is that of
            `mismatched_hop`.
        cell_counts: int64 [25, 4], sampled pairs per cell of hop bin × gap quantile, under the right instruction.
        cell_sizes: int64 [25, 4], distinct pairs available per cell.
        zero_hop_count: additional pairs whose frames show the same progress.
    """

    episode_index: NDArray[np.int64]
    before_index: NDArray[np.int64]
    after_index: NDArray[np.int64]
    hop: NDArray[np.float32]
    mismatched: NDArray[np.bool_]
    cell_counts: NDArray[np.int64]
    cell_sizes: NDArray[np.int64]
    zero_hop_count: int


def sample_pairs(
    states: Sequence[NDArray[np.int64]],
    n: int,
    rng: np.random.Generator,
    zero_share: float = 0.05,
    mismatched: float = 0.0,
) -> HopPairs:
    """Sample n pairs, uniform over 25 hop bins × 4 gap quantiles, including a share of zero-hop pairs.

    Mismatched pairs are sampled in the same way, by their hop under the right instruction.

    All ordered pairs of states of every demonstration are enumerated, so the balance is exact: counts of non-empty hop
    bins differ by at most one, and so do those of the cells of a bin. A pair repeats only when its cell is exhausted.

    Args:
        states: per demonstration int [M + 1] from `sample_states`, at least 2 states each.
        n: number of pairs.
        rng: the only source of randomness.
        zero_share: share of zero-hop pairs, in [0, 1).
        mismatched: share of pairs under another task's instruction, in [0, 1).
    Raises:
        BadInput: no demonstration, n below 1, a share out of range, or states not strictly increasing.
    Source: arXiv:2512.23703, balanced sampling. Differs: pairs are enumerated, gap quantiles are computed per hop
        bin, one seed.
    """
    _check(states, n, zero_share, mismatched)
    n_zero, n_mismatched = round(n * zero_share), int(n * mismatched)
    pool = _enumerate(states)
    cell = _cells(pool, rng)
    sizes = np.bincount(cell, minlength=HOP_BINS * GAP_BINS).reshape(HOP_BINS, GAP_BINS)
    chosen, counts = _fill(cell, sizes, n - n_zero - n_mismatched, rng)
    balanced = [column[chosen] for column in pool[:4]]
    parts = [
        balanced,
        _zero_pairs(states, n_zero, rng),
        _mismatched_pairs(states, pool, cell, sizes, n_mismatched, rng),
    ]
    columns = [np.concatenate(part) for part in zip(*parts, strict=True)]
    order = rng.permutation(n)
    episode, before, after, hops = (column[order] for column in columns)
    return HopPairs(episode, before, after, hops.astype(np.float32), order >= n - n_mismatched, counts, sizes, n_zero)


def sample_blocks(
    states: Sequence[NDArray[np.int64]],
    n: int,
    seed: int,
    zero_share: float = 0.05,
    mismatched: float = 0.0,
    run: Callable[[Callable[[int], HopPairs], Iterable[int]], Iterable[HopPairs]] = map,
) -> Iterator[HopPairs]:
    """Sample n pairs from any number of demonstrations, in blocks of `EPISODES_PER_BLOCK` demonstrations.

    Every block has its own random stream from the seed and the block number, so the pairs do not depend on who samples
    the blocks and in which order. Each block is balanced separately, and only few pairs are in memory.

    Args:
        states, n, zero_share, mismatched: as for `sample_pairs`.
        seed: at least 0.
        run: `map`, or the `map` of a pool to distribute blocks over workers.
    Yields:
        The pairs of each non-empty block; `episode_index` counts over all demonstrations.
    Raises:
        BadInput: as for `sample_pairs`.
    """
    _check(states, n, zero_share, mismatched)
    if seed < 0:
        raise BadInput("seed", seed, "give a whole number of at least 0")
    edges = [min(first, len(states)) for first in range(0, len(states) + EPISODES_PER_BLOCK, EPISODES_PER_BLOCK)]
    shares = np.diff([n * edge // len(states) for edge in edges])
    draw = partial(_draw_block, states, shares, seed, (zero_share, mismatched))
    yield from run(draw, np.flatnonzero(shares).tolist())


def _draw_block(
    states: Sequence[NDArray[np.int64]],
    shares: NDArray[np.int64],
    seed: int,
    kinds: tuple[float, float],
    block: int,
) -> HopPairs:
    first = block * EPISODES_PER_BLOCK
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(block,)))
    pairs = sample_pairs(states[first : first + EPISODES_PER_BLOCK], int(shares[block]), rng, *kinds)
    return replace(pairs, episode_index=pairs.episode_index + first)


_Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]


def _enumerate(states: Sequence[NDArray[np.int64]]) -> _Columns:
    """Return every ordered pair of states: episode, before frame, after frame, hop, gap in states."""
    parts = []
    for episode, frames in enumerate(states):
        before, after = np.nonzero(~np.eye(len(frames), dtype=bool))
        progress = state_progress(len(frames))
        hops = hop(progress[before], progress[after])
        parts.append((np.full(len(before), episode), frames[before], frames[after], hops, np.abs(after - before)))
    episode_index, before_frame, after_frame, hops, gap = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    return episode_index, before_frame, after_frame, hops, gap


def _cells(pool: _Columns, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the cell of each pair, hop bin × 4 + gap quantile; equal gaps are assigned to quantiles at random."""
    bins = hop_bin(pool[3])
    order = np.lexsort((rng.random(len(bins)), pool[4], bins))
    sizes = np.bincount(bins, minlength=HOP_BINS)
    rank = np.empty(len(bins), np.int64)
    rank[order] = np.arange(len(bins)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return bins * GAP_BINS + rank * GAP_BINS // sizes[bins]


def _fill(
    cell: NDArray[np.int64], sizes: NDArray[np.int64], n: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sample n pairs uniformly over the non-empty hop bins, and over the cells of each; also return the counts."""
    quota = np.zeros_like(sizes)
    filled = np.flatnonzero(sizes.sum(1))
    for hop_index, share in zip(filled, _split(n, len(filled), rng), strict=True):
        columns = np.flatnonzero(sizes[hop_index])
        quota[hop_index, columns] = _split(share, len(columns), rng)
    shuffled = rng.permutation(len(cell))
    members = shuffled[np.argsort(cell[shuffled], kind="stable")]
    starts = (np.cumsum(sizes.ravel()) - sizes.ravel()).astype(np.int64)
    chosen = [
        members[start + np.arange(count) % size]
        for start, size, count in zip(starts, sizes.ravel(), quota.ravel(), strict=True)
        if count
    ]
    return np.concatenate([np.zeros(0, np.int64), *chosen]), quota


def _split(total: int, parts: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Split `total` into `parts` whole numbers that differ by at most one, the larger ones at random positions."""
    shares = np.full(parts, total // parts)
    shares[rng.permutation(parts)[: total % parts]] += 1
    return shares


def _zero_pairs(states: Sequence[NDArray[np.int64]], n: int, rng: np.random.Generator) -> list[NDArray]:
    """Return n pairs of a state's frame and a frame too close to show progress, in either order."""
    episode = rng.integers(len(states), size=n)
    share = rng.uniform(*ZERO_WINDOW, size=n)
    draw, later, swap = rng.random(n), rng.random(n) < 0.5, rng.random(n) < 0.5
    anchor, near = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for i, index in enumerate(episode):
        frames = states[index]
        segment = int(draw[i] * (len(frames) - 1))
        start, end = frames[segment], frames[segment + 1]
        delta = round(float(share[i] * (end - start)))
        anchor[i], near[i] = (end, end - delta) if later[i] else (start, start + delta)
    return [episode, np.where(swap, near, anchor), np.where(swap, anchor, near), np.zeros(n)]


def _mismatched_pairs(
    states: Sequence[NDArray[np.int64]],
    pool: _Columns,
    cell: NDArray[np.int64],
    sizes: NDArray[np.int64],
    n: int,
    rng: np.random.Generator,
) -> list[NDArray]:
    """Return n balanced pairs with their hop under another task's instruction."""
    if not n:
        return [column[:0] for column in pool[:4]]
    chosen, _ = _fill(cell, sizes, n, rng)
    episode, before, after = (column[chosen] for column in pool[:3])
    goals = np.array([frames[-1] for frames in states])
    return [episode, before, after, mismatched_hop(before == goals[episode])]


def _check(states: Sequence[NDArray[np.int64]], n: int, zero_share: float, mismatched: float) -> None:
    if len(states) == 0:
        raise BadInput("states", 0, "give at least one demonstration")
    for index, frames in enumerate(states):
        if np.ndim(frames) != 1 or len(frames) < 2 or np.any(np.diff(frames) <= 0):
            raise BadInput(f"states[{index}]", frames, "give at least 2 strictly increasing frame indices")
    if n < 1:
        raise BadInput("n", n, "sample at least one pair")
    if not 0.0 <= zero_share < 1.0:
        raise BadInput("zero_share", zero_share, "give a share in [0, 1)")
    if not 0.0 <= mismatched < 1.0 - zero_share:
        raise BadInput("mismatched", mismatched, "give a share of at least 0, below 1 with the zero-hop pairs")
