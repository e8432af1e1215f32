"""RLPD's RLModule and Learner for RLlib: they build the networks, pass batches to `Updater`, and log its losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from dopamine_rl.errors import Diverged
from dopamine_rl.policy import load_eyes, load_policy
from learner.algorithms.finite import FIX, FiniteWeights
from learner.algorithms.networks import better_action
from learner.algorithms.updater import ACTOR_LOSSES, LOSSES, Agent, Updater, build_agent
from learner.feed import batch_columns


class RLPDModule(TorchRLModule, InferenceOnlyAPI):
    """Policy, critics and temperature; env runners have the policy, and with `choose` the target critics.

    A learned encoder is part of it, so its weights travel with those of the policy.
    """

    observation_space: Any
    action_space: Any
    model_config: Any

    def setup(self) -> None:
        """Build the networks."""
        sizes = self.observation_space.shape[0], self.action_space.shape[0]
        config = self.model_config
        agent = build_agent(*sizes, config["learner"], config["base_hidden"], config["sees"])
        self.policy, self.vision = agent.policy, agent.vision
        if self.model_config["learner"].choose or not self.inference_only:
            self.target = agent.target
        if not self.inference_only:
            self.critic, self.log_alpha = agent.critic, agent.log_alpha

    def agent(self) -> Agent:
        """The networks, for the updater."""
        return Agent(self.policy, self.critic, self.target, self.log_alpha, self.vision)

    def start_from(self, path: Path) -> None:
        """Start from a cloned policy's file, and from the encoder in it if that is learned."""
        clone, eyes = load_policy(path), load_eyes(path)
        if self.vision is not None and eyes is not None:
            self.vision.start_from(eyes)
            clone = self.vision.widened(clone)
        self.policy.start_from(clone)

    def get_non_inference_attributes(self) -> list[str]:
        """Attributes that env runners do not need."""
        needed = ("target",) if self.model_config["learner"].choose else ()
        return [name for name in ("critic", "target", "log_alpha") if name not in needed]

    @torch.no_grad()
    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        observations = self._see(batch[Columns.OBS])
        return {Columns.ACTIONS: self._choose(observations, self.policy.act(observations))}

    @torch.no_grad()
    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        observations = self._see(batch[Columns.OBS])
        noise = torch.randn(len(observations), self.action_space.shape[0], device=observations.device)
        return {Columns.ACTIONS: self._choose(observations, self.policy.sample(observations, noise)[0])}

    def _see(self, observations: Tensor) -> Tensor:
        """Normalised vectors of what an environment shows."""
        normalised: Tensor = self.policy.actor.normalise(
            observations if self.vision is None else self.vision(observations)
        )
        return normalised

    def _choose(self, observations: Tensor, actions: Tensor) -> Tensor:
        """With `choose`, the better of these actions and the cloned policy's."""
        if not self.model_config["learner"].choose:
            return actions
        return better_action(self.target, observations, actions, self.policy.base_action(observations))


def require_finite_losses(losses: Tensor, trains_actor: Sequence[bool], first: int) -> None:
    """Raise Diverged for the first non-finite loss.

    Args:
        losses: float [updates, 5] in the order of LOSSES.
        trains_actor: whether each update trains the actor; the ACTOR_LOSSES of the others may be NaN.
        first: number of the first update.
    """
    exempt = torch.tensor([name in ACTOR_LOSSES for name in LOSSES]) & ~torch.tensor(trains_actor)[:, None]
    losses = losses.detach().cpu()
    for update, column in (~losses.isfinite() & ~exempt).nonzero().tolist():
        raise Diverged(LOSSES[column], losses[update, column].item(), first + update, FIX)


class RLPDLearner(FiniteWeights, TorchLearner):
    """Applies many updates per call, from columns [updates, B, ...]; no connectors, one set of metrics."""

    config: Any
    module: Any

    def number_of_update(self) -> int:
        """The updater's counter."""
        return self.updater.updates

    def build(self) -> None:
        """Build the module and load the initial policy."""
        torch.set_num_threads(self.config.learner.threads)
        super().build()
        if self.config.initial_policy:
            self.module[DEFAULT_MODULE_ID].start_from(Path(self.config.initial_policy))

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Create the updater and register its optimizers, so that RLlib checkpoints them."""
        self.updater = Updater(
            self.module[module_id].agent(), self.config.learner, self.config.gamma, self.config.seed or 0
        )
        for name, optimizer in self.updater.optimizers.items():
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            self.register_optimizer(module_id=module_id, optimizer_name=name, optimizer=optimizer, params=parameters)

    def _update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        columns = batch[DEFAULT_MODULE_ID]
        count = len(columns["rewards"])
        first = self.updater.updates + 1
        names = batch_columns(self.config.learner)
        losses = torch.stack(
            [self.updater.update({name: columns[name][index] for name in names}) for index in range(count)]
        )
        require_finite_losses(losses, [self.updater.trains_actor(first + index) for index in range(count)], first)
        means = dict(zip(LOSSES, losses.nanmean(0).tolist(), strict=True))  # NaN if no update trained the actor
        for name, value in means.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, name), value, window=1)
        self.metrics.log_value((DEFAULT_MODULE_ID, "updates"), self.updater.updates, reduce="max")
        return {}, {DEFAULT_MODULE_ID: means["critic_loss"]}, {}

    def compute_loss_for_module(self, **kwargs: Any) -> Any:
        """Not used: the updater computes and applies three losses separately."""
        raise NotImplementedError

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, plus the updater's counter and random generator."""
        updater = {"updates": self.updater.updates, "generator": self.updater.generator.get_state().numpy()}
        return {**super().get_state(*args, **kwargs), "updater": updater}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state from `get_state`."""
        super().set_state(state)
        if "updater" in state:
            self.updater.updates = state["updater"]["updates"]
            self.updater.generator.set_state(torch.from_numpy(np.array(state["updater"]["generator"])))
