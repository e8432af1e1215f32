"""The policy learner's losses as pure functions of tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
LARGEST_LOG_WEIGHT = 3.0
"""Upper bound of the log weight of an imitated transition: it counts at most 20 times as much as one without gain."""


def squashed_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sample u = tanh(mean + std · noise) and its log density.

    Args:
        mean, log_std: float [B, A], before squashing.
        noise: float [B, A], standard normal.
    Returns:
        u float [B, A] in (−1, 1), log density float [B].
    Source: arXiv:1801.01290, appendix C; log(1 − tanh²x) = 2 (log 2 − x − softplus(−2x)) keeps it finite for large |x|.
    """
    raw = torch.addcmul(mean, log_std.exp(), noise)
    squash = 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
    log_density = (-0.5 * noise.square() - log_std - HALF_LOG_TWO_PI - squash).sum(-1)
    return raw.tanh(), log_density


def critic_target(
    reward: Tensor,
    terminated: Tensor,
    next_q: Tensor,
    next_log_prob: Tensor | None,
    discount: float | Tensor,
    alpha: Tensor,
) -> Tensor:
    """r + γ (1 − terminated) (min over critics of Q' − α log π').

    Args:
        discount: γ; for n-step returns γ^m, float [B], where Q' and π' are those after m environment steps.
        reward, terminated: float [B]; terminated is 1 where the task ended. Truncated transitions bootstrap.
        next_q: float [M, B], of this update's random subset of target critics.
        next_log_prob: float [B]; None for a backup without entropy.
    Source: arXiv:2302.02948, algorithm 1 (random subset of the ensemble, entropy backup optional).
    """
    value = next_q.amin(0)
    if next_log_prob is not None:
        value = value - alpha * next_log_prob
    return reward + discount * (1.0 - terminated) * value


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Mean squared error per critic, summed over the ensemble, so that each critic's gradient is as for a single one.

    Args:
        q: float [E, B]; target: float [B], no gradient.
    Source: arXiv:2302.02948, algorithm 1. Differs: summed over critics, not averaged.
    """
    return (q - target).square().sum() / q.shape[1]


def actor_loss(log_prob: Tensor, q: Tensor, alpha: Tensor) -> Tensor:
    """Mean of α log π − Q, with Q averaged over the ensemble.

    Args:
        log_prob: float [B]; q: float [E, B] of the sampled actions; alpha: float scalar, no gradient.
    Source: arXiv:2302.02948, algorithm 1.
    """
    return (alpha * log_prob).mean() - q.mean()


def alpha_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Mean of −α (log π + target entropy); only log α gets a gradient.

    Source: arXiv:1812.05905, Eq. 18.
    """
    return -(log_alpha.exp() * (log_prob.detach() + target_entropy)).mean()


def cloning_loss(mean: Tensor, action: Tensor) -> Tensor:
    """Mean squared error between the squashed mean and the demonstrated action, float [B, A] each."""
    return functional.mse_loss(mean.tanh(), action)


def imitation_loss(action: Tensor, stored: Tensor, gain: Tensor, temperature: float) -> Tensor:
    """Mean of w (action − stored action)², with w = exp(gain / temperature), bounded by LARGEST_LOG_WEIGHT.

    Args:
        action: float [B, A], the policy's mean action; stored: float [B, A], that of the transition.
        gain: float [B], progress gained after the transition, in [−1, 1].
    Source: arXiv:1910.00177 (advantage-weighted regression). Differs: progress gained in place of the advantage;
        squared error of the mean in place of the log density. Unlike shaping it does not preserve the optimal policy.
    """
    weight = (gain / temperature).clamp(max=LARGEST_LOG_WEIGHT).exp()
    return (weight * (action - stored).square().mean(-1)).mean()
