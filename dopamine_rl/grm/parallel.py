"""One training in several processes: each has all weights (DDP), or its share of gradients and optimiser state (FSDP).

Alone, everything here is as if there were no other process. What is saved is always whole, so that a training may go on with
another number of processes, sharded or not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
"""What is saved: whole tensors, on the CPU."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which process of how many this is."""

    rank: int = 0
    processes: int = 1


def this_process() -> Place:
    """The place of this process under torch.distributed."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Place()
    return Place(distributed.get_rank(), distributed.get_world_size())


def share(module: nn.Module, sharded: bool, precision: torch.dtype) -> nn.Module:
    """The module that all processes train together; every one must call it with the same weights.

    Args:
        module: computes the loss in its `forward`, from all of its weights.
        sharded: FSDP instead of DDP.
        precision: of the gathered weights, where sharded.
    """
    if this_process().processes == 1:
        return module
    if not sharded:
        return DistributedDataParallel(module)
    device = next(module.parameters()).device
    mesh = distributed.init_device_mesh(device.type, (this_process().processes,))
    fully_shard(module, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32))
    return module


def twin(model: nn.Module) -> nn.Module:
    """A model with the same weights, in the same memory, and gradients of its own: two threads can use the two at once."""
    same: dict[int, Any] = {
        id(weight): nn.Parameter(weight.data, weight.requires_grad) for weight in model.parameters()
    }
    same |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, same)


def add_gradients(model: nn.Module, twins: Sequence[nn.Module]) -> None:
    """Add the gradients of twins to those of their model, in their order, and take them from them."""
    for weights in zip(model.parameters(), *(other.parameters() for other in twins), strict=True):
        summed, *others = weights
        for other in others:
            if other.grad is not None:
                summed.grad = other.grad if summed.grad is None else summed.grad.add_(other.grad)
                other.grad = None


@contextmanager
def gradients_kept(module: nn.Module, kept: bool) -> Iterator[None]:
    """Within the block gradients of `backward` stay in this process, if `kept`: others will be added first."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(not kept)
    if kept and isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    else:
        yield


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within the block every process can use the weights without calling the module; all must enter it."""
    if isinstance(module, FSDPModule):
        module.unshard()
    yield
    if isinstance(module, FSDPModule):
        module.reshard()


def total(value: float, place: Place, device: torch.device) -> float:
    """The sum of every process's value."""
    if place.processes == 1:
        return value
    summed = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(summed)
    return float(summed)


def told_by_first(value: float, place: Place, device: torch.device) -> float:
    """The value of process 0."""
    return total(value if place.rank == 0 else 0.0, place, device)


def whole_weights(model: nn.Module) -> dict[str, Any]:
    """All weights of a model, whole, on the CPU, in process 0; every process must call it."""
    return get_model_state_dict(model, options=WHOLE)


def whole_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Weights and optimiser, whole, on the CPU, in process 0; every process must call it."""
    # Asked before its first step, the optimiser would be made to take one.
    moments = get_optimizer_state_dict(model, optimizer, options=WHOLE) if optimizer.state else None
    return {"model": whole_weights(model), "optimizer": moments}


def load_whole_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over what `whole_state` gave; every process must call it, with the same state."""
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, state["model"], options=options)
    if state["optimizer"] is not None:
        set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
