"""Encoders by name. Importing this file imports no torch.

An encoder is named `grm` (the vision tower of the run's own reward model), `grm:FOLDER-OR-ID` (of another one) or
`hf:FOLDER-OR-ID` (any vision backbone of transformers); these stay frozen. `cnn` or `cnn:PIXELS` is a small network
that is learned with the policy, on pictures of so many pixels a side.
"""

from __future__ import annotations

from pathlib import Path

from dopamine_rl.encoders.encoder import LEARNED, Encoder, SavedEncoder
from dopamine_rl.errors import BadInput, CheckpointError

KINDS = ("grm", "hf", LEARNED)
OWN = "grm"
"""Names the run's own reward model."""
SIDE, SIDES = 64, (32, 256)
"""Height and width of the pictures of a learned encoder that names none, and the range of those that it may name."""


def encoder_source(name: str, own: str | Path | None, field: str = "encoder") -> tuple[str, str]:
    """The kind of an encoder's name, and the folder or hub id of its weights; of a learned one, its pictures' side.

    Args:
        own: what `grm` alone names: the run's own reward model.
        field: what named it.
    Raises:
        BadInput: it names no kind, no weights, or the run has no reward model.
    """
    kind, separator, source = name.partition(":")
    if kind == LEARNED:
        side = source if separator else str(SIDE)
        if not (side.isdecimal() and SIDES[0] <= int(side) <= SIDES[1]):
            raise BadInput(field, name, f"write cnn or cnn:PIXELS, such as cnn:84, from {SIDES[0]} to {SIDES[1]}")
        return kind, side
    if kind not in KINDS or (separator and not source) or (kind != OWN and not separator):
        raise BadInput(field, name, "write grm, grm:FOLDER, cnn, or hf:FOLDER with a vision backbone of transformers")
    if not source and own is None:
        raise BadInput(field, name, "write grm:FOLDER: this run has no reward model of its own")
    return kind, source or str(own)


def load_encoder(name: str, own: str | Path | None = None, field: str = "encoder", seed: int = 0) -> Encoder:
    """Load the encoder of a name; one that is learned has random weights.

    Args:
        own: the run's own reward model, which `grm` alone names.
        field: what named it.
        seed: of random weights.
    Raises:
        BadInput: as `encoder_source`, or its weights cannot be used.
    """
    kind, source = encoder_source(name, own, field)
    if kind == LEARNED:
        from dopamine_rl.encoders.cnn import CnnEncoder

        return CnnEncoder.untrained(int(source), seed)
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
        if saved.kind == LEARNED:
            from dopamine_rl.encoders.cnn import CnnEncoder

            return CnnEncoder.restore(saved)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the policy's encoder cannot be used ({error}): train the policy again") from error
    raise CheckpointError(f"the policy's encoder is of kind {saved.kind}: train the policy again")
