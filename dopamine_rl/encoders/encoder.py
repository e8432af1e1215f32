"""What a policy sees with: an encoder turns images into numbers. It is frozen, or learned with the policy.

It travels in the policy's file as a `SavedEncoder`, so that a policy acts with the very encoder it was trained with,
wherever the weights came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

GRID = 2
"""An image's tokens are averaged to a grid of this many rows and columns; features keep the place of things."""


LEARNED = "cnn"
"""Kind of the encoder that is learned with the policy."""


class Encoder(Protocol):
    """A network that turns images into features."""

    size: int
    """Features F of an image."""

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features float32 [M, F] of images uint8 [M, H, W, 3]; every image's depend on that image alone."""

    def saved(self) -> SavedEncoder:
        """What `restore` makes the same encoder of."""


@runtime_checkable
class TokenEncoder(Encoder, Protocol):
    """An Encoder that is a reward model's vision tower; the model can use its tokens in place of the images."""

    def look(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """`encode`, and the tokens float32 [M, N, D] behind these features, unrounded."""


@dataclass(frozen=True, eq=False, slots=True)
class SavedEncoder:
    """An encoder as JSON values and arrays.

    Args:
        kind: "grm", "hf" or "cnn".
        settings: its shape and how it scales pixels.
        arrays: its weights by name.
    """

    kind: str
    settings: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    @property
    def version(self) -> str:
        """12 hexadecimal digits that identify its content."""
        digest = hashlib.sha256(json.dumps([self.kind, self.settings], sort_keys=True).encode())
        for name in sorted(self.arrays):
            values = np.ascontiguousarray(self.arrays[name])
            digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
            digest.update(values.tobytes())
        return digest.hexdigest()[:12]
