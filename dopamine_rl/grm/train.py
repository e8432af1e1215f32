"""Training the reward model, update by update, under a budget of seconds or of updates.

Only torch and the core are needed, so it also runs alone; under torch.distributed the processes share the batches of every
update and process 0 decides when to stop. An update is a function of the state and of its number, so a training that goes on
from a saved state ends with the same weights as one that was never interrupted.
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
from dopamine_rl.grm.losses import question_losses, taught_hops
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.parallel import (
    add_gradients,
    gathered,
    gradients_kept,
    load_whole_state,
    share,
    this_process,
    told_by_first,
    total,
    twin,
    whole_state,
    whole_weights,
)
from dopamine_rl.grm.readout import Reader
from dopamine_rl.grm.throughput import peak_flops, training_flops


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """Where a training stands.

    Args:
        update: updates made.
        fraction: share of the budget used, in [0, 1].
        loss: running mean of the training loss; None before the first update.
        hop_error: running mean of |E[hop] − hop| in training; None before the first update, and where the loss is of text.
        pairs_per_s: questions trained on a second, by all processes.
        flops_per_pair: floating-point operations of the model a question, see `training_flops`; 0 before this
            process's first update.
        mfu: share of the devices' peak that those make up; 0 before this process's first update.
        elapsed_s, eta_s: seconds of training so far and to go.
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


class Taught(nn.Module):
    """A reward model with its loss as one module, so that processes can share gradients."""

    def __init__(self, grm: GRM, config: TrainConfig) -> None:
        super().__init__()
        self.model = grm.model
        self._grm, self._config = grm, config

    def forward(self, batch: Batch, hops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The loss of a batch's questions, added up, and E[hop] [N] where the loss comes by it.

        Args:
            hops: float32 [N], the answers to be taught.
        """
        reader = Reader(self._grm, self._config.recompute)
        losses, expected = question_losses(self._config, reader, reader.encode(batch.images), batch.prompts, hops)
        return losses.sum(), expected


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW on the weights that require gradients; matrices decay, the vision tower but its mergers has a rate of its own.

    Every group holds its `share` of the learning rate.
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
        grm: the model; it must be on its device already. Weights that require no gradient stay as they are.
        batches: gets the batches that this process asks for.
        config: how.
        sharded: under torch.distributed, share gradients and optimiser state out (FSDP) instead of copying them (DDP).
    Raises:
        BadInput: the processes cannot share an update's batches evenly.
    """

    def __init__(self, grm: GRM, batches: Batches, config: TrainConfig, sharded: bool = False) -> None:
        self.grm, self.config, self.place = grm, config, this_process()
        if config.batches % self.place.processes:
            raise BadInput(
                "sft.train.batches", config.batches, f"give a multiple of {self.place.processes}, the processes"
            )
        self._precision = getattr(torch, config.precision)
        self._batches = batches
        self._coming: Iterator[tuple[int, Batch]] = iter(())
        self._module = share(Taught(grm, config), sharded, self._precision)
        self._twins = [Taught(replace(grm, model=twin(grm.model)), config).train() for _ in range(self._at_once() - 1)]
        self._pool = ThreadPoolExecutor(max(1, len(self._twins)), "twin")
        self._optimizer = make_optimizer(grm.model, config)
        self.update, self._elapsed_s, self._pairs = 0, 0.0, 0
        self._loss: float | None = None
        self._error: float | None = None
        self._flops_per_pair = self._peak = 0.0
        self._seek()

    def _seek(self) -> None:
        """Ask for this process's batches from the next update on."""
        first = self.update * self.config.batches + self.place.rank
        numbers, again = tee(count(first, self.place.processes))
        self._coming = zip(numbers, self._batches(again), strict=False)

    def fraction(self) -> float:
        """Share of the budget used; the same number in every process."""
        return told_by_first(self._used(), self.place, self.grm.model.device)

    def step(self, fraction: float) -> TrainProgress:
        """Make one update at the learning rate of `fraction`, and say where the training stands.

        Raises:
            Diverged: loss or gradient is not finite; the weights and the state saved last are those of the update before.
        """
        device, processes = self.grm.model.device, self.place.processes
        if not self._peak:
            self._measure()
        started = time.perf_counter()
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * group["share"] * _schedule(fraction, self.config.warmup)
        parts = list(islice(self._coming, self.config.batches // processes))
        pairs = total(sum(len(batch.hops) for _, batch in parts), self.place, device)
        self.grm.model.train()
        self._optimizer.zero_grad(set_to_none=True)
        loss, error = self._learn(parts, processes / pairs)
        loss, error = (total(value, self.place, device) / pairs for value in (loss, error))
        norm = nn.utils.clip_grad_norm_(self.grm.model.parameters(), self.config.clip)
        self._require_finite(loss=loss, gradient_norm=float(_whole(norm)))
        self._optimizer.step()
        self.grm.model.eval()
        self._loss = _running(self._loss, loss)
        self._error = None if math.isnan(error) else _running(self._error, error)
        self.update += 1
        self._pairs += int(pairs)
        self._elapsed_s += time.perf_counter() - started
        return self.progress()

    def _require_finite(self, **columns: float) -> None:
        """Raise Diverged for the first that is not finite. All processes hold the same values, so all of them stop."""
        for name, value in columns.items():
            if not math.isfinite(value):
                fix = "lower sft.train.learning_rate or sft.train.clip; the state saved last is not touched"
                raise Diverged(name, value, self.update + 1, fix)

    def _at_once(self) -> int:
        """Batches of an update that are worked through side by side. Small products gain little from a second thread."""
        alone = self.place.processes == 1 and self.grm.model.device.type == "cpu"
        return min(self.config.batches, torch.get_num_threads()) if alone else 1

    def _learn(self, parts: Sequence[tuple[int, Batch]], weight: float) -> tuple[float, float]:
        """Leave the gradients of some batches' losses times `weight`, and add up losses and errors of their questions.

        Every batch is one thread's, and gradients are added in an order of their own: nothing depends on which is faster.
        """
        modules = [self._module, *self._twins]
        threads = torch.get_num_threads()

        def work(place: int) -> tuple[float, float]:
            if self._twins:
                torch.set_num_threads(threads // len(modules))
            return self._backward(modules[place], parts[place :: len(modules)], weight)

        try:
            others = [self._pool.submit(work, place) for place in range(1, len(modules))]
            sums = [work(0), *(other.result() for other in others)]
        finally:
            torch.set_num_threads(threads)
        add_gradients(self.grm.model, [other.model for other in self._twins])
        loss, error = (sum(values) for values in zip(*sums, strict=True))
        return loss, error

    def _backward(self, module: nn.Module, parts: Sequence[tuple[int, Batch]], weight: float) -> tuple[float, float]:
        loss = error = 0.0
        for left, (number, batch) in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
            hops = self._taught(number, batch)
            with gradients_kept(module, left > 0):
                with self._autocast():
                    summed, expected = module(batch, hops)
                # Processes take the mean of their gradients; what is wanted is that over all questions of the update.
                (summed * weight).backward()
            loss += summed.item()
            error += math.nan if expected is None else float((expected - hops).abs().sum())
        return loss, error

    def _taught(self, number: int, batch: Batch) -> torch.Tensor:
        rng = np.random.default_rng([self.config.seed, number, 1])
        return torch.from_numpy(taught_hops(batch.hops, self.config.control, rng)).to(self.grm.model.device)

    def _autocast(self) -> AbstractContextManager[None]:
        low = self._precision != torch.float32
        return torch.autocast(self.grm.model.device.type, self._precision, enabled=low)

    def _measure(self) -> None:
        """Count the work of a question on this process's next batch, and the peak of this device."""
        coming = next(self._coming)
        hops = self._taught(*coming)
        with self._autocast():
            self._flops_per_pair = training_flops(lambda: self._module(coming[1], hops)) / len(hops)
        self._peak = self.config.peak_flops or peak_flops(hops.device, self._precision)
        self._coming = chain([coming], self._coming)

    def progress(self) -> TrainProgress:
        """Where the training stands."""
        elapsed, used = self._elapsed_s, self._used()
        rate = self._pairs / elapsed if elapsed else 0.0
        mfu = rate / self.place.processes * self._flops_per_pair / self._peak if self._peak else 0.0
        eta = elapsed * (1.0 - used) / used if used else self.config.budget_s
        return TrainProgress(self.update, used, self._loss, self._error, rate, self._flops_per_pair, mfu, elapsed, eta)

    def _used(self) -> float:
        """Share of whichever limit is nearer, by this process's own clock; the untrained control has nothing to use."""
        config = self.config
        if config.control == "untrained":
            return 1.0
        updates = self.update / config.updates if config.updates else 0.0
        seconds = self._elapsed_s / config.budget_s if config.budget_s else 0.0
        return min(max(updates, seconds), 1.0)

    def gathered(self) -> AbstractContextManager[None]:
        """Within the block the model answers in every process; all must enter it."""
        return gathered(self._module)

    def weights(self) -> dict[str, Any]:
        """The model's weights, whole, on the CPU, in process 0; every process must call it."""
        return whole_weights(self.grm.model)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, whole, in process 0: weights, optimiser, counters. Every process must call it."""
        counters = (self.update, self._elapsed_s, self._pairs, self._loss, self._error)
        return whole_state(self.grm.model, self._optimizer) | {"counters": counters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another trainer of the same model stopped, in as many processes as may be; each needs the state.

        Raises:
            CheckpointError: it does not fit.
        """
        try:
            load_whole_state(self.grm.model, self._optimizer, state)
            self.update, self._elapsed_s, self._pairs, self._loss, self._error = state["counters"]
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"the training state does not fit this model ({error}): start afresh") from error
        self._seek()


def train(trainer: Trainer, on_progress: Callable[[TrainProgress], None] = lambda progress: None) -> TrainProgress:
    """Train until the budget is used; `on_progress` is called after every update, outside the budget."""
    progress = trainer.progress()
    while (fraction := trainer.fraction()) < 1.0:
        progress = trainer.step(fraction)
        on_progress(progress)
    return progress


def _schedule(fraction: float, warmup: float) -> float:
    """Linear rise over `warmup`, then a cosine to 2 % at the end."""
    if fraction < warmup:
        return (fraction + 0.1 * warmup) / (1.1 * warmup)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * (fraction - warmup) / (1.0 - warmup)))


def _whole(value: torch.Tensor) -> torch.Tensor:
    """A value that may be shared out over the processes (a DTensor), whole."""
    whole: torch.Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return whole


def _running(mean: float | None, value: float) -> float:
    return value if mean is None else 0.95 * mean + 0.05 * value
