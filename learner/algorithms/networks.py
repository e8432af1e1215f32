"""Actor and critics of the policy learner in plain torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dopamine_rl.errors import BadInput
from learner.algorithms.losses import squashed_gaussian

LOG_STD_RANGE = (-5.0, 2.0)


class GaussianActor(nn.Module):
    """Maps observations to mean and log standard deviation of a Gaussian, to be squashed by tanh.

    The observations' mean and standard deviation are buffers, so cloning, learning and evaluation normalise alike.

    Args:
        observation_size, action_size: D and A.
        hidden: hidden-layer widths.
        initial_std: initial standard deviation before squashing, for all observations.
    """

    observation_mean: Tensor
    observation_std: Tensor

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int], initial_std: float) -> None:
        super().__init__()
        self.register_buffer("observation_mean", torch.zeros(observation_size))
        self.register_buffer("observation_std", torch.ones(observation_size))
        sizes = [observation_size, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.mean = nn.Linear(sizes[-1], action_size)
        self.log_std = nn.Linear(sizes[-1], action_size)
        nn.init.zeros_(self.log_std.weight)
        nn.init.constant_(self.log_std.bias, math.log(initial_std))

    def normalise(self, observations: Tensor) -> Tensor:
        """Normalise observations [B, D]."""
        return (observations - self.observation_mean) / self.observation_std

    def start_from(self, state: Mapping[str, NDArray[np.float32]]) -> None:
        """Load a cloned policy's mean and normalisation; the standard deviation stays the initial one.

        Raises:
            BadInput: its network or spaces have other sizes.
        """
        for name, tensor in self.state_dict().items():
            if name.startswith("log_std."):
                continue
            cloned = state.get(f"actor.{name}")
            if cloned is None or cloned.shape != tuple(tensor.shape):
                shape = None if cloned is None else cloned.shape
                raise BadInput(f"actor.{name}", shape, f"clone with the learner's sizes, {tuple(tensor.shape)} here")
            tensor.copy_(torch.from_numpy(cloned))

    def forward(self, normalised: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, [B, A] each, for normalised observations [B, D]."""
        hidden = normalised
        for layer in self.layers:
            hidden = layer(hidden).relu_()
        return self.mean(hidden), self.log_std(hidden).clamp(*LOG_STD_RANGE)


class Policy(nn.Module):
    """The policy: a squashed Gaussian, or a bounded residual on top of a frozen cloned policy.

    With residual_scale = 0 the action is u = tanh(Gaussian). Otherwise it is clip(tanh(base mean) + residual_scale ·
    u), where the base is frozen and u initially has mean 0; log densities are those of u.

    Args:
        observation_size, action_size, hidden, initial_std: as for `GaussianActor`.
        residual_scale: scale of the residual as a share of half the action range; 0 for no residual.
        base_hidden: hidden-layer widths of the frozen policy; `hidden` if None.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        initial_std: float,
        residual_scale: float = 0.0,
        base_hidden: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.actor = GaussianActor(observation_size, action_size, hidden, initial_std)
        self.base = None
        if residual_scale:
            frozen = GaussianActor(observation_size, action_size, base_hidden or hidden, initial_std)
            self.base = frozen.requires_grad_(False)
            nn.init.zeros_(self.actor.mean.weight)
            nn.init.zeros_(self.actor.mean.bias)

    def start_from(self, state: Mapping[str, NDArray[np.float32]]) -> None:
        """Load a cloned policy (arrays of `save_policy`): as the mean, or as the base of the residual."""
        if self.base is None:
            self.actor.start_from(state)
            return
        self.base.start_from(state)
        self.actor.observation_mean.copy_(self.base.observation_mean)
        self.actor.observation_std.copy_(self.base.observation_std)

    def sample(self, normalised: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """An action [B, A] in [−1, 1] and its log density [B] for standard normal noise [B, A]."""
        mean, log_std = self.actor(normalised)
        squashed, log_density = squashed_gaussian(mean, log_std, noise)
        return self._compose(normalised, squashed), log_density

    def act(self, normalised: Tensor) -> Tensor:
        """The action at the mean, [B, A]."""
        return self._compose(normalised, self.actor(normalised)[0].tanh())

    @torch.no_grad()
    def base_action(self, normalised: Tensor) -> Tensor:
        """The action of the frozen cloned policy, [B, A]; of a residual policy only."""
        assert self.base is not None
        action: Tensor = self.base(normalised)[0].tanh()
        return action

    def _compose(self, normalised: Tensor, squashed: Tensor) -> Tensor:
        if self.base is None:
            return squashed
        return (self.base_action(normalised) + self.residual_scale * squashed).clamp(-1.0, 1.0)


class CriticEnsemble(nn.Module):
    """An ensemble of E critics with layer normalisation, computed as batched matrix products.

    Args:
        observation_size, action_size: D and A.
        hidden: hidden-layer widths.
        critics: E.
    Source: arXiv:2302.02948, section 4.2 (layer normalisation, large ensembles).
    """

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int], critics: int) -> None:
        super().__init__()
        sizes = [observation_size + action_size, *hidden, 1]
        weights, biases, gains, shifts = [], [], [], []
        for fan_in, fan_out in pairwise(sizes):
            bound = 1.0 / math.sqrt(fan_in)
            weights.append(nn.Parameter(torch.empty(critics, fan_in, fan_out).uniform_(-bound, bound)))
            biases.append(nn.Parameter(torch.empty(critics, 1, fan_out).uniform_(-bound, bound)))
        for width in hidden:
            gains.append(nn.Parameter(torch.ones(critics, 1, width)))
            shifts.append(nn.Parameter(torch.zeros(critics, 1, width)))
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)
        self.gains, self.shifts = nn.ParameterList(gains), nn.ParameterList(shifts)

    def tensors(self, members: Tensor | None = None) -> list[list[Tensor]]:
        """Detached weights, biases, gains and shifts of all critics, or of the `members` (int [M])."""
        groups = (self.weights, self.biases, self.gains, self.shifts)
        return [[p.detach() if members is None else p.detach()[members] for p in group] for group in groups]

    def forward(self, normalised: Tensor, actions: Tensor) -> Tensor:
        """Q values float [E, B] of normalised observations [B, D] and actions [B, A]."""
        groups = [list(group) for group in (self.weights, self.biases, self.gains, self.shifts)]
        return critic_values(groups, normalised, actions)


def critic_values(parameters: Sequence[Sequence[Tensor]], normalised: Tensor, actions: Tensor) -> Tensor:
    """Q values float [E, B] for explicit parameters (weights, biases, gains, shifts), [E, ...] each."""
    weights, biases, gains, shifts = parameters
    joined = torch.cat((normalised, actions), -1)
    hidden = joined.expand(weights[0].shape[0], *joined.shape)
    for weight, bias, gain, shift in zip(weights[:-1], biases[:-1], gains, shifts, strict=True):
        hidden = torch.baddbmm(bias, hidden, weight)
        hidden = torch.addcmul(shift, functional.layer_norm(hidden, hidden.shape[-1:]), gain).relu_()
    return torch.baddbmm(biases[-1], hidden, weights[-1]).squeeze(-1)


def better_action(critic: CriticEnsemble, normalised: Tensor, actions: Tensor, others: Tensor) -> Tensor:
    """Of two actions [B, A] per observation, the one that the ensemble values higher on average; `others` in a tie.

    Source: arXiv:2311.02198. Differs: the mean over the whole ensemble, not the minimum of a random subset.
    """
    parameters = critic.tensors()
    mine, theirs = (critic_values(parameters, normalised, each).mean(0) for each in (actions, others))
    return torch.where((mine > theirs)[:, None], actions, others)
