"""A minimal single-file off-policy loop: separate critics as `nn.Sequential`, Adam, one array per column.

It does the same computation as our learner (layer normalisation, minimum of two targets, one actor and one temperature
update per step) without a framework, as the baseline of the benchmark.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


def hidden_layers(fan_in: int, hidden: tuple[int, ...], normalised: bool) -> nn.Sequential:
    """Linear, LayerNorm if `normalised`, ReLU for each width."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(fan_in, width), *([nn.LayerNorm(width)] if normalised else []), nn.ReLU()]
        fan_in = width
    return nn.Sequential(*layers)


def _network(fan_in: int, fan_out: int, hidden: tuple[int, ...], normalised: bool) -> nn.Sequential:
    return nn.Sequential(*hidden_layers(fan_in, hidden, normalised), nn.Linear(hidden[-1], fan_out))


class BareLoop:
    """A learner with two critics on its own arrays.

    Args:
        columns: obs, next_obs [N, D]; actions [N, A]; rewards, terminated [N].
        hidden: widths of the layers.
        batch_size: transitions per update.
    """

    def __init__(self, columns: dict[str, np.ndarray], hidden: tuple[int, ...], batch_size: int, gamma: float) -> None:
        observations, actions = columns["obs"].shape[1], columns["actions"].shape[1]
        self.columns, self.batch_size, self.gamma, self.width = columns, batch_size, gamma, actions
        self.actor = _network(observations, 2 * actions, hidden, normalised=False)
        self.critics = [_network(observations + actions, 1, hidden, normalised=True) for _ in range(2)]
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = torch.zeros(1, requires_grad=True)
        self.critic_parameters = [p for critic in self.critics for p in critic.parameters()]
        self.critic_optimizer = torch.optim.Adam(self.critic_parameters, 3e-4)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), 3e-4)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], 3e-4)
        self.rng = np.random.default_rng(0)

    def act(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Sampled actions, and the logarithm of their density."""
        mean, log_std = self.actor(observations).chunk(2, -1)
        log_std = log_std.clamp(-5, 2)
        noise = torch.randn_like(mean)
        raw = mean + log_std.exp() * noise
        squash = 2 * (math.log(2) - raw - functional.softplus(-2 * raw))
        density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi) - squash
        return raw.tanh(), density.sum(-1)

    def update(self) -> None:
        """Draw a batch and update critics, actor, temperature and targets."""
        rows = self.rng.integers(len(self.columns["rewards"]), size=self.batch_size)
        batch = {name: torch.from_numpy(values[rows]) for name, values in self.columns.items()}
        self._update_critics(batch)
        self._update_actor(batch["obs"])
        with torch.no_grad():
            for critic, target in zip(self.critics, self.targets, strict=True):
                for now, slow in zip(critic.parameters(), target.parameters(), strict=True):
                    slow.lerp_(now, 0.005)

    def _update_critics(self, batch: dict[str, Tensor]) -> None:
        with torch.no_grad():
            actions, _ = self.act(batch["next_obs"])
            joined = torch.cat((batch["next_obs"], actions), -1)
            value = torch.min(*(target(joined).squeeze(-1) for target in self.targets))
            goal = batch["rewards"] + self.gamma * (1 - batch["terminated"]) * value
        joined = torch.cat((batch["obs"], batch["actions"]), -1)
        loss = sum(((critic(joined).squeeze(-1) - goal).square().mean() for critic in self.critics), torch.zeros(()))
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()

    def _update_actor(self, observations: Tensor) -> None:
        for parameter in self.critic_parameters:
            parameter.requires_grad_(False)
        actions, density = self.act(observations)
        joined = torch.cat((observations, actions), -1)
        q = torch.stack([critic(joined).squeeze(-1) for critic in self.critics])
        alpha = self.log_alpha.detach().exp()
        self.actor_optimizer.zero_grad()
        ((alpha * density).mean() - q.mean()).backward()
        self.actor_optimizer.step()
        for parameter in self.critic_parameters:
            parameter.requires_grad_(True)
        self.alpha_optimizer.zero_grad()
        (-(self.log_alpha.exp() * (density.detach() - self.width)).mean()).backward()
        self.alpha_optimizer.step()
