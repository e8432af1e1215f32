"""Views as the tokens of a reward model's vision tower, in place of their pictures.

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
class ViewTokens:
    """Tokens of some views, of one instant or of T.

    Args:
        tower: version of the tower (`SavedEncoder.version` of a TowerEncoder).
        views: S indices on the V axis, increasing.
        values: float32 or float16 [S, N, D] or [T, S, N, D], the N tokens of each view, with their deepstack features.
    Raises:
        BadInput: wrong shapes, dtypes or order, or a value that is not finite or larger than LARGEST_TOKEN.
    """

    tower: str
    views: tuple[int, ...]
    values: NDArray[np.floating]

    def __post_init__(self) -> None:
        views, values = self.views, self.values
        if not views or any(b <= a for a, b in zip((-1, *views), views, strict=False)):
            raise BadInput("tokens.views", views, "give increasing indices of views")
        if not isinstance(values, np.ndarray) or values.dtype not in (np.float32, np.float16):
            raise BadInput(
                "tokens.values", getattr(values, "dtype", type(values)), "give an array of float32 or float16"
            )
        if values.ndim not in (3, 4) or 0 in values.shape or values.shape[-3] != len(views):
            raise BadInput("tokens.values", values.shape, f"give [S, N, D] or [T, S, N, D] with S = {len(views)} views")
        if not np.abs(values).max() <= LARGEST_TOKEN:  # false for NaN too
            raise BadInput("tokens.values", "NaN or too large", f"give finite values of at most {LARGEST_TOKEN:g}")

    def at(self, index: int) -> ViewTokens:
        """Those of instant `index` of T."""
        return ViewTokens(self.tower, self.views, self.values[index])


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


def images_of(pictures: NDArray[np.uint8], tokens: ViewTokens | None) -> list[Image]:
    """The V views of an instant in their order.

    Args:
        pictures: uint8 [V − S, H, W, 3], of the views without tokens.
        tokens: of the others, [S, N, D]; None if there are none.
    """
    images: list[Image] = list(pictures)
    if tokens is not None:
        for view, values in zip(tokens.views, tokens.values, strict=True):
            images.insert(view, EncodedImage(values, pictures.shape[1:]))
    return images
