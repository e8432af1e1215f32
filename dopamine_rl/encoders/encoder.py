"""What a policy sees with: a frozen encoder turns images into numbers. Importing this file imports no torch.

An encoder is named `grm` (the vision tower of a reward model), `grm:FOLDER-OR-ID` or `hf:FOLDER-OR-ID` (any vision
backbone of transformers). It travels in the policy's file as a `SavedEncoder`, so that a policy acts with the very
encoder it was trained with, wherever the weights came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput, CheckpointError

GRID = 2
"""An image's tokens are averaged to a grid of this many rows and columns; features keep the place of things."""
KINDS = ("grm", "hf")
OWN = "grm"
"""Names the run's own reward model."""


class Encoder(Protocol):
    """A frozen network that turns images into features."""

    size: int
    """Features F of an image."""

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features float32 [M, F] of images uint8 [M, H, W, 3]; every image's depend on that image alone."""

    def saved(self) -> SavedEncoder:
        """What `restore` makes the same encoder of."""


@dataclass(frozen=True, eq=False, slots=True)
class SavedEncoder:
    """An encoder as JSON values and arrays.

    Args:
        kind: "grm" or "hf".
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


def encoder_source(name: str, own: str | Path | None, field: str = "encoder") -> tuple[str, str]:
    """The kind of an encoder's name, and the folder or hub id of its weights.

    Args:
        own: what `grm` alone names: the run's own reward model.
        field: what named it.
    Raises:
        BadInput: it names no kind, no weights, or the run has no reward model.
    """
    kind, separator, source = name.partition(":")
    if kind not in KINDS or (separator and not source) or (kind != OWN and not separator):
        raise BadInput(field, name, "write grm, grm:FOLDER, or hf:FOLDER with a vision backbone of transformers")
    if not source and own is None:
        raise BadInput(field, name, "write grm:FOLDER: this run has no reward model of its own")
    return kind, source or str(own)


def load_encoder(name: str, own: str | Path | None = None, field: str = "encoder") -> Encoder:
    """Load the encoder of a name.

    Args:
        own: the run's own reward model, which `grm` alone names.
        field: what named it.
    Raises:
        BadInput: as `encoder_source`, or its weights cannot be used.
    """
    kind, source = encoder_source(name, own, field)
    try:
        if kind == "grm":
            from dopamine_rl.encoders.tower import TowerEncoder

            return TowerEncoder.load(source)
        from dopamine_rl.encoders.backbone import BackboneEncoder

        return BackboneEncoder.load(source)
    except CheckpointError as error:
        raise BadInput(field, name, str(error)) from error


def restore(saved: SavedEncoder) -> Encoder:
    """The encoder that was saved.

    Raises:
        CheckpointError: it was saved by another version of this project, or is damaged.
    """
    try:
        if saved.kind == "grm":
            from dopamine_rl.encoders.tower import TowerEncoder

            return TowerEncoder.restore(saved)
        if saved.kind == "hf":
            from dopamine_rl.encoders.backbone import BackboneEncoder

            return BackboneEncoder.restore(saved)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the policy's encoder cannot be used ({error}): train the policy again") from error
    raise CheckpointError(f"the policy's encoder is of kind {saved.kind}: train the policy again")
