"""Folders that hold the low-rank adapter of a reward model, in the layout of peft, and name the model it belongs to.

    adapter_config.json  adapter_model.safetensors      as peft writes and reads them
    grm.json                                            the base's folder and version, and the version of base and adapter

Such a folder is loaded like any other: the base, with the adapter merged into its weights. A folder that peft wrote has no
`grm.json`; its base is what adapter_config.json names, whatever version that has.
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
from dopamine_rl.grm.lora import adapters, add_low_rank, frozen_weights, merge, module_of
from dopamine_rl.grm.score import HOP_BINS
from dopamine_rl.grm.version import GRM_FILE, GRM_FORMAT, content_version
from dopamine_rl.texts import code

if TYPE_CHECKING:
    from dopamine_rl.grm.model import GRM

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
"""How peft names the two matrices of a module."""
UNUSED = ("use_dora", "use_rslora", "fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias")
"""Settings of peft that change what an adapter means, and that no folder here may have."""


def add_lora(grm: GRM, config: LoRAConfig) -> None:
    """Freeze a model and give it new adapters, which alone are trained from here on.

    Raises:
        BadInput: as for `lora.add_low_rank`, or the model lies in no folder, which its adapters could name.
    """
    if grm.folder is None:
        raise BadInput("sft.start_from", "", "name the model that the adapters are for")
    add_low_rank(grm.model, config)


def is_adapter(folder: Path) -> bool:
    """True if the folder holds an adapter instead of a model."""
    return (folder / CONFIG_FILE).is_file()


def save_adapter(grm: GRM, folder: str | Path, card: Mapping[str, Any]) -> str:
    """Write the adapters of a model under a temporary name and rename it; a folder of that name is replaced.

    Args:
        grm: a model with adapters.
        card: as for `save_grm`.
    Returns:
        The version of the model with its adapters, which the folder has once it is loaded.
    Raises:
        CheckpointError: the model has no adapters.
    """
    found = dict(adapters(grm.model))
    if not found:
        raise CheckpointError("the model has no adapters: write it by save_grm")
    tensors = {}
    for name, adapter in found.items():
        tensors[PREFIX + name + DOWN] = adapter.down.detach().cpu().contiguous()
        tensors[PREFIX + name + UP] = adapter.up.detach().cpu().contiguous()
    one = next(iter(found.values()))
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": str(grm.folder),
        "r": one.rank,
        "lora_alpha": one.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(found),
        "inference_mode": True,
    }
    base = {"path": str(grm.folder), "model_version": content_version(frozen_weights(grm.model), *grm.documents)}
    version = grm.model_version
    about = {"format": GRM_FORMAT, "hop_bins": HOP_BINS, "model_version": version, "base": base, "card": dict(card)}

    def fill(partial: Path) -> None:
        save_file(tensors, partial / WEIGHTS_FILE, metadata={"format": "pt"})
        (partial / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", errors=ESCAPED)
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
        f"{size / 1e6:.2f} M weights beside the reward model {base['model_version']}.\n",
    ]
    lines += [f"- **{key}**: {code(json.dumps(value, ensure_ascii=False))}" for key, value in card.items()]
    return "\n".join(lines) + "\n"


def load_adapter(folder: Path, load: Callable[[str], GRM]) -> GRM:
    """The base with the adapter merged into its weights.

    Args:
        load: loads the base, by its folder or hub id.
    Raises:
        CheckpointError: a file is missing or damaged, the base is not there or has another version than the adapter's, or
            the adapter is of a kind that is not known here.
    """
    config, about = _read(folder / CONFIG_FILE), _read(folder / GRM_FILE) if (folder / GRM_FILE).is_file() else {}
    wanted: dict[str, str] = about.get("base", {})
    where = wanted.get("path") or config.get("base_model_name_or_path") or ""
    unknown = [name for name in UNUSED if config.get(name)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or unknown:
        raise CheckpointError(f"{folder / CONFIG_FILE} is of a kind that is not known here ({', '.join(unknown) or 'no plain LoRA'}): merge it with peft")  # fmt: skip
    try:
        grm = load(where)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} is an adapter, and its base cannot be loaded: {error}") from error
    if wanted and (found := grm.model_version) != wanted["model_version"]:
        raise CheckpointError(
            f"{folder} is an adapter of the model {wanted['model_version']}, but {where} has version {found}: restore the base, "
            "or train the adapter again"
        )
    try:
        _merge_into(grm.model, load_file(folder / WEIGHTS_FILE), float(config["lora_alpha"]))
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} does not fit {where} ({error!r}): copy the folder again"
        ) from error
    if about and (found := grm.model_version) != about.get("model_version"):
        raise CheckpointError(f"{folder} has the content {found}, but its {GRM_FILE} says {about.get('model_version')}: copy the folder again")  # fmt: skip
    grm.folder = folder.resolve()
    return grm


@torch.no_grad()
def _merge_into(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], alpha: float) -> None:
    """Merge the matrices of an adapter's file. Raises KeyError or RuntimeError where they do not fit."""
    names = {name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)}
    others = tensors.keys() - {name + which for name in names for which in (DOWN, UP)}
    if others or not names:
        raise KeyError(f"{sorted(others)[:1] or 'nothing'} where {DOWN} and {UP} are expected")
    for name in names:
        weight = module_of(model, name.removeprefix(PREFIX)).weight
        weight.copy_(merge(weight, tensors[name + DOWN], tensors[name + UP], alpha))


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return dict(content)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error!r}): copy the whole folder again") from error
