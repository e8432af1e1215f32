"""Data-parallel training: DDP with all weights in each process, or FSDP with sharded gradients and optimizer state.

A single process needs no torch.distributed. Saved states are always unsharded, so training may resume with another
number of processes, sharded or not.
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

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
"""Saved states hold unsharded tensors on the CPU."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a distributed training: its rank among `world_size` processes."""

    rank: int = 0
    world_size: int = 1


def this_process() -> Process:
    """This process under torch.distributed; the only one without it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Process()
    return Process(distributed.get_rank(), distributed.get_world_size())


def parallelize(module: nn.Module, sharded: bool, precision: torch.dtype) -> nn.Module:
    """Wrap a module for data-parallel training. Every process must call it with the same weights.

    Args:
        module: computes the loss in its `forward`, from all of its weights.
        sharded: use FSDP instead of DDP.
        precision: of the gathered weights with FSDP.
    """
    if this_process().world_size == 1:
        return module
    if not sharded:
        return DistributedDataParallel(module)
    device = next(module.parameters()).device
    mesh = distributed.init_device_mesh(device.type, (this_process().world_size,))
    fully_shard(module, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32))
    return module


def twin(model: nn.Module) -> nn.Module:
    """A copy that shares the weights' memory but has its own gradients, so that two threads can train at once."""
    memo: dict[int, Any] = {
        id(weight): nn.Parameter(weight.data, weight.requires_grad) for weight in model.parameters()
    }
    memo |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, memo)


def add_gradients(model: nn.Module, twins: Sequence[nn.Module]) -> None:
    """Add the gradients of twins to those of their model, in their order, and clear them in the twins."""
    for weight, *copies in zip(model.parameters(), *(replica.parameters() for replica in twins), strict=True):
        for copied in copies:
            if copied.grad is not None:
                weight.grad = copied.grad if weight.grad is None else weight.grad.add_(copied.grad)
                copied.grad = None


@contextmanager
def accumulating(module: nn.Module, accumulate: bool) -> Iterator[None]:
    """With `accumulate`, gradients computed in the block are not synchronised between processes yet."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(not accumulate)
    if accumulate and isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    else:
        yield


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Gather sharded weights for the block, to use them without calling the module. Every process must enter it."""
    if isinstance(module, FSDPModule):
        module.unshard()
    yield
    if isinstance(module, FSDPModule):
        module.reshard()


def all_reduce_sum(value: float, process: Process, device: torch.device) -> float:
    """The sum of a value over all processes."""
    if process.world_size == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return float(total)


def broadcast(value: float, process: Process, device: torch.device) -> float:
    """The value of process 0, in every process."""
    return all_reduce_sum(value if process.rank == 0 else 0.0, process, device)


def full_weights(model: nn.Module) -> dict[str, Any]:
    """Unsharded weights of a model on the CPU, in process 0. Every process must call it."""
    return get_model_state_dict(model, options=FULL)


def full_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Unsharded weights and optimizer state on the CPU, in process 0. Every process must call it."""
    # Before its first step, torch would initialise the optimizer state by taking a step.
    moments = get_optimizer_state_dict(model, optimizer, options=FULL) if optimizer.state else None
    return {"model": full_weights(model), "optimizer": moments}


def load_full_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state made by `full_state`. Every process must call it, with the same state."""
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, state["model"], options=options)
    if state["optimizer"] is not None:
        set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
