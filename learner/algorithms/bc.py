"""Behaviour cloning: the policy that reinforcement learning begins with. Plain torch, no Ray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dopamine_rl.errors import BadInput, Diverged
from dopamine_rl.policy import PolicyState
from learner.algorithms.losses import cloning_loss
from learner.algorithms.networks import GaussianActor
from learner.config import CloningConfig

LEAST_STD = 0.05
"""Least deviation an observation is divided by: one that hardly varies in demonstrations must not explode afterwards."""


@dataclass(frozen=True, eq=False)
class BCResult:
    """A cloned policy.

    Args:
        state: arrays for `save_policy`; `Policy.start_from` makes RLPD begin with exactly this mean.
        training_loss: mean squared error of the kept weights on the transitions they were fitted to.
        validation_loss: the same on held-out episodes.
        kept_update: update whose weights were kept.
    """

    state: PolicyState
    training_loss: float
    validation_loss: float
    kept_update: int


def train_bc(
    observations: NDArray[np.float32],
    actions: NDArray[np.float32],
    episode_lengths: NDArray[np.int64],
    hidden: Sequence[int],
    config: CloningConfig,
    seed: int,
    device: str = "cpu",
) -> BCResult:
    """Fit the squashed mean to demonstrated actions by least squares.

    Whole episodes are held out: neighbouring transitions are too alike for an honest validation error.

    Args:
        observations: float32 [N, D]; actions: float32 [N, A] in [−1, 1].
        episode_lengths: int [M], lengths of the episodes that make up the N rows; at least two.
        hidden: widths of the layers.
        config: how it is fitted; its widths are the caller's business.
        seed: of the split, the weights and the batches.
    Raises:
        BadInput: lengths do not add up, fewer than two episodes, or a value is not finite.
        Diverged: a loss is not finite.
    """
    _check(observations, actions, episode_lengths)
    generator = torch.Generator().manual_seed(seed)
    held = _held_out(episode_lengths, config.validation_share, generator)
    data = [torch.as_tensor(a, dtype=torch.float32, device=device) for a in (observations, actions)]
    fit, check = ([part[mask.to(device)] for part in data] for mask in (~held, held))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        actor = GaussianActor(observations.shape[1], actions.shape[1], hidden, initial_std=1.0).to(device)
    actor.observation_mean.copy_(fit[0].mean(0))
    actor.observation_std.copy_(fit[0].std(0).clamp_min(LEAST_STD))
    kept_update = _descend(actor, fit, check, config, generator)
    state = {f"actor.{name}": value.cpu().numpy() for name, value in actor.state_dict().items()}
    return BCResult(state, _error(actor, fit), _error(actor, check), kept_update)


def _check(observations: NDArray[np.float32], actions: NDArray[np.float32], lengths: NDArray[np.int64]) -> None:
    if not len(observations) == len(actions) == int(np.sum(lengths)):
        raise BadInput("episode_lengths", np.sum(lengths), f"give lengths that add up to {len(observations)} rows")
    if len(lengths) < 2:
        raise BadInput("episode_lengths", lengths, "give at least two episodes, one of them to validate on")
    for name, values in (("observations", observations), ("actions", actions)):
        if not np.isfinite(values).all():
            raise BadInput(name, "nan or inf", "give finite numbers")


def _held_out(lengths: NDArray[np.int64], share: float, generator: torch.Generator) -> Tensor:
    count = min(max(1, round(share * len(lengths))), len(lengths) - 1)
    chosen = torch.zeros(len(lengths), dtype=torch.bool)
    chosen[torch.randperm(len(lengths), generator=generator)[:count]] = True
    return chosen.repeat_interleave(torch.as_tensor(lengths))


def _descend(
    actor: GaussianActor, fit: list[Tensor], check: list[Tensor], config: CloningConfig, generator: torch.Generator
) -> int:
    parameters = [*actor.layers.parameters(), *actor.mean.parameters()]
    optimizer = torch.optim.AdamW(parameters, config.learning_rate, weight_decay=config.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.updates)
    best, kept, kept_update = float("inf"), actor.state_dict(), 0
    losses: list[Tensor] = []  # since the last look at the held-out episodes
    for update in range(1, config.updates + 1):
        rows = torch.randint(len(fit[0]), (config.batch_size,), generator=generator).to(fit[0].device)
        loss = cloning_loss(actor(actor.normalise(fit[0][rows]))[0], fit[1][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        if update % config.check_every == 0 or update == config.updates:
            error = _error(actor, check)
            _require_finite(torch.stack(losses).tolist(), error, update)
            losses.clear()
            if error < best:
                best, kept_update = error, update
                kept = {name: value.clone() for name, value in actor.state_dict().items()}
    actor.load_state_dict(kept)
    return kept_update


def _require_finite(losses: list[float], error: float, update: int) -> None:
    """Raise Diverged where one of the losses up to an update is not finite, or the held-out episodes' afterwards."""
    fix = "lower cloning.learning_rate, or look for extreme observations in the demonstrations"
    for number, loss in enumerate(losses, update - len(losses) + 1):
        if not math.isfinite(loss):
            raise Diverged("training_loss", loss, number, fix)
    if not math.isfinite(error):
        raise Diverged("validation_loss", error, update, fix)


@torch.no_grad()
def _error(actor: GaussianActor, data: list[Tensor]) -> float:
    return float(cloning_loss(actor(actor.normalise(data[0]))[0], data[1]))
