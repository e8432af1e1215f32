"""Training the reward model: soft cross-entropy over the hop bins, under a budget of seconds or of updates.

Only torch and the core are needed, so it also runs alone; under torch.distributed every process draws its own batches and
process 0 decides when to stop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from dopamine_rl.errors import CheckpointError
from dopamine_rl.grm.batches import Batch, BatchSampler, LabelledEpisode
from dopamine_rl.grm.config import Control, TrainConfig
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.readout import HOPS, binned_hops, encode_images, forward_logits

CONSTANT_HOP = 0.2
"""What the constant control answers to everything: always some progress."""


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """Where a training stands.

    Args:
        update: updates made.
        fraction: share of the budget used, in [0, 1].
        loss: running mean of the training loss; None before the first update.
        hop_error: running mean of |E[hop] − hop| in training; None before the first update.
        pairs_per_s: questions trained on a second, in this process.
        elapsed_s, eta_s: seconds of training so far and to go.
    """

    update: int
    fraction: float
    loss: float | None
    hop_error: float | None
    pairs_per_s: float
    elapsed_s: float
    eta_s: float

    def __str__(self) -> str:
        loss, error = (
            "–" if value is None else format(value, form)
            for value, form in ((self.loss, ".2f"), (self.hop_error, ".3f"))
        )
        return (
            f"update {self.update}, loss {loss}, hop error {error}, {self.pairs_per_s:.0f} pairs/s, "
            f"{self.eta_s:.0f} s to go"
        )


def soft_labels(hops: torch.Tensor, sigma: float) -> torch.Tensor:
    """Distributions [N, 201] with the weights of a Gaussian of width `sigma` around each hop [N]."""
    bins = torch.as_tensor(HOPS, dtype=hops.dtype, device=hops.device)
    return (-0.5 * ((bins - hops[:, None]) / sigma) ** 2).softmax(dim=-1)


def hop_loss(logits: torch.Tensor, hops: torch.Tensor, sigma: float, hop_weight: float) -> torch.Tensor:
    """Cross-entropy against soft labels plus `hop_weight` × squared error of E[H⁺] and E[H⁻]; a scalar.

    Args:
        logits: float [N, 201].
        hops: float [N] in [−1, 1].
    Source: arXiv:2512.23703, Eq. 12 (squared hop error); the cross-entropy takes the place of that over answer tokens.
    """
    cross_entropy = F.cross_entropy(logits, soft_labels(hops, sigma))
    gain, loss, _ = binned_hops(logits)
    squared = (gain - hops.clamp(min=0)) ** 2 + (loss - (-hops).clamp(min=0)) ** 2
    return cross_entropy + hop_weight * squared.mean()


def taught_hops(hops: NDArray[np.float32], control: Control, rng: np.random.Generator) -> NDArray[np.float32]:
    """The answers [N] that a batch teaches: the right ones, or those of a negative control."""
    if control == "shuffled":
        return rng.permutation(hops)
    if control == "constant":
        return np.full_like(hops, CONSTANT_HOP)
    return hops


class Questioned(nn.Module):
    """A reward model as one module: images and prompts in, logits out, so that gradients can be shared by processes."""

    def __init__(self, grm: GRM) -> None:
        super().__init__()
        self.model = grm.model
        self._grm = grm

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [N, 201] of a batch's prompts."""
        return forward_logits(self._grm, encode_images(self._grm, batch.images), batch.prompts)


class Trainer:
    """Trains a model in place, update by update.

    Args:
        grm: the model; it must be on its device already.
        episodes: what to train on.
        config: how.
        wrap: puts the module under torch.distributed, where that is wanted.
        rank: this process's number; each draws other batches.
    """

    def __init__(
        self,
        grm: GRM,
        episodes: Sequence[LabelledEpisode],
        config: TrainConfig,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
        rank: int = 0,
    ) -> None:
        self.grm, self.config, self._rank = grm, config, rank
        self._module = wrap(Questioned(grm))
        self._sampler = BatchSampler(episodes, config.plan, np.random.default_rng([config.seed, rank]))
        matrices = [weight for weight in grm.model.parameters() if weight.ndim > 1]
        others = [weight for weight in grm.model.parameters() if weight.ndim <= 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(0.9, 0.95),
        )
        self.update, self._elapsed_s, self._pairs = 0, 0.0, 0
        self._loss: float | None = None
        self._error: float | None = None

    def fraction(self) -> float:
        """Share of the budget used; the same number in every process."""
        used = self._used()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            shared = torch.tensor([used], dtype=torch.float64)
            torch.distributed.broadcast(shared, src=0)
            used = float(shared)
        return used

    def step(self, fraction: float) -> TrainProgress:
        """Make one update at the learning rate of `fraction`, and say where the training stands."""
        started = time.perf_counter()
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * _schedule(fraction, self.config.warmup)
        batch = self._sampler.draw()
        self.grm.model.train()
        logits = self._module(batch)
        # The sampler's generator is part of the saved state, so that a resumed control deals out the same answers.
        taught = taught_hops(batch.hops, self.config.control, self._sampler.rng)
        hops = torch.from_numpy(taught).to(logits.device)
        loss = hop_loss(logits, hops, self.config.label_sigma, self.config.hop_weight)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.grm.model.parameters(), self.config.clip)
        self._optimizer.step()
        self.grm.model.eval()
        with torch.no_grad():
            gain, lost, _ = binned_hops(logits)
            error = float((gain - lost - hops).abs().mean())
        self._loss, self._error = _running(self._loss, loss.item()), _running(self._error, error)
        self.update += 1
        self._pairs += len(batch.hops)
        self._elapsed_s += time.perf_counter() - started
        return self.progress()

    def progress(self) -> TrainProgress:
        """Where the training stands."""
        elapsed, used = self._elapsed_s, self._used()
        rate = self._pairs / elapsed if elapsed else 0.0
        eta = elapsed * (1.0 - used) / used if used else self.config.budget_s
        return TrainProgress(self.update, used, self._loss, self._error, rate, elapsed, eta)

    def _used(self) -> float:
        """Share of whichever limit is nearer, by this process's own clock; the untrained control has nothing to use."""
        config = self.config
        if config.control == "untrained":
            return 1.0
        updates = self.update / config.updates if config.updates else 0.0
        seconds = self._elapsed_s / config.budget_s if config.budget_s else 0.0
        return min(max(updates, seconds), 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: weights, optimizer, randomness, counters."""
        return {
            "model": self.grm.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "rng": self._sampler.rng.bit_generator.state,
            "counters": (self.update, self._elapsed_s, self._pairs, self._loss, self._error),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another trainer of the same model stopped. Raises CheckpointError if it does not fit."""
        try:
            self.grm.model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.update, self._elapsed_s, self._pairs, self._loss, self._error = state["counters"]
            # The state is that of process 0; the others must go on drawing batches of their own.
            own = np.random.default_rng([self.config.seed, self._rank, self.update]).bit_generator.state
            self._sampler.rng.bit_generator.state = own if self._rank else state["rng"]
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"the training state does not fit this model ({error}): start afresh") from error


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


def _running(mean: float | None, value: float) -> float:
    return value if mean is None else 0.95 * mean + 0.05 * value
