"""What can be said of a reward model's folder before anything heavy is imported: missing, damaged or incomplete files.

A check reads the small JSON files and the headers of the weights, which takes milliseconds; loading finds the rest.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dopamine_rl.episodes.mismatch import plain
from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.grm.hub import model_folder
from dopamine_rl.grm.template import load_template

GRM_FILE, GRM_FORMAT = "grm.json", 1
"""The file that marks a model folder made here, and its format."""
ARCHITECTURES = {"qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL"}
"""Supported architectures: `model_type` in `config.json` -> common name."""
MODEL_FILES = ("config.json", "tokenizer.json", "preprocessor_config.json")
"""Required files of a model folder besides template and weights (`model.safetensors`, or shards and their index)."""
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter's folder, as peft calls them."""
INSTRUCTIONS = "instructions"
"""Key of a model card: the wordings of the tasks that the model was adapted to or trained on."""
INDEX = "model.safetensors.index.json"
"""Lists the shards of large weights."""
AGAIN = "copy the whole model folder again"


def check_model(folder: Path) -> None:
    """Check the files of a model's or an adapter's folder without loading them. Raises CheckpointError."""
    if is_adapter(folder):
        _check_adapter(folder)
        return
    check_without_template(folder)
    load_template(folder)


def check_without_template(folder: Path) -> None:
    """`check_model` for a model that has no prompt template yet. Raises CheckpointError."""
    check_format(folder)
    _check_weights(folder)


def check_for_any_engine(folder: Path) -> None:
    """`check_model` where the engine is not known: another's folders hold other files. Raises CheckpointError."""
    if (folder / GRM_FILE).is_file():
        check_model(folder)


def usable_model(checkpoint: str | Path, field: str, check: Callable[[Path], object] = check_model) -> Path:
    """The folder of a reward model that a user names, checked before anything expensive.

    Args:
        checkpoint: as `model_folder` takes it.
        field: what named it.
        check: of its files; raises CheckpointError.
    Raises:
        BadInput: naming `field`: there is no such model, or a file of it is missing, damaged or incomplete.
    """
    try:
        folder = model_folder(checkpoint)
        check(folder)
    except CheckpointError as error:
        text = str(error)
        fix = f"it {text.removeprefix(f'{checkpoint} ')}" if text.startswith(f"{checkpoint} is ") else text
        raise BadInput(field, str(checkpoint), fix) from error
    return folder


def unfamiliar(folder: Path, instructions: Iterable[str]) -> tuple[list[str], list[str]]:
    """Which tasks a model was not adapted to or trained on, by their words.

    Returns:
        Those of `instructions` that the model's card does not list, and those that it lists. Capitals, spaces and a
        full stop at the end make no difference. If there is no card or it lists none: all of them, and none.
    """
    try:
        listed = _read(folder / GRM_FILE)["card"][INSTRUCTIONS]
    except (CheckpointError, KeyError, TypeError):
        listed = []
    known = [str(words) for words in listed] if isinstance(listed, list) else []
    listed_plainly = set(map(plain, known))
    return [words for words in dict.fromkeys(instructions) if plain(words) not in listed_plainly], known


def other_instructions(folder: Path, instructions: Iterable[str]) -> list[str]:
    """The instructions of other tasks that a model's card lists.

    Returns:
        None where the card lists one of `instructions`: it does not say which of its wordings mean the same task.
    """
    own = list(dict.fromkeys(instructions))
    foreign, known = unfamiliar(folder, own)
    return known if foreign == own else []


def is_adapter(folder: Path) -> bool:
    """Whether a folder contains an adapter instead of a model."""
    return (folder / ADAPTER_CONFIG).is_file()


def model_type(folder: Path) -> str:
    """The architecture of a model folder, a key of `ARCHITECTURES`. Raises CheckpointError if it is none."""
    if not any((folder / name).is_file() for name in (*MODEL_FILES, GRM_FILE)) and not any(
        folder.glob("*.safetensors")
    ):
        raise CheckpointError(
            f"{folder} is not a model's folder, config.json is missing: give the folder of a reward model, or grm-mini"
        )
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing: {AGAIN}, or train a new one")
    (architecture,) = _values(folder / "config.json", "model_type")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        supported = " or ".join(ARCHITECTURES.values())
        raise CheckpointError(f"{folder / 'config.json'} is of a {architecture} model: use a {supported} checkpoint")
    return architecture


def check_format(folder: Path) -> str | None:
    """Refuse folders that transformers would misread or complete with defaults; returns the version in `grm.json`."""
    model_type(folder)
    # transformers builds a model of seven billion weights where the sizes are missing.
    content = _read(folder / "config.json")
    language = ("text_config",) if "text_config" in content else ("hidden_size", "num_hidden_layers", "vocab_size")
    _values(folder / "config.json", "vision_config", "image_token_id", *language)
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
    content = _read(path)
    missing = [key for key in keys if key not in content]
    if missing:
        raise CheckpointError(f"{path} cannot be read (it has no {', '.join(missing)}): {AGAIN}")
    return [content[key] for key in keys]


def _read(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): {AGAIN}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} cannot be read (it is no JSON object): {AGAIN}")
    return content


def _check_adapter(folder: Path) -> None:
    config = _read(folder / ADAPTER_CONFIG)
    about = _read(folder / GRM_FILE) if (folder / GRM_FILE).is_file() else {}
    _check_header(folder / ADAPTER_WEIGHTS)
    base = about.get("base")
    path = (base.get("path") if isinstance(base, dict) else None) or config.get("base_model_name_or_path") or ""
    try:
        check_model(model_folder(str(path)))
    except CheckpointError as error:
        raise CheckpointError(f"{folder} is an adapter whose base cannot be loaded: {error}") from error


def _check_weights(folder: Path) -> None:
    names = {path.name for path in folder.glob("*.safetensors")}
    if (folder / INDEX).is_file() and "model.safetensors" not in names:
        (listed,) = _values(folder / INDEX, "weight_map")
        names |= set(map(str, listed.values())) if isinstance(listed, dict) else set()
    for name in sorted(names) or ["model.safetensors"]:
        _check_header(folder / name)


def _check_header(path: Path) -> None:
    """Raise CheckpointError unless a safetensors file is as long as its header says.

    Source: huggingface.co/docs/safetensors: 8 bytes with the header's length, a JSON header with the place of every
    tensor, then the tensors.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
            header = json.loads(file.read(length)) if 0 < length <= size - 8 else None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): {AGAIN}"
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} cannot be read ({size} bytes: its header is incomplete): {AGAIN}")
    try:
        end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path} cannot be read (its header is damaged): {AGAIN}") from error
    if size != 8 + length + end:
        raise CheckpointError(f"{path} cannot be read (it has {size} bytes of {8 + length + end}): {AGAIN}")
