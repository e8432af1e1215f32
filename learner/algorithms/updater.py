"""Updates of critics, actor and temperature in plain torch: RLPD without Ray.

The potential is held between scored frames, so the held value and its age are part of the shaped MDP's state. Shaping
preserves the optimal policy exactly only for critics that see them (`critic_sees_potential`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from learner.algorithms.losses import actor_loss, alpha_loss, critic_loss, critic_target, imitation_loss
from learner.algorithms.networks import CriticEnsemble, Policy, critic_values
from learner.algorithms.vision import Vision, VisionShape
from learner.config import LearnerConfig

LOSSES = ("critic_loss", "q_mean", "actor_loss", "entropy", "alpha")
"""Metrics of an update, in this order."""
ACTOR_LOSSES = ("actor_loss", "entropy")
"""Metrics that only updates of the actor have."""


@dataclass(frozen=True)
class Agent:
    """The networks of one agent.

    Args:
        policy: the policy.
        critic, target: the critic ensemble and its target networks.
        log_alpha: log of the temperature, a scalar parameter.
        vision: of packed observations; None reads vectors alone.
    """

    policy: Policy
    critic: CriticEnsemble
    target: CriticEnsemble
    log_alpha: nn.Parameter
    vision: Vision | None = None


def build_agent(
    observation_size: int,
    action_size: int,
    config: LearnerConfig,
    base_hidden: Sequence[int] | None = None,
    sees: VisionShape | None = None,
) -> Agent:
    """Initialise the networks; the targets start as copies of the critics.

    Args:
        base_hidden: hidden-layer widths of the cloned policy: the residual's base, or without a residual the policy
            itself; `config.hidden` if None.
        sees: how packed observations become vectors, whose size then counts; None for vectors alone.
    """
    vision = Vision(sees) if sees else None
    observation_size = sees.size if sees else observation_size
    hidden = config.hidden if config.residual_scale else base_hidden or config.hidden
    critic_input_size = observation_size + 2 * config.critic_sees_potential
    critic, target = (CriticEnsemble(critic_input_size, action_size, config.hidden, config.critics) for _ in range(2))
    target.load_state_dict(critic.state_dict())
    target.requires_grad_(False)
    policy = Policy(observation_size, action_size, hidden, config.initial_std, config.residual_scale, base_hidden)
    return Agent(policy, critic, target, nn.Parameter(torch.tensor(math.log(config.initial_alpha))), vision)


class Updater:
    """Updates networks in place.

    A learned encoder follows the critics' loss alone, on pictures that are shifted at random. There is no target
    encoder: the targets are of the next pictures as it sees them now, which costs no second network and no lag.
    Source: arXiv:2107.09645 (DrQ-v2), section 3.1.

    Args:
        networks: the networks to update.
        settings: learning rates, ensemble and schedule.
        gamma: discount.
        seed: of the action noise and the random subsets of target critics.
    """

    def __init__(self, networks: Agent, settings: LearnerConfig, gamma: float, seed: int) -> None:
        self.networks, self.settings, self.gamma, self.updates = networks, settings, gamma, 0
        self._target_entropy = settings.entropy_per_dimension * networks.policy.actor.mean.out_features
        self.actor_parameters: list[Tensor] = list(networks.policy.actor.parameters())
        self._ensemble: list[Tensor] = list(networks.critic.parameters())
        encoder = networks.vision.parameters() if networks.vision is not None else ()
        self.critic_parameters = [*self._ensemble, *(weight for weight in encoder if weight.requires_grad)]
        self._target_parameters: list[Tensor] = list(networks.target.parameters())
        self.optimizers = {
            "critic": torch.optim.Adam(self.critic_parameters, settings.critic_lr, fused=True),
            "actor": torch.optim.Adam(
                [
                    {"params": self.actor_parameters, "lr": settings.actor_lr},
                    {"params": [networks.log_alpha], "lr": settings.alpha_lr},
                ],
                fused=True,
            ),
        }
        self._device = networks.log_alpha.device
        self.generator = torch.Generator(self._device).manual_seed(seed)

    def update(self, batch: dict[str, Tensor]) -> Tensor:
        """Update the critics and their targets; every `actor_every` updates also the actor and α.

        Args:
            batch: obs, next_obs float [B, D], or packed uint8 [B, N]; actions [B, A]; rewards, terminated [B]; with
                `critic_sees_potential` also potential, next_potential, phase, next_phase [B]; with `n_step` > 1 also
                discounts [B]; with `imitation` also gains [B].
        Returns:
            float [5] in the order of LOSSES; ACTOR_LOSSES are NaN if the actor is not trained.
        """
        normalise = self.networks.policy.actor.normalise
        observations = normalise(self._see(batch["obs"]))
        with torch.no_grad():
            next_observations = normalise(self._see(batch["next_obs"]))
        alpha = self.networks.log_alpha.detach().exp()
        inputs = self._critic_input(observations, batch, "potential", "phase")
        critic_metrics = self._update_critic(inputs, next_observations, batch, alpha)
        self.updates += 1
        if self.trains_actor(self.updates):
            actor_metrics = self._update_actor(observations.detach(), inputs.detach(), batch, alpha)
        else:
            actor_metrics = torch.full((2,), math.nan, device=self._device)
        return torch.cat((critic_metrics, actor_metrics, alpha[None]))

    def trains_actor(self, update: int) -> bool:
        """True if the update with this number (from 1) also trains the actor and α."""
        return update > self.settings.critic_warmup_updates and update % self.settings.actor_every == 0

    def _see(self, observations: Tensor) -> Tensor:
        """Vectors [B, D]; of pictures, as they look after a random shift."""
        vision = self.networks.vision
        return observations if vision is None else vision(observations, self.generator)

    def _critic_input(self, observations: Tensor, batch: dict[str, Tensor], *held_columns: str) -> Tensor:
        """The critics' input, [B, D] or [B, D + 2]."""
        if not self.settings.critic_sees_potential:
            return observations
        return torch.cat((observations, *(batch[name][:, None] for name in held_columns)), -1)

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, device=self._device)

    def _update_critic(
        self, inputs: Tensor, next_observations: Tensor, batch: dict[str, Tensor], alpha: Tensor
    ) -> Tensor:
        networks, settings = self.networks, self.settings
        with torch.no_grad():
            actions, log_prob = networks.policy.sample(next_observations, self._noise(batch["actions"]))
            next_inputs = self._critic_input(next_observations, batch, "next_potential", "next_phase")
            members = networks.target.tensors(self._members())
            next_q = critic_values(members, next_inputs, actions)
            if settings.choose:
                base_q = critic_values(members, next_inputs, networks.policy.base_action(next_observations))
                next_q = torch.where(base_q.amin(0) > next_q.amin(0), base_q, next_q)
            entropy = log_prob if settings.entropy_backup else None
            discount = batch["discounts"] if settings.n_step > 1 else self.gamma
            target = critic_target(batch["rewards"], batch["terminated"], next_q, entropy, discount, alpha)
        q = networks.critic(inputs, batch["actions"])
        loss = critic_loss(q, target)
        self._descend("critic", self.critic_parameters, loss)
        with torch.no_grad():
            torch._foreach_lerp_(self._target_parameters, self._ensemble, settings.tau)
        return torch.stack((loss.detach(), q.detach().mean()))

    def _members(self) -> Tensor | None:
        """Indices of a random subset of the target critics; None for all."""
        total = self.networks.target.weights[0].shape[0]
        if self.settings.target_critics >= total:
            return None
        return torch.randperm(total, generator=self.generator, device=self._device)[: self.settings.target_critics]

    def _update_actor(self, observations: Tensor, inputs: Tensor, batch: dict[str, Tensor], alpha: Tensor) -> Tensor:
        networks, settings = self.networks, self.settings
        width = networks.policy.actor.mean.out_features
        actions, log_prob = networks.policy.sample(
            observations, self._noise(observations.new_empty(len(observations), width))
        )
        q = critic_values(networks.critic.tensors(), inputs, actions)
        loss = actor_loss(log_prob, q, alpha)
        if settings.imitation:
            mean = networks.policy.act(observations)
            imitated = imitation_loss(mean, batch["actions"], batch["gains"], settings.imitation_temperature)
            loss = loss + settings.imitation * imitated
        # The two losses share no gradients, so one backward pass is enough.
        temperature_loss = alpha_loss(networks.log_alpha, log_prob, self._target_entropy)
        self._descend("actor", [*self.actor_parameters, networks.log_alpha], loss + temperature_loss)
        return torch.stack((loss.detach(), -log_prob.detach().mean()))

    def _descend(self, name: str, parameters: list[Tensor], loss: Tensor) -> None:
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        self.optimizers[name].step()
