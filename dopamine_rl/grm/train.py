"""Training of the reward model, within a budget of seconds or updates.

It needs only torch and the core, so it also runs without Ray. Under torch.distributed the processes divide the batches
of every update, and process 0 decides when to stop. An update depends only on the state and its number, so training
resumed from a saved state ends with the same weights as uninterrupted training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain, count, islice, tee
from typing import Any

import numpy as np
import torch
from torch import nn

from dopamine_rl.errors import BadInput, CheckpointError, Diverged
from dopamine_rl.grm.batches import Batch, Batches
from dopamine_rl.grm.config import TrainConfig
from dopamine_rl.grm.losses import question_losses, target_hops
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.parallel import (
    accumulating,
    add_gradients,
    all_reduce_sum,
    broadcast,
    full_state,
    full_weights,
    gathered,
    load_full_state,
    parallelize,
    this_process,
    twin,
)
from dopamine_rl.grm.readout import Reader
from dopamine_rl.grm.throughput import peak_flops, training_flops


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """Progress of training.

    Args:
        update: updates made.
        fraction: used share of the budget, in [0, 1].
        loss: running mean of the training loss; None before the first update.
        hop_error: running mean of |E[hop] − hop| in training; None before the first update and with the text loss.
        pairs_per_s: training throughput of all processes.
        flops_per_pair: FLOPs per pair, see `training_flops`; 0 before this process's first update.
        mfu: model FLOPs utilization: the share of the devices' peak; 0 before this process's first update.
        elapsed_s, eta_s: training time so far and remaining.
    """

    update: int
    fraction: float
    loss: float | None
    hop_error: float | None
    pairs_per_s: float
    flops_per_pair: float
    mfu: float
    elapsed_s: float
    eta_s: float

    def __str__(self) -> str:
        loss, error = (
            "–" if value is None else format(value, form)
            for value, form in ((self.loss, ".2f"), (self.hop_error, ".3f"))
        )
        return (
            f"update {self.update}, loss {loss}, hop error {error}, {self.pairs_per_s:.0f} pairs/s, "
            f"MFU {100 * self.mfu:.0f} %, {self.eta_s:.0f} s to go"
        )


class LossModule(nn.Module):
    """A reward model with its loss as one module, so that processes can reduce gradients."""

    def __init__(self, grm: GRM, config: TrainConfig) -> None:
        super().__init__()
        self.model = grm.model
        self._grm, self._config = grm, config

    def forward(self, batch: Batch, hops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The summed loss of a batch, and E[hop] [N] (None for the text loss).

        Args:
            hops: float32 [N], the target hops.
        """
        reader = Reader(self._grm, self._config.recompute)
        losses, expected = question_losses(self._config, reader, reader.encode(batch.images), batch.prompts, hops)
        return losses.sum(), expected


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW on the weights that require gradients: weight decay on matrices, a separate rate for the vision tower.

    The mergers belong to the language model's groups. Every group has a `share`, its factor of the learning rate.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            groups.setdefault((".visual." in f".{name}" and "merger" not in name, weight.ndim > 1), []).append(weight)
    return torch.optim.AdamW(
        [
            {
                "params": weights,
                "weight_decay": config.weight_decay if matrices else 0.0,
                "share": config.vision_rate if vision else 1.0,
            }
            for (vision, matrices), weights in groups.items()
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )


class Trainer:
    """Trains a model in place, update by update.

    Args:
        grm: the model, already on its device. Weights that require no gradient are not changed.
        batches: iterates over batches by number.
        config: training settings.
        sharded: under torch.distributed, use FSDP instead of DDP.
    Raises:
        BadInput: the batches of an update cannot be divided evenly among the processes.
    """

    def __init__(self, grm: GRM, batches: Batches, config: TrainConfig, sharded: bool = False) -> None:
        self.grm, self.config, self.process = grm, config, this_process()
        processes = self.process.world_size
        if config.batches % processes:
            raise BadInput("sft.train.batches", config.batches, f"give a multiple of {processes}, the processes")
        self._precision = getattr(torch, config.precision)
        self._batches = batches
        self._numbered_batches: Iterator[tuple[int, Batch]] = iter(())
        self._module = parallelize(LossModule(grm, config), sharded, self._precision)
        self._twins = [
            LossModule(replace(grm, model=twin(grm.model)), config).train() for _ in range(self._parallel_batches() - 1)
        ]
        self._pool = ThreadPoolExecutor(max(1, len(self._twins)), "twin")
        self._optimizer = make_optimizer(grm.model, config)
        self.update, self._elapsed_s, self._pairs = 0, 0.0, 0
        self._loss: float | None = None
        self._error: float | None = None
        self._flops_per_pair = self._peak = 0.0
        self._seek()

    def _seek(self) -> None:
        """Start this process's batches at the next update."""
        first = self.update * self.config.batches + self.process.rank
        numbers, same_numbers = tee(count(first, self.process.world_size))
        self._numbered_batches = zip(numbers, self._batches(same_numbers), strict=False)

    def fraction(self) -> float:
        """Used share of the budget; the same number in every process."""
        return broadcast(self._used_fraction(), self.process, self.grm.model.device)

    def step(self, fraction: float) -> TrainProgress:
        """Make one update with the learning rate at `fraction` of the budget.

        Raises:
            Diverged: loss or gradient is not finite; the weights stay as they were before this update.
        """
        device, processes = self.grm.model.device, self.process.world_size
        if not self._peak:
            self._measure()
        started = time.perf_counter()
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * group["share"] * _schedule(fraction, self.config.warmup)
        parts = list(islice(self._numbered_batches, self.config.batches // processes))
        pairs = all_reduce_sum(sum(len(batch.hops) for _, batch in parts), self.process, device)
        self.grm.model.train()
        self._optimizer.zero_grad(set_to_none=True)
        loss, error = self._accumulate_gradients(parts, processes / pairs)
        loss, error = (all_reduce_sum(value, self.process, device) / pairs for value in (loss, error))
        norm = nn.utils.clip_grad_norm_(self.grm.model.parameters(), self.config.clip)
        self._require_finite(loss=loss, gradient_norm=float(_unsharded(norm)))
        self._optimizer.step()
        self.grm.model.eval()
        self._loss = _running_mean(self._loss, loss)
        self._error = None if math.isnan(error) else _running_mean(self._error, error)
        self.update += 1
        self._pairs += int(pairs)
        self._elapsed_s += time.perf_counter() - started
        return self.progress()

    def _require_finite(self, **columns: float) -> None:
        """Raise Diverged for the first non-finite value. All processes have the same values, so all of them stop."""
        for name, value in columns.items():
            if not math.isfinite(value):
                fix = "lower sft.train.learning_rate or sft.train.clip; the last checkpoint is not affected"
                raise Diverged(name, value, self.update + 1, fix)

    def _parallel_batches(self) -> int:
        """Batches to process in parallel threads, because small matrix products gain little from a second thread."""
        alone = self.process.world_size == 1 and self.grm.model.device.type == "cpu"
        return min(self.config.batches, torch.get_num_threads()) if alone else 1

    def _accumulate_gradients(self, parts: Sequence[tuple[int, Batch]], weight: float) -> tuple[float, float]:
        """Compute the gradients of the batches' losses times `weight`; return the sums of losses and hop errors.

        Each batch is processed by one thread, and gradients are added in a fixed order, so results do not depend on
        timing.
        """
        modules = [self._module, *self._twins]
        threads = torch.get_num_threads()

        def backward(index: int) -> tuple[float, float]:
            if self._twins:
                torch.set_num_threads(threads // len(modules))
            return self._backward(modules[index], parts[index :: len(modules)], weight)

        try:
            futures = [self._pool.submit(backward, index) for index in range(1, len(modules))]
            sums = [backward(0), *(future.result() for future in futures)]
        finally:
            torch.set_num_threads(threads)
        add_gradients(self.grm.model, [module.model for module in self._twins])
        loss, error = (sum(values) for values in zip(*sums, strict=True))
        return loss, error

    def _backward(self, module: nn.Module, parts: Sequence[tuple[int, Batch]], weight: float) -> tuple[float, float]:
        loss = error = 0.0
        for remaining, (number, batch) in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
            hops = self._target_hops(number, batch)
            with accumulating(module, remaining > 0):
                with self._autocast():
                    summed, expected = module(batch, hops)
                # DDP averages over processes; scale to the mean over all prompts of the update.
                (summed * weight).backward()
            loss += summed.item()
            error += math.nan if expected is None else float((expected - hops).abs().sum())
        return loss, error

    def _target_hops(self, number: int, batch: Batch) -> torch.Tensor:
        rng = np.random.default_rng([self.config.seed, number, 1])
        return torch.from_numpy(target_hops(batch.hops, self.config.control, rng)).to(self.grm.model.device)

    def _autocast(self) -> AbstractContextManager[None]:
        low = self._precision != torch.float32
        return torch.autocast(self.grm.model.device.type, self._precision, enabled=low)

    def _measure(self) -> None:
        """Measure the FLOPs per pair on this process's next batch, and the peak of this device."""
        numbered_batch = next(self._numbered_batches)
        hops = self._target_hops(*numbered_batch)
        with self._autocast():
            self._flops_per_pair = training_flops(lambda: self._module(numbered_batch[1], hops)) / len(hops)
        self._peak = self.config.peak_flops or peak_flops(hops.device, self._precision)
        self._numbered_batches = chain([numbered_batch], self._numbered_batches)

    def progress(self) -> TrainProgress:
        """Progress of training so far."""
        elapsed, used = self._elapsed_s, self._used_fraction()
        rate = self._pairs / elapsed if elapsed else 0.0
        mfu = rate / self.process.world_size * self._flops_per_pair / self._peak if self._peak else 0.0
        eta = elapsed * (1.0 - used) / used if used else self.config.budget_s
        return TrainProgress(self.update, used, self._loss, self._error, rate, self._flops_per_pair, mfu, elapsed, eta)

    def _used_fraction(self) -> float:
        """Used share of the nearer limit, by this process's clock; 1 for the untrained control."""
        config = self.config
        if config.control == "untrained":
            return 1.0
        updates = self.update / config.updates if config.updates else 0.0
        seconds = self._elapsed_s / config.budget_s if config.budget_s else 0.0
        return min(max(updates, seconds), 1.0)

    def gathered(self) -> AbstractContextManager[None]:
        """Gather the weights for the block, so that every process can run the model. Every process must enter it."""
        return gathered(self._module)

    def weights(self) -> dict[str, Any]:
        """Unsharded weights on the CPU, in process 0. Every process must call it."""
        return full_weights(self.grm.model)

    def state_dict(self) -> dict[str, Any]:
        """The unsharded training state in process 0: weights, optimizer, counters. Every process must call it."""
        counters = (self.update, self._elapsed_s, self._pairs, self._loss, self._error)
        return full_state(self.grm.model, self._optimizer) | {"counters": counters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another trainer of the same model, with any number of processes; each needs the
        state.

        Raises:
            CheckpointError: the state does not fit the model.
        """
        try:
            load_full_state(self.grm.model, self._optimizer, state)
            self.update, self._elapsed_s, self._pairs, self._loss, self._error = state["counters"]
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the training state does not fit this model ({error}): start again with --fresh"
            ) from error
        self._seek()


def train(trainer: Trainer, on_update: Callable[[TrainProgress], None] = lambda progress: None) -> TrainProgress:
    """Train until the budget is used up; `on_update` is called after every update and not counted in the budget."""
    progress = trainer.progress()
    while (fraction := trainer.fraction()) < 1.0:
        progress = trainer.step(fraction)
        on_update(progress)
    return progress


def _schedule(fraction: float, warmup: float) -> float:
    """Learning rate factor: linear warmup, then cosine decay to 2 %."""
    if fraction < warmup:
        return (fraction + 0.1 * warmup) / (1.1 * warmup)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * (fraction - warmup) / (1.0 - warmup)))


def _unsharded(value: torch.Tensor) -> torch.Tensor:
    """The full tensor of a value that may be sharded (a DTensor)."""
    full: torch.Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return full


def _running_mean(mean: float | None, value: float) -> float:
    return value if mean is None else 0.95 * mean + 0.05 * value
