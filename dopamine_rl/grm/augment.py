"""Pictures changed in training as another day's camera would change them: moved a little, lit and coloured otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from dopamine_rl.grm.config import AugmentConfig

Look = tuple[float, ...]
"""What is done to a picture: shift right and down, zoom, turn, contrast, brightness, gain of red, green and blue."""


def draw_looks(config: AugmentConfig, shape: tuple[int, int], rng: np.random.Generator) -> list[list[Look | None]]:
    """Draw looks in rows and columns; all are None, pictures as they are, with probability 1 − `config.share`."""
    rows, columns = shape
    if rng.random() >= config.share:
        return [[None] * columns for _ in range(rows)]
    most = np.array(
        [config.shift, config.shift, config.zoom, config.turn_rad, config.contrast, config.brightness]
        + 3 * [config.colour]
    )
    drawn = rng.uniform(-1.0, 1.0, (rows, columns, len(most))) * most
    return [[tuple(look.tolist()) for look in row] for row in drawn]


def augmented(images: NDArray[np.uint8], looks: Sequence[Look | None]) -> NDArray[np.uint8]:
    """Pictures uint8 [M, H, W, 3] in their looks; what a move lays bare repeats the picture's edge."""
    changed = [place for place, look in enumerate(looks) if look is not None]
    if not changed:
        return images
    pictures = torch.from_numpy(images[changed]).permute(0, 3, 1, 2).float() / 255.0
    right, down, zoom, turn, contrast, brightness, *colour = torch.tensor([looks[place] for place in changed]).T
    scale = 1.0 + zoom
    rows = (
        torch.stack([scale * turn.cos(), -scale * turn.sin(), 2.0 * right], dim=1),
        torch.stack([scale * turn.sin(), scale * turn.cos(), 2.0 * down], dim=1),
    )
    places = F.affine_grid(torch.stack(rows, dim=1), list(pictures.shape), align_corners=False)
    pictures = F.grid_sample(pictures, places, padding_mode="border", align_corners=False)
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    pictures = (pictures - mean) * _each(1.0 + contrast) + mean + _each(brightness)
    pictures = pictures * (1.0 + torch.stack(colour, dim=1))[:, :, None, None]
    result = images.copy()
    result[changed] = (pictures.clamp(0.0, 1.0) * 255.0).round().byte().permute(0, 2, 3, 1).numpy()
    return result


def _each(values: torch.Tensor) -> torch.Tensor:
    """One value a picture, [M, 1, 1, 1]."""
    return values[:, None, None, None]
