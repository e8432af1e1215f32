"""Adapter folders in the layout of peft, with a reference to the base model.

    adapter_config.json  adapter_model.safetensors      as peft writes and reads them
    grm.json                                            the base's folder and version, and the version with the adapter

Such a folder is loaded like any model: the base with the adapter merged into its weights. A folder written by peft has
no `grm.json`; its base is the one that adapter_config.json names, in any version.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.files import ESCAPED, write_folder_atomically
from dopamine_rl.grm.config import LoRAConfig
from dopamine_rl.grm.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, GRM_FILE, GRM_FORMAT
from dopamine_rl.grm.lora import adapters, add_low_rank, frozen_weights, merge, module_of
from dopamine_rl.grm.score import HOP_BINS
from dopamine_rl.grm.version import content_version
from dopamine_rl.texts import code, readable

if TYPE_CHECKING:
    from dopamine_rl.grm.model import GRM

PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
"""Parts of peft's names of a module's two matrices."""
UNSUPPORTED = (
    "use_dora",
    "use_rslora",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
)
"""Settings of peft that are not supported, because they change how an adapter is applied."""


def add_lora(grm: GRM, config: LoRAConfig) -> None:
    """Freeze a model and add new adapters, so that only these are trained.

    Raises:
        BadInput: as for `lora.add_low_rank`, or the model has no folder that its adapters could refer to.
    """
    if grm.folder is None:
        raise BadInput("sft.start_from", "", "name the model that the adapters are for")
    add_low_rank(grm.model, config)


def save_adapter(grm: GRM, folder: str | Path, card: Mapping[str, Any]) -> str:
    """Write the adapters of a model under a temporary name and rename it; a folder of that name is replaced.

    Args:
        grm: a model with adapters.
        card: as for `save_grm`.
    Returns:
        The version of the model with its adapters, the same as that of the folder when loaded.
    Raises:
        CheckpointError: the model has no adapters.
    """
    adapter_of = dict(adapters(grm.model))
    if not adapter_of:
        raise CheckpointError("the model has no adapters: write it with save_grm")
    tensors = {}
    for name, adapter in adapter_of.items():
        tensors[PREFIX + name + DOWN] = adapter.down.detach().cpu().contiguous()
        tensors[PREFIX + name + UP] = adapter.up.detach().cpu().contiguous()
    first = next(iter(adapter_of.values()))
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": str(grm.folder),
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(adapter_of),
        "inference_mode": True,
    }
    base = {"path": str(grm.folder), "model_version": content_version(frozen_weights(grm.model), *grm.documents)}
    version = grm.model_version
    about = {"format": GRM_FORMAT, "hop_bins": HOP_BINS, "model_version": version, "base": base, "card": dict(card)}

    def fill(partial: Path) -> None:
        save_file(tensors, partial / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        (partial / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", errors=ESCAPED)
        (partial / GRM_FILE).write_text(
            json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors=ESCAPED
        )
        (partial / "README.md").write_text(_card(version, base, tensors, card), encoding="utf-8", errors=ESCAPED)

    write_folder_atomically(Path(folder), fill)
    return version


def _card(version: str, base: Mapping[str, str], tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> str:
    size = sum(tensor.numel() for tensor in tensors.values())
    lines = [
        f"---\nlibrary_name: peft\nbase_model: {json.dumps(base['path'])}\npipeline_tag: image-text-to-text\n---",
        f"# Reward model {version}, an adapter\n",
        f"{size / 1e6:.2f} M weights, for the reward model {base['model_version']}.\n",
    ]
    lines += [f"- **{key}**: {code(readable(value))}" for key, value in card.items()]
    return "\n".join(lines) + "\n"


def load_adapter(folder: Path, load: Callable[[str], GRM]) -> GRM:
    """Load the base and merge the adapter into its weights.

    Args:
        load: loads the base from its folder or hub id.
    Raises:
        CheckpointError: a file is missing or damaged, the base is missing or has the wrong version, or the kind of
            adapter is not supported.
    """
    config, about = _read(folder / ADAPTER_CONFIG), _read(folder / GRM_FILE) if (folder / GRM_FILE).is_file() else {}
    base: dict[str, str] = about.get("base", {})
    base_path = base.get("path") or config.get("base_model_name_or_path") or ""
    unsupported = [name for name in UNSUPPORTED if config.get(name)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or unsupported:
        kind = ", ".join(unsupported) or "not plain LoRA"
        raise CheckpointError(f"{folder / ADAPTER_CONFIG} is not supported ({kind}): merge the adapter with peft")
    try:
        grm = load(base_path)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} is an adapter whose base cannot be loaded: {error}") from error
    if base and (version := grm.model_version) != base["model_version"]:
        raise CheckpointError(
            f"{folder} is an adapter of the model {base['model_version']}, but {base_path} has version {version}: "
            "restore the base, or train the adapter again"
        )
    try:
        _merge_into(grm.model, load_file(folder / ADAPTER_WEIGHTS), float(config["lora_alpha"]))
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        message = f"{folder / ADAPTER_WEIGHTS} does not fit {base_path} ({error!r}): copy the folder again"
        raise CheckpointError(message) from error
    if about and (version := grm.model_version) != about.get("model_version"):
        raise CheckpointError(
            f"{folder} has version {version}, but its {GRM_FILE} says {about.get('model_version')}: "
            "copy the folder again"
        )
    grm.folder = folder.resolve()
    return grm


@torch.no_grad()
def _merge_into(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], alpha: float) -> None:
    """Merge the matrices of an adapter file. Raises KeyError or RuntimeError if they do not fit."""
    names = {name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)}
    unexpected = tensors.keys() - {name + which for name in names for which in (DOWN, UP)}
    if unexpected or not names:
        raise KeyError(f"{sorted(unexpected)[:1] or 'nothing'} where {DOWN} and {UP} are expected")
    for name in names:
        weight = module_of(model, name.removeprefix(PREFIX)).weight
        weight.copy_(merge(weight, tensors[name + DOWN], tensors[name + UP], alpha))


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return dict(content)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error!r}): copy the whole folder again") from error
