"""Image resizing, the same in training and inference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def resize(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image uint8 [H, W, 3] to (height, width) like the reward models' image processors."""
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def squares(pictures: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize images uint8 [M, H, W, 3] to [M, side, side, 3]."""
    if pictures.shape[1:3] == (side, side):
        return np.ascontiguousarray(pictures)
    return np.stack([resize(picture, (side, side)) for picture in pictures])
