"""Scaling of pictures: one way for what a model is trained on and for what it is asked about."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def resize(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture uint8 [H, W, 3] scaled to (height, width) as the reward models' image processors do it."""
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BICUBIC))
