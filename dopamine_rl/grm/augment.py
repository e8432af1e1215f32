"""Pictures changed in training as another day's camera would change them: moved, turned, lit and coloured otherwise; or mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from dopamine_rl.grm.config import AugmentConfig

Look = tuple[float, ...]
"""What is done to a picture: shift right and down, zoom, turn, contrast, brightness, gain of red, green and blue, and its
world: whether left and right, and above and below, are exchanged (−1, else 1), and the place of its channels in `ORDERS`."""

ORDERS = tuple(permutations(range(3)))
"""Orders of red, green and blue; the first leaves them as they are."""

SAME_WORLD = (1.0, 1.0, 0.0)


def draw_looks(config: AugmentConfig, shape: tuple[int, int], rng: np.random.Generator) -> list[list[Look | None]]:
    """Draw looks in rows and columns; all are None, pictures as they are, with probability (1 − `share`) · (1 − `worlds`).

    The world of a column is that of all its rows, and the order of the colours that of all.
    """
    rows, columns = shape
    changed, other_world = rng.random() < config.share, bool(config.worlds) and rng.random() < config.worlds
    if not changed and not other_world:
        return [[None] * columns for _ in range(rows)]
    most = np.array(
        [
            [config.shift, config.shift, config.zoom, turn, config.contrast, config.brightness] + 3 * [config.colour]
            for turn in [config.turn_rad] + (columns - 1) * [config.wrist_turn_rad]
        ]
    )
    drawn = rng.uniform(-1.0, 1.0, (rows, *most.shape)) * most * changed
    worlds = [SAME_WORLD] * columns
    if other_world:
        order = float(rng.integers(len(ORDERS)))
        worlds = [(*pair, order) for pair in rng.choice([-1.0, 1.0], (columns, 2)).tolist()]
    return [[(*look, *world) for look, world in zip(row, worlds, strict=True)] for row in drawn.tolist()]


def augmented(images: NDArray[np.uint8], looks: Sequence[Look | None]) -> NDArray[np.uint8]:
    """Pictures uint8 [M, H, W, 3] in their looks; what a move lays bare repeats the picture's edge."""
    changed = [place for place, look in enumerate(looks) if look is not None]
    if not changed:
        return images
    pictures = torch.from_numpy(images[changed]).permute(0, 3, 1, 2).float().div_(255.0)
    values = torch.tensor([looks[place] for place in changed], dtype=torch.float32)
    right, down, zoom, turn, contrast, brightness, *colour, across, upright, order = values.T
    along, aside = (1.0 + zoom) * turn.cos(), (1.0 + zoom) * turn.sin()
    # As F.affine_grid, which multiplies matrices of two rows, at a tenth of its cost.
    x, y = (torch.arange(0.5, side) * (2.0 / side) - 1.0 for side in reversed(pictures.shape[2:]))
    places = torch.stack(
        [
            (along * across)[:, None, None] * x - ((aside * across)[:, None] * y - 2.0 * right[:, None])[:, :, None],
            (aside * upright)[:, None, None] * x + ((along * upright)[:, None] * y + 2.0 * down[:, None])[:, :, None],
        ],
        dim=-1,
    )
    pictures = F.grid_sample(pictures, places, padding_mode="border", align_corners=False)
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    # In place: every pass over the pictures that makes a new array costs as much again in fresh memory.
    pictures.sub_(mean).mul_(_each(1.0 + contrast)).add_(mean).add_(_each(brightness))
    pictures.mul_((1.0 + torch.stack(colour, dim=1))[:, :, None, None])
    if order.any():
        channels = torch.tensor(ORDERS)[order.long()]
        pictures = pictures.gather(1, channels[:, :, None, None].expand_as(pictures))
    result = images.copy()
    result[changed] = pictures.clamp_(0.0, 1.0).mul_(255.0).round_().byte().permute(0, 2, 3, 1).numpy()
    return result


def _each(values: torch.Tensor) -> torch.Tensor:
    """One value a picture, [M, 1, 1, 1]."""
    return values[:, None, None, None]
