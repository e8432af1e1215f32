"""Image augmentation: shift, zoom, rotation, light and colour; mirrored and recoloured worlds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from dopamine_rl.grm.config import AugmentConfig

Look = tuple[float, ...]
"""Augmentation of an image: shift right and down, zoom, rotation, contrast, brightness, gain of red, green and blue;
then its world: horizontal and vertical mirroring (−1, else 1) and the index of its channel order in `ORDERS`."""

ORDERS = tuple(permutations(range(3)))
"""Permutations of red, green and blue; the first is the identity."""

SAME_WORLD = (1.0, 1.0, 0.0)

FLICKER = (0.005, 0.005, 0.0, 0.002, 0.02, 0.01, 0.01, 0.01, 0.01)
"""How much two pictures of a rest differ, in the order of `Look` up to the colours: about half a pixel of 112, an
eighth of a degree, and what the light of a lamp and the exposure of a camera change."""


def draw_looks(config: AugmentConfig, shape: tuple[int, int], rng: np.random.Generator) -> list[list[Look | None]]:
    """Draw a grid of looks; all are None (no change) with probability (1 − `share`) · (1 − `worlds`).

    All rows of a column have the same mirroring, and the whole grid has the same channel order.
    """
    rows, columns = shape
    changed, other_world = rng.random() < config.share, bool(config.worlds) and rng.random() < config.worlds
    if not changed and not other_world:
        return [[None] * columns for _ in range(rows)]
    limits = np.array(
        [
            [config.shift, config.shift, config.zoom, turn, config.contrast, config.brightness] + 3 * [config.colour]
            for turn in [config.turn_rad] + (columns - 1) * [config.wrist_turn_rad]
        ]
    )
    drawn = rng.uniform(-1.0, 1.0, (rows, *limits.shape)) * limits * changed
    worlds = [SAME_WORLD] * columns
    if other_world:
        order = float(rng.integers(len(ORDERS)))
        worlds = [(*pair, order) for pair in rng.choice([-1.0, 1.0], (columns, 2)).tolist()]
    return [[(*look, *world) for look, world in zip(row, worlds, strict=True)] for row in drawn.tolist()]


def flickered(looks: Sequence[Look | None], rng: np.random.Generator) -> list[Look | None]:
    """The looks of the same views a moment later, while nothing moves; every amount is drawn from ± `FLICKER`."""
    changes = rng.uniform(-1.0, 1.0, (len(looks), len(FLICKER))) * FLICKER
    known = [(*(0.0,) * len(FLICKER), *SAME_WORLD) if look is None else look for look in looks]
    return [
        (*(np.array(look[: len(FLICKER)]) + change).tolist(), *look[len(FLICKER) :])
        for look, change in zip(known, changes, strict=True)
    ]


def augmented(images: NDArray[np.uint8], looks: Sequence[Look | None]) -> NDArray[np.uint8]:
    """Apply looks to images uint8 [M, H, W, 3]; pixels from outside repeat the image's edge."""
    changed = [index for index, look in enumerate(looks) if look is not None]
    if not changed:
        return images
    pictures = torch.from_numpy(images[changed]).permute(0, 3, 1, 2).float().div_(255.0)
    values = torch.tensor([looks[index] for index in changed], dtype=torch.float32)
    right, down, zoom, turn, contrast, brightness, *colour, across, upright, order = values.T
    along, aside = (1.0 + zoom) * turn.cos(), (1.0 + zoom) * turn.sin()
    # Like F.affine_grid, at a tenth of its cost.
    x, y = (torch.arange(0.5, side) * (2.0 / side) - 1.0 for side in reversed(pictures.shape[2:]))
    sampling_grid = torch.stack(
        [
            (along * across)[:, None, None] * x - ((aside * across)[:, None] * y - 2.0 * right[:, None])[:, :, None],
            (aside * upright)[:, None, None] * x + ((along * upright)[:, None] * y + 2.0 * down[:, None])[:, :, None],
        ],
        dim=-1,
    )
    pictures = F.grid_sample(pictures, sampling_grid, padding_mode="border", align_corners=False)
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    # In place: allocating a new array for each step would cost as much time again.
    pictures.sub_(mean).mul_(_each(1.0 + contrast)).add_(mean).add_(_each(brightness))
    pictures.mul_((1.0 + torch.stack(colour, dim=1))[:, :, None, None])
    if order.any():
        channels = torch.tensor(ORDERS)[order.long()]
        pictures = pictures.gather(1, channels[:, :, None, None].expand_as(pictures))
    result = images.copy()
    result[changed] = pictures.clamp_(0.0, 1.0).mul_(255.0).round_().byte().permute(0, 2, 3, 1).numpy()
    return result


def _each(values: torch.Tensor) -> torch.Tensor:
    """One value per image, [M, 1, 1, 1]."""
    return values[:, None, None, None]
