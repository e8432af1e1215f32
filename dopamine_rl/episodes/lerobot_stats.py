"""LeRobot's dataset statistics: per episode in its row, in total in `meta/stats.json`.

Source: lerobot 0.4.4, `datasets/compute_stats.py`: the statistics, and the frames and pixels they are computed from.
Differs: quantiles are exact, and total quantiles are not averages over episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

STATS = "meta/stats.json"
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
MIN_FRAMES, MAX_FRAMES, POWER = 100, 10_000, 0.75
"""Frames of an episode used for statistics: all of a short one, F ** POWER of a long one."""
LARGE, SMALL = 300, 150
"""Images with a side of at least LARGE pixels are subsampled to a side of about SMALL."""


def sampled_frames(count: int) -> NDArray[np.int64]:
    """The frames of an episode used for its statistics: int64, increasing."""
    samples = max(min(MIN_FRAMES, count), min(int(count**POWER), MAX_FRAMES))
    return np.unique(np.linspace(0, count - 1, samples).round().astype(np.int64))


def column_statistics(values: NDArray[Any]) -> dict[str, Any] | None:
    """LeRobot's statistics of a column; None if no frame has a value.

    Args:
        values: [F] or [F, N], numbers or bools; NaN means no value.
    """
    numbers = np.asarray(values, np.float64)
    numbers = numbers[:, None] if numbers.ndim == 1 else numbers
    numbers = numbers[~np.isnan(numbers).any(1)]
    if not len(numbers):
        return None
    figures = {name: getattr(numbers, name)(0).tolist() for name in ("min", "max", "mean", "std")}
    quantiles = {name: np.quantile(numbers, share, axis=0).tolist() for name, share in QUANTILES.items()}
    return {**figures, "count": [len(numbers)], **quantiles}


class PictureStatistics:
    """Statistics of a camera's images, from a histogram of their values."""

    def __init__(self) -> None:
        self.frames, self._counts = 0, np.zeros((3, 256), np.int64)

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Add the pixels of an image, uint8 [H, W, 3]."""
        side = max(picture.shape[:2])
        every = 1 if side < LARGE else side // SMALL
        for channel in range(3):
            values = picture[::every, ::every, channel].ravel()
            self._counts[channel] += np.bincount(values, minlength=256)
        self.frames += 1

    def merge(self, other: PictureStatistics) -> None:
        """Add the counts of another instance."""
        self.frames += other.frames
        self._counts += other._counts

    def figures(self) -> dict[str, Any]:
        """LeRobot's statistics of a camera: lists [3, 1, 1] of values in [0, 1], and the number of frames."""
        values = np.arange(256) / 255.0
        total = self._counts.sum(axis=1)
        mean = self._counts @ values / total
        shares = np.cumsum(self._counts, axis=1) / total[:, None]
        moments = {
            "min": values[(self._counts > 0).argmax(axis=1)],
            "max": values[255 - (self._counts[:, ::-1] > 0).argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt(np.maximum(self._counts @ values**2 / total - mean**2, 0.0)),
        }
        quantiles = {name: values[(shares >= share).argmax(axis=1)] for name, share in QUANTILES.items()}
        shaped = {name: array.reshape(3, 1, 1).tolist() for name, array in (moments | quantiles).items()}
        return {**shaped, "count": [self.frames]}
