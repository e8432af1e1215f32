"""Behaviour cloning: the initial policy of reinforcement learning. Plain torch, no Ray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dopamine_rl.encoders.eyes import Eyes
from dopamine_rl.errors import BadInput, Diverged
from dopamine_rl.policy import PolicyState
from learner.algorithms.losses import cloning_loss
from learner.algorithms.networks import GaussianActor
from learner.algorithms.vision import Vision, VisionShape, cnn_weights
from learner.config import CloningConfig

LEAST_STD = 0.05
"""Lower bound of the normalising standard deviation: inputs that hardly vary in demonstrations must not blow up."""
BLOCK = 3
"""Consecutive transitions of a block that is held out of a single demonstration."""
CHUNK = 256
"""Observations that a loss without gradients is computed of at once."""


@dataclass(frozen=True, eq=False)
class BCResult:
    """A cloned policy.

    Args:
        state: arrays for `save_policy`; with `Policy.start_from`, RLPD starts from exactly this mean.
        training_loss: mean squared error of the best weights on the training transitions.
        validation_loss: the same on held-out episodes; on held-out blocks if there is only one episode, where it is
            too optimistic to compare with others: it only says when to stop.
        kept_update: the update with the lowest validation loss, whose weights are returned.
        encoder: weights of the learned encoder by name; None without one.
    """

    state: PolicyState
    training_loss: float
    validation_loss: float
    kept_update: int
    encoder: dict[str, NDArray[np.float32]] | None = None


class _Clone(nn.Module):
    """The actor, and with an encoder that is learned, that.

    Args:
        actor: reads vectors.
        vision: of packed observations; None reads vectors alone.
    """

    def __init__(self, actor: GaussianActor, vision: Vision | None) -> None:
        super().__init__()
        self.actor, self.vision = actor, vision

    def inputs(self, observations: Tensor, shifts: torch.Generator | None = None) -> Tensor:
        """Normalised vectors [B, D] of observations; of pictures, with `shifts` at random."""
        seen = observations if self.vision is None else self.vision(observations, shifts)
        return self.actor.normalise(seen)

    def learned(self) -> list[nn.Parameter]:
        """What cloning trains: all but the standard deviation."""
        encoder = self.vision.parameters() if self.vision is not None else ()
        return [*self.actor.layers.parameters(), *self.actor.mean.parameters(), *encoder]


def train_bc(
    observations: NDArray[np.float32],
    actions: NDArray[np.float32],
    episode_lengths: NDArray[np.int64],
    hidden: Sequence[int],
    config: CloningConfig,
    seed: int,
    device: str = "cpu",
    eyes: Eyes | None = None,
) -> BCResult:
    """Fit the squashed mean to demonstrated actions by least squares, and with it an encoder that is learned.

    Whole episodes are held out for validation: neighbouring transitions are too similar for an unbiased estimate. Of a
    single episode, blocks of consecutive transitions are held out.

    Args:
        observations: float32 [N, D], or packed pictures uint8 [N, M]; actions: float32 [N, A] in [−1, 1].
        episode_lengths: int [M], lengths of the M ≥ 1 episodes; they sum to N.
        hidden: hidden-layer widths.
        config: training settings; its widths are not used here.
        seed: of the split, the initial weights and the batches.
        eyes: with the encoder to start from, if the observations are pictures; they are shifted at random in training.
    Raises:
        BadInput: the lengths do not sum to N, there is no episode, or a single one of less than 3 transitions, or
            a value is not finite.
        Diverged: a loss is not finite.
    """
    _check(observations, actions, episode_lengths)
    generator = torch.Generator().manual_seed(seed)
    held_out = _validation_rows(episode_lengths, config.validation_share, generator)
    vision = Vision(VisionShape.of(eyes)).to(device) if eyes is not None and eyes.learned else None
    kinds = (torch.uint8 if vision is not None else torch.float32, torch.float32)
    data = [torch.as_tensor(a, dtype=t, device=device) for a, t in zip((observations, actions), kinds, strict=True)]
    fit, validation = ([part[mask.to(device)] for part in data] for mask in (~held_out, held_out))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = observations.shape[1] if vision is None else vision.shape.size
        actor = GaussianActor(size, actions.shape[1], hidden, initial_std=1.0).to(device)
    clone = _Clone(actor, vision)
    if vision is not None and eyes is not None:
        vision.start_from(eyes)
    _set_normalisation(clone, fit[0])
    kept_update = _descend(clone, fit, validation, config, generator)
    state = {name: value.cpu().numpy() for name, value in clone.state_dict().items()}
    encoder = cnn_weights(state, "vision") if vision is not None else None
    policy = {name: value for name, value in state.items() if name.startswith("actor.")}
    return BCResult(policy, _loss(clone, fit), _loss(clone, validation), kept_update, encoder)


@torch.no_grad()
def _set_normalisation(clone: _Clone, observations: Tensor) -> None:
    """Normalise what the demonstrations show. Learned features lie in (−1, 1) and move: they stay as they are."""
    actor = clone.actor
    if clone.vision is not None:
        observations = clone.vision.proprioception(observations)
    count = observations.shape[1]
    actor.observation_mean[:count] = observations.mean(0)
    actor.observation_std[:count] = observations.std(0).clamp_min(LEAST_STD)


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
    clone: _Clone, fit: list[Tensor], validation: list[Tensor], config: CloningConfig, generator: torch.Generator
) -> int:
    """Train the clone in place and load its best weights; returns their update."""
    optimizer = torch.optim.AdamW(clone.learned(), config.learning_rate, weight_decay=config.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.updates)
    best_loss, best_state, best_update = float("inf"), clone.state_dict(), 0
    losses: list[Tensor] = []  # since the last validation
    for update in range(1, config.updates + 1):
        rows = torch.randint(len(fit[0]), (config.batch_size,), generator=generator).to(fit[0].device)
        loss = cloning_loss(*_prediction(clone, fit[0][rows], fit[1][rows], config, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        if update % config.check_every == 0 or update == config.updates:
            validation_loss = _loss(clone, validation)
            _require_finite(torch.stack(losses).tolist(), validation_loss, update)
            losses.clear()
            if validation_loss < best_loss:
                best_loss, best_update = validation_loss, update
                best_state = {name: value.clone() for name, value in clone.state_dict().items()}
    clone.load_state_dict(best_state)
    return best_update


def _prediction(
    clone: _Clone, observations: Tensor, actions: Tensor, config: CloningConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The clone's and the wanted actions for a batch, [B, A] each, with noise and still samples (CloningConfig)."""
    inputs = clone.inputs(observations, generator)
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
    return clone.actor(inputs)[0], actions


def _require_finite(losses: list[float], validation_loss: float, update: int) -> None:
    """Raise Diverged if a training loss up to this update, or the validation loss after it, is not finite."""
    fix = "lower cloning.learning_rate, or check the demonstrations for extreme observations"
    for number, loss in enumerate(losses, update - len(losses) + 1):
        if not math.isfinite(loss):
            raise Diverged("training_loss", loss, number, fix)
    if not math.isfinite(validation_loss):
        raise Diverged("validation_loss", validation_loss, update, fix)


@torch.no_grad()
def _loss(clone: _Clone, data: list[Tensor]) -> float:
    if clone.vision is None:
        return float(cloning_loss(clone.actor(clone.inputs(data[0]))[0], data[1]))
    means = torch.cat([clone.actor(clone.inputs(chunk))[0] for chunk in data[0].split(CHUNK)])
    return float(cloning_loss(means, data[1]))
