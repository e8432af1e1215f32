"""Behaviour cloning: the initial policy of reinforcement learning. Plain torch, no Ray."""

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
"""Lower bound of the normalising standard deviation: inputs that hardly vary in demonstrations must not blow up."""
BLOCK = 3
"""Consecutive transitions of a block that is held out of a single demonstration."""


@dataclass(frozen=True, eq=False)
class BCResult:
    """A cloned policy.

    Args:
        state: arrays for `save_policy`; with `Policy.start_from`, RLPD starts from exactly this mean.
        training_loss: mean squared error of the best weights on the training transitions.
        validation_loss: the same on held-out episodes; on held-out blocks if there is only one episode, where it is
            too optimistic to compare with others: it only says when to stop.
        kept_update: the update with the lowest validation loss, whose weights are returned.
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

    Whole episodes are held out for validation: neighbouring transitions are too similar for an unbiased estimate. Of a
    single episode, blocks of consecutive transitions are held out.

    Args:
        observations: float32 [N, D]; actions: float32 [N, A] in [−1, 1].
        episode_lengths: int [M], lengths of the M ≥ 1 episodes; they sum to N.
        hidden: hidden-layer widths.
        config: training settings; its widths are not used here.
        seed: of the split, the initial weights and the batches.
    Raises:
        BadInput: the lengths do not sum to N, there is no episode, or a single one of less than 3 transitions, or
            a value is not finite.
        Diverged: a loss is not finite.
    """
    _check(observations, actions, episode_lengths)
    generator = torch.Generator().manual_seed(seed)
    held_out = _validation_rows(episode_lengths, config.validation_share, generator)
    data = [torch.as_tensor(a, dtype=torch.float32, device=device) for a in (observations, actions)]
    fit, validation = ([part[mask.to(device)] for part in data] for mask in (~held_out, held_out))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        actor = GaussianActor(observations.shape[1], actions.shape[1], hidden, initial_std=1.0).to(device)
    actor.observation_mean.copy_(fit[0].mean(0))
    actor.observation_std.copy_(fit[0].std(0).clamp_min(LEAST_STD))
    kept_update = _descend(actor, fit, validation, config, generator)
    state = {f"actor.{name}": value.cpu().numpy() for name, value in actor.state_dict().items()}
    return BCResult(state, _loss(actor, fit), _loss(actor, validation), kept_update)


def _check(observations: NDArray[np.float32], actions: NDArray[np.float32], lengths: NDArray[np.int64]) -> None:
    if not len(observations) == len(actions) == int(np.sum(lengths)):
        raise BadInput("episode_lengths", np.sum(lengths), f"give lengths that sum to {len(observations)} rows")
    if not len(lengths) or (len(lengths) == 1 and lengths[0] < BLOCK):
        raise BadInput("episode_lengths", lengths, f"give at least one episode of at least {BLOCK} transitions")
    for name, values in (("observations", observations), ("actions", actions)):
        if not np.isfinite(values).all():
            raise BadInput(name, "nan or inf", "give finite numbers")


def _validation_rows(lengths: NDArray[np.int64], share: float, generator: torch.Generator) -> Tensor:
    """bool [N]: the transitions that are held out."""
    if len(lengths) == 1:
        return _validation_blocks(int(lengths[0]), share, generator)
    count = min(max(1, round(share * len(lengths))), len(lengths) - 1)
    chosen = torch.zeros(len(lengths), dtype=torch.bool)
    chosen[torch.randperm(len(lengths), generator=generator)[:count]] = True
    return chosen.repeat_interleave(torch.as_tensor(lengths))


def _validation_blocks(count: int, share: float, generator: torch.Generator) -> Tensor:
    """bool [N]: blocks of a single episode, one in each of several equal parts, together about a share of it."""
    chosen, size = torch.zeros(count, dtype=torch.bool), min(BLOCK, count // 3)
    blocks = min(max(1, round(share * count / size)), count // (2 * size))  # at most half of it
    for part in torch.arange(count).tensor_split(blocks):
        start = int(torch.randint(len(part) - size + 1, (), generator=generator))
        chosen[part[start : start + size]] = True
    return chosen


def _descend(
    actor: GaussianActor, fit: list[Tensor], validation: list[Tensor], config: CloningConfig, generator: torch.Generator
) -> int:
    """Train the actor in place and load its best weights; returns their update."""
    parameters = [*actor.layers.parameters(), *actor.mean.parameters()]
    optimizer = torch.optim.AdamW(parameters, config.learning_rate, weight_decay=config.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.updates)
    best_loss, best_state, best_update = float("inf"), actor.state_dict(), 0
    losses: list[Tensor] = []  # since the last validation
    for update in range(1, config.updates + 1):
        rows = torch.randint(len(fit[0]), (config.batch_size,), generator=generator).to(fit[0].device)
        loss = cloning_loss(*_prediction(actor, fit[0][rows], fit[1][rows], config, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        if update % config.check_every == 0 or update == config.updates:
            validation_loss = _loss(actor, validation)
            _require_finite(torch.stack(losses).tolist(), validation_loss, update)
            losses.clear()
            if validation_loss < best_loss:
                best_loss, best_update = validation_loss, update
                best_state = {name: value.clone() for name, value in actor.state_dict().items()}
    actor.load_state_dict(best_state)
    return best_update


def _prediction(
    actor: GaussianActor, observations: Tensor, actions: Tensor, config: CloningConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The actor's and the wanted actions for a batch, [B, A] each, with noise and still samples (CloningConfig)."""
    inputs = actor.normalise(observations)
    if config.observation_noise or config.still_share:
        deviations = torch.full((len(inputs), 1), config.observation_noise)
        still = round(config.still_share * len(inputs))
        # From the noise's own edge outwards, so that far and near meet.
        reach = torch.rand((still, 1), generator=generator)
        deviations[:still] = 3.0 * config.observation_noise + config.still_spread * reach
        noise = torch.randn(inputs.shape, generator=generator) * deviations
        inputs = inputs + noise.to(inputs.device)
        actions = actions.clone()
        actions[:still] = 0.0
    return actor(inputs)[0], actions


def _require_finite(losses: list[float], validation_loss: float, update: int) -> None:
    """Raise Diverged if a training loss up to this update, or the validation loss after it, is not finite."""
    fix = "lower cloning.learning_rate, or check the demonstrations for extreme observations"
    for number, loss in enumerate(losses, update - len(losses) + 1):
        if not math.isfinite(loss):
            raise Diverged("training_loss", loss, number, fix)
    if not math.isfinite(validation_loss):
        raise Diverged("validation_loss", validation_loss, update, fix)


@torch.no_grad()
def _loss(actor: GaussianActor, data: list[Tensor]) -> float:
    return float(cloning_loss(actor(actor.normalise(data[0]))[0], data[1]))
