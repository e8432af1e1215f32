"""What a model folder must hold, checked without loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dopamine_rl.errors import CheckpointError
from dopamine_rl.grm.template import load_template

GRM_FILE, GRM_FORMAT = "grm.json", 1
"""The file that marks a model folder made here, and its format."""

CONFIG_FILE = "adapter_config.json"
"""The file that marks an adapter's folder."""

WEIGHTS = "*.safetensors"

ARCHITECTURES = {"qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL"}
"""Supported architectures: `model_type` in `config.json` -> common name."""
MODEL_FILES = ("config.json", "tokenizer.json", "preprocessor_config.json")
"""Required files of a model folder besides template and weights (`model.safetensors`, or shards and their index)."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder contains an adapter instead of a model."""
    return (folder / CONFIG_FILE).is_file()


def check_model_folder(folder: Path) -> None:
    """Check that a folder holds all files of a model, or an adapter; weights are not read.

    Raises:
        CheckpointError: naming the file and the fix.
    """
    if not is_adapter(folder):
        check_format(folder)
        check_weights(folder)
        load_template(folder)


def check_weights(folder: Path) -> None:
    """Raise CheckpointError if a folder has no weights."""
    if not any(path.stat().st_size for path in folder.glob(WEIGHTS)):
        raise CheckpointError(f"{folder / 'model.safetensors'} is missing or empty: copy the whole model folder again")


def model_type(folder: Path) -> str:
    """The architecture of a model folder, a key of `ARCHITECTURES`. Raises CheckpointError if it is none."""
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing: copy the whole model folder again, or train a new one")
    (architecture,) = _values(folder / "config.json", "model_type")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        supported = " or ".join(ARCHITECTURES.values())
        raise CheckpointError(f"{folder / 'config.json'} is of a {architecture} model: use a {supported} checkpoint")
    return architecture


def check_format(folder: Path) -> str | None:
    """Refuse folders that transformers would misread or complete with defaults; returns the version in `grm.json`."""
    model_type(folder)
    path = folder / "preprocessor_config.json"
    # There is an old and a new form of the image size limits.
    limits = ("min_pixels", "max_pixels") if b'"min_pixels"' in path.read_bytes() else ("size",)
    _values(path, "patch_size", "image_mean", *limits)
    if not (folder / GRM_FILE).is_file():
        return None
    form, version = _values(folder / GRM_FILE, "format", "model_version")
    if form != GRM_FORMAT:
        raise CheckpointError(f"{folder / GRM_FILE} has format {form}, not {GRM_FORMAT}: train the model again")
    return str(version)


def _values(path: Path, *keys: str) -> list[Any]:
    """Values of a JSON file. Raises CheckpointError if it is unreadable or lacks a key."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [content[key] for key in keys]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error!r}): copy the whole model folder again") from error
