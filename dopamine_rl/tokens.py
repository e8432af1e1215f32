"""Frames as the tokens of a reward model's vision tower, in place of pictures.

An actor whose policy looks through the tower of the reward model has these tokens already.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput

LARGEST_TOKEN = float(np.finfo(np.float16).max)
"""Largest magnitude of a token's values."""


@dataclass(frozen=True, eq=False, slots=True)
class FrameTokens:
    """The tokens of all views, at one instant or at T.

    Args:
        tower: version of the tower (`SavedEncoder.version` of a TowerEncoder).
        values: float32 or float16 [V, N, D] or [T, V, N, D], N tokens of each view, with their deepstack features.
    Raises:
        BadInput: wrong shape or dtype, or a value that is not finite or larger than LARGEST_TOKEN.
    """

    tower: str
    values: NDArray[np.floating]

    def __post_init__(self) -> None:
        values = self.values
        if not isinstance(values, np.ndarray) or values.dtype not in (np.float32, np.float16):
            fix = "give an array of float32 or float16"
            raise BadInput("tokens.values", getattr(values, "dtype", type(values)), fix)
        if values.ndim not in (3, 4) or 0 in values.shape:
            raise BadInput("tokens.values", values.shape, "give [V, N, D] or [T, V, N, D] with no empty axis")
        if not np.abs(values).max() <= LARGEST_TOKEN:  # false for NaN too
            raise BadInput("tokens.values", "NaN or too large", f"give finite values of at most {LARGEST_TOKEN:g}")


@dataclass(frozen=True, eq=False, slots=True)
class EncodedImage:
    """An image as tokens of the engine's own vision tower.

    Args:
        tokens: float32 or float16 [N, D].
        shape: (H, W, 3), of its pixels.
    """

    tokens: NDArray[np.floating]
    shape: tuple[int, ...]


Image = NDArray[np.uint8] | EncodedImage
"""One view: pixels uint8 [H, W, 3], or tokens."""


def images_of(pictures: NDArray[np.uint8], tokens: NDArray[np.floating] | None) -> list[Image]:
    """The V views of an instant.

    Args:
        pictures: uint8 [V, H, W, 3]; with tokens [0, H, W, 3].
        tokens: [V, N, D], or None.
    """
    return list(pictures) if tokens is None else [EncodedImage(view, pictures.shape[1:]) for view in tokens]
