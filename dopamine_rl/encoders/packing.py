"""Observations with pictures as bytes: small in a replay buffer, and of one type on their way to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput

FLOAT_BYTES = 4
"""Bytes of a float32."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How an observation is packed: proprioception as float32, then what is seen.

    Args:
        proprioception: length P of that vector.
        seen: numbers after it: features or pixels.
        kind: their type; "float16" for the features of a frozen encoder, which loses nothing (`Eyes.vectors`), "uint8"
            for pixels.
    """

    proprioception: int
    seen: int
    kind: Literal["float16", "uint8"]

    @property
    def split(self) -> int:
        """Bytes of the proprioception."""
        return FLOAT_BYTES * self.proprioception

    @property
    def width(self) -> int:
        """Bytes N of an observation."""
        return self.split + self.seen * np.dtype(self.kind).itemsize

    def pack(self, proprioception: NDArray[Any], seen: NDArray[Any]) -> NDArray[np.uint8]:
        """Observations uint8 [T, N] of proprioception [T, P] and what is seen [T, ...]."""
        count = len(proprioception)
        out = np.empty((count, self.width), np.uint8)
        for part, values, kind in (
            (out[:, : self.split], proprioception, "float32"),
            (out[:, self.split :], seen, self.kind),
        ):
            numbers = np.ascontiguousarray(values, kind).reshape(count, -1)
            part[:] = numbers.view(np.uint8)
        return out

    def packed(self, observations: NDArray[Any], name: str = "observations") -> NDArray[np.uint8]:
        """Observations uint8 [T, N], whether they are given so or as vectors float32 [T, P + seen].

        Args:
            name: what is given, for errors.
        Raises:
            BadInput: they are neither, or a number is not finite.
        """
        given = np.asarray(observations)
        if given.dtype == np.uint8 and given.shape[1:] == (self.width,):
            return given
        if given.shape[1:] != (self.proprioception + self.seen,) or self.kind == "uint8":
            raise BadInput(name, (given.shape, str(given.dtype)), f"give uint8 [T, {self.width}]")
        if not np.isfinite(given).all():
            raise BadInput(name, "nan or inf", "mask invalid values before storing them")
        return self.pack(given[:, : self.proprioception], given[:, self.proprioception :])

    def proprioception_of(self, packed: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Proprioception float32 [..., P] of observations uint8 [..., N]."""
        return np.ascontiguousarray(packed[..., : self.split]).view(np.float32)

    def seen_of(self, packed: NDArray[np.uint8]) -> NDArray[Any]:
        """Features float16 or pixels uint8 [..., seen] of observations uint8 [..., N]."""
        return np.ascontiguousarray(packed[..., self.split :]).view(self.kind)
