"""Balance of training pairs over the cells of hop bin × gap quantile, with empty and repeated cells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.pairs import GAP_BINS, HopPairs
from dopamine_rl.progress import HOP_BINS, hop_bin

CENTRAL = slice(HOP_BINS // 2 - 1, HOP_BINS // 2 + 2)
"""The three hop bins around zero: −12 % to +12 %."""
RELEASED_CENTRAL_SHARE = 0.40
"""Share of the released sampler's pairs in these bins, for the published example episode (METHOD.md section 1).

Quoted, not computed: the released algorithm is not reproducible, because it samples by a salted hash.
"""


@dataclass(frozen=True, eq=False, slots=True)
class Balance:
    """Statistics of sampled pairs.

    Args:
        counts: int64 [25, 4], sampled pairs per cell, without zero-hop and mismatched pairs.
        sizes: int64 [25, 4], distinct pairs available per cell.
        zero_hops: sampled zero-hop pairs.
        still: zero-hop pairs whose two frames are identical, because the states are too close together.
        mismatched: sampled pairs under another task's instruction.
        from_goal: those of them whose BEFORE is the goal, so that their hop is −1; that of the others is 0.
        central_share: share of all pairs, zero-hop and mismatched ones included, with a hop in the three central bins.
    """

    counts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    zero_hops: int
    still: int
    mismatched: int
    from_goal: int
    central_share: float

    @property
    def empty(self) -> NDArray[np.bool_]:
        """bool [25, 4]: cells without any pair of states of that hop and gap."""
        return self.sizes == 0

    @property
    def repeated(self) -> NDArray[np.bool_]:
        """bool [25, 4]: cells with fewer distinct pairs than samples, so that some pairs repeat."""
        return self.counts > self.sizes

    @property
    def max_deviation(self) -> float:
        """Largest relative deviation of a hop bin's count from the mean over non-empty bins."""
        by_bin = self.counts.sum(1)[~self.empty.all(1)]
        return float(np.abs(by_bin - by_bin.mean()).max() / max(by_bin.mean(), 1e-9))

    @property
    def central_balanced(self) -> float:
        """Share of the balanced pairs of `counts` in the three central bins; 3 of 25 if uniform."""
        return float(self.counts[CENTRAL].sum() / max(self.counts.sum(), 1))

    @property
    def central_unbalanced(self) -> float:
        """Share of all available pairs in the three central bins, as in sampling without balance."""
        return float(self.sizes[CENTRAL].sum() / max(self.sizes.sum(), 1))


def balance(blocks: Iterable[HopPairs]) -> Balance:
    """Sum the statistics of the blocks of `sample_blocks`, or of one `sample_pairs` in a list."""
    counts, sizes = np.zeros((HOP_BINS, GAP_BINS), np.int64), np.zeros((HOP_BINS, GAP_BINS), np.int64)
    by_bin = np.zeros(HOP_BINS, np.int64)
    zero_hops = still = mismatched = from_goal = 0
    for pairs in blocks:
        counts += pairs.cell_counts
        sizes += pairs.cell_sizes
        zero_hops += pairs.zero_hop_count
        still += int((pairs.before_index == pairs.after_index).sum())
        mismatched += int(pairs.mismatched.sum())
        from_goal += int((pairs.hop[pairs.mismatched] < 0).sum())
        by_bin += np.bincount(hop_bin(pairs.hop), minlength=HOP_BINS)
    central_share = float(by_bin[CENTRAL].sum() / max(by_bin.sum(), 1))
    return Balance(counts, sizes, zero_hops, still, mismatched, from_goal, central_share)
