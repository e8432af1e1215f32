"""LoRA adapters: a frozen weight W is replaced by W + (alpha / rank) · B A wherever it is read.

They are parametrizations of the stock modules, so our forward pass, the stock one and gradients all use the same weight
and no other code needs to know about adapters.

Source: arXiv:2106.09685, section 4.1. Differs: no dropout before A, because the adapter is added to the weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.config import LoRAConfig

ROWS = 64
"""Rows of a weight to merge at a time, so that they fit into the CPU cache."""

_ORIGINAL, _ADAPTER = ".parametrizations.weight.original", ".parametrizations.weight.0."


class LowRank(nn.Module):
    """The adapter of one weight [M, N].

    Args:
        down: A, [rank, N].
        up: B, [M, rank].
        alpha: the product is scaled by alpha / rank.
    """

    def __init__(self, down: torch.Tensor, up: torch.Tensor, alpha: float) -> None:
        super().__init__()
        self.down, self.up, self.alpha = nn.Parameter(down), nn.Parameter(up), alpha

    @property
    def rank(self) -> int:
        """Rank of the product."""
        return len(self.down)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with its adapter."""
        return weight + (self.alpha / self.rank * (self.up @ self.down)).to(weight.dtype)


def add_low_rank(model: nn.Module, config: LoRAConfig) -> None:
    """Freeze a reward model and add new adapters to the weights that `config` names; they change nothing at first.

    Raises:
        BadInput: rank is 0, a name matches no linear module, or the model already has adapters.
    """
    if config.rank == 0:
        raise BadInput("sft.lora.rank", 0, "give at least 1")
    if next(adapters(model), None) is not None:
        raise BadInput("sft.lora", config, "the model already has adapters: save it and load the saved model")
    chosen = dict(_chosen(model, config))
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(config.seed)
    for module in chosen.values():
        rows, columns = module.weight.shape
        # Initialised like a linear layer, always in float32.
        down = (2.0 * torch.rand(config.rank, columns, generator=generator) - 1.0) / math.sqrt(columns)
        adapter = LowRank(down, torch.zeros(rows, config.rank), config.alpha).to(module.weight.device)
        parametrize.register_parametrization(module, "weight", adapter, unsafe=True)


def _chosen(model: nn.Module, config: LoRAConfig) -> Iterator[tuple[str, nn.Linear]]:
    modules = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for part, field, targets in (
        (".language_model.", "targets", config.targets),
        (".visual.", "vision_targets", config.vision_targets),
    ):
        for target in targets:
            matches = [name for name in modules if part in name and name.endswith(f".{target}")]
            if not matches:
                raise BadInput(f"sft.lora.{field}", target, "name linear modules of the model, such as q_proj or qkv")
            yield from ((name, modules[name]) for name in matches)


def adapters(model: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """The adapters of a model, with the names of their modules."""
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            adapter = module.parametrizations.weight[0]
            if isinstance(adapter, LowRank):
                yield name, adapter


def frozen_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a model without its adapters, under the names of a model without adapters."""
    return {
        name.replace(_ORIGINAL, ".weight"): weight
        for name, weight in model.state_dict().items()
        if _ADAPTER not in name
    }


def merged_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a model with its adapters merged, under the same names."""
    weights = frozen_weights(model)
    for name, adapter in adapters(model):
        key = f"{name}.weight"
        weights[key] = merge(weights[key], adapter.down.detach(), adapter.up.detach(), adapter.alpha)
    return weights


def merge(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, alpha: float) -> torch.Tensor:
    """Merge an adapter into a weight [M, N], with bitwise identical results on every machine.

    Versions are computed from the weights, and the summation order of a matrix product depends on the processor. So
    ranks are multiplied and added one after the other.
    """
    parts = []
    for rows, lifts in zip(weight.split(ROWS), up.float().split(ROWS), strict=True):
        total = torch.zeros(rows.shape, device=weight.device)
        for row, lift in zip(down.float(), lifts.unbind(1), strict=True):
            total += lift[:, None] * row
        parts.append((rows.float() + total * (alpha / len(down))).to(weight.dtype))
    return torch.cat(parts)


def module_of(model: nn.Module, name: str) -> Any:
    """A linear module by its name in an adapter file, with the module nesting of current or older transformers.

    Raises: KeyError if there is none.
    """
    modules = dict(model.named_modules())
    for old, new in (("", ""), ("model.", "model.language_model."), ("visual.", "model.visual.")):
        module = modules.get(new + name.removeprefix(old)) if name.startswith(old) else None
        if isinstance(module, nn.Linear):
            return module
    raise KeyError(name)
