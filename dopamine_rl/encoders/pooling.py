"""What the encoders share: averaging to a grid, and weights as arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dopamine_rl.encoders.encoder import GRID


def pooled(maps: Tensor) -> NDArray[np.float32]:
    """Features float32 [M, GRID · GRID · D] of maps [M, D, rows, columns], averaged to GRID × GRID places."""
    places = F.adaptive_avg_pool2d(maps.float(), GRID)
    features: NDArray[np.float32] = places.permute(0, 2, 3, 1).flatten(1).cpu().numpy()
    return features


def as_arrays(weights: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """Weights as float32 arrays."""
    return {name: weight.detach().float().cpu().numpy() for name, weight in weights.items()}


def as_tensors(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Weights of `as_arrays`."""
    return {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}
