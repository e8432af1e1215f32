"""One update of critics, actor and temperature in plain torch: RLPD without Ray.

With potentials held between scored frames, the held value and its age are state of the shaped process, so that shaping keeps
the optimal policy exactly for critics that see them (`critic_sees_potential`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from learner.algorithms.losses import actor_loss, alpha_loss, critic_loss, critic_target
from learner.algorithms.networks import CriticEnsemble, Policy, critic_values
from learner.config import LearnerConfig

LOSSES = ("critic_loss", "q_mean", "actor_loss", "entropy", "alpha")
"""What an update reports, in this order."""
ACTOR_LOSSES = ("actor_loss", "entropy")
"""Those that only an update which moves the actor has."""


@dataclass(frozen=True)
class Agent:
    """The networks of one agent.

    Args:
        policy: what acts.
        critic, target: the ensemble and its slow copy.
        log_alpha: log of the temperature, a scalar parameter.
    """

    policy: Policy
    critic: CriticEnsemble
    target: CriticEnsemble
    log_alpha: nn.Parameter


def build_agent(
    observation_size: int, action_size: int, config: LearnerConfig, base_hidden: Sequence[int] | None = None
) -> Agent:
    """Fresh networks; the targets begin as copies of the critics. `base_hidden` is that of networks.Policy."""
    sizes = (observation_size, action_size, config.hidden)
    seen = observation_size + 2 * config.critic_sees_potential
    critic, target = (CriticEnsemble(seen, action_size, config.hidden, config.critics) for _ in range(2))
    target.load_state_dict(critic.state_dict())
    target.requires_grad_(False)
    policy = Policy(*sizes, config.initial_std, config.residual_scale, base_hidden)
    return Agent(policy, critic, target, nn.Parameter(torch.tensor(math.log(config.initial_alpha))))


class Updater:
    """Applies updates to the networks it is given, in place.

    Args:
        networks: what is updated.
        settings: learning rates, ensemble and schedule.
        gamma: discount.
        seed: of the action noise and the choice of target critics.
    """

    def __init__(self, networks: Agent, settings: LearnerConfig, gamma: float, seed: int) -> None:
        self.networks, self.settings, self.gamma, self.updates = networks, settings, gamma, 0
        self._target_entropy = settings.entropy_per_dimension * networks.policy.actor.mean.out_features
        self.actor_parameters: list[Tensor] = list(networks.policy.actor.parameters())
        self.critic_parameters: list[Tensor] = list(networks.critic.parameters())
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
        """Move the critics and their targets, and every `actor_every` updates the actor and α too.

        Args:
            batch: obs, next_obs float [B, D]; actions [B, A]; rewards, terminated [B]; where the critics see the held
                potential also potential, next_potential, phase, next_phase [B].
        Returns:
            float [5] in the order of LOSSES; NaN for the actor's where it did not move.
        """
        normalise = self.networks.policy.actor.normalise
        observations, next_observations = normalise(batch["obs"]), normalise(batch["next_obs"])
        alpha = self.networks.log_alpha.detach().exp()
        seen = self._seen(observations, batch, "potential", "phase")
        critic = self._update_critic(seen, next_observations, batch, alpha)
        self.updates += 1
        if self.moves_actor(self.updates):
            actor = self._update_actor(observations, seen, alpha)
        else:
            actor = torch.full((2,), math.nan, device=self._device)
        return torch.cat((critic, actor, alpha[None]))

    def moves_actor(self, update: int) -> bool:
        """True if the update of this number (from 1) moves the actor and α too."""
        return update > self.settings.critic_warmup_updates and update % self.settings.actor_every == 0

    def _seen(self, observations: Tensor, batch: dict[str, Tensor], *held: str) -> Tensor:
        """What the critics are given, [B, D] or [B, D + 2]."""
        if not self.settings.critic_sees_potential:
            return observations
        return torch.cat((observations, *(batch[name][:, None] for name in held)), -1)

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, device=self._device)

    def _update_critic(self, seen: Tensor, following: Tensor, batch: dict[str, Tensor], alpha: Tensor) -> Tensor:
        networks, settings = self.networks, self.settings
        with torch.no_grad():
            actions, log_prob = networks.policy.sample(following, self._noise(batch["actions"]))
            seen_next = self._seen(following, batch, "next_potential", "next_phase")
            next_q = critic_values(networks.target.tensors(self._members()), seen_next, actions)
            entropy = log_prob if settings.entropy_backup else None
            target = critic_target(batch["rewards"], batch["terminated"], next_q, entropy, self.gamma, alpha)
        q = networks.critic(seen, batch["actions"])
        loss = critic_loss(q, target)
        self._descend("critic", self.critic_parameters, loss)
        with torch.no_grad():
            torch._foreach_lerp_(self._target_parameters, self.critic_parameters, settings.tau)
        return torch.stack((loss.detach(), q.detach().mean()))

    def _members(self) -> Tensor | None:
        total = self.networks.target.weights[0].shape[0]
        if self.settings.target_critics >= total:
            return None
        return torch.randperm(total, generator=self.generator, device=self._device)[: self.settings.target_critics]

    def _update_actor(self, observations: Tensor, seen: Tensor, alpha: Tensor) -> Tensor:
        networks = self.networks
        width = networks.policy.actor.mean.out_features
        actions, log_prob = networks.policy.sample(
            observations, self._noise(observations.new_empty(len(observations), width))
        )
        q = critic_values(networks.critic.tensors(), seen, actions)
        loss = actor_loss(log_prob, q, alpha)
        # The two losses share no gradient, so one pass backward serves both.
        temperature = alpha_loss(networks.log_alpha, log_prob, self._target_entropy)
        self._descend("actor", [*self.actor_parameters, networks.log_alpha], loss + temperature)
        return torch.stack((loss.detach(), -log_prob.detach().mean()))

    def _descend(self, name: str, parameters: list[Tensor], loss: Tensor) -> None:
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        self.optimizers[name].step()
