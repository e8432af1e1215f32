"""What PPO, APPO and IMPALA share: RLPD's actor with a value network, checks of their losses, and the saved policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import Tensor, nn

from dopamine_rl.errors import Diverged
from dopamine_rl.policy import PolicyState, hidden_widths, load_policy
from dopamine_rl.types import LabelColumns
from learner.algorithms.acting import RunnerSample
from learner.algorithms.common import ActingAlgorithm, TrainingSetup, configure
from learner.algorithms.finite import FIX, FiniteWeights
from learner.algorithms.networks import GaussianActor
from learner.config import LearnerConfig

HELD = "held"
"""Batch column of the held potential and its age, which are part of the shaped task's state."""


class ActorCriticModule(TorchRLModule, InferenceOnlyAPI, ValueFunctionAPI):
    """RLPD's actor with a squashed mean, an unsquashed Gaussian around it, and a value network."""

    observation_space: Any
    action_space: Any
    model_config: Any

    def setup(self) -> None:
        """Build the networks; with `initial_policy` the actor starts from the cloned mean."""
        learner: LearnerConfig = self.model_config["learner"]
        observations, actions = self.observation_space.shape[0], self.action_space.shape[0]
        self.actor = GaussianActor(observations, actions, self.model_config["actor_hidden"], learner.initial_std)
        if self.model_config["initial_policy"] and not self.inference_only:
            self.actor.start_from(load_policy(Path(self.model_config["initial_policy"])))
        if not self.inference_only:
            torch.set_num_threads(learner.threads)
            self.value = _value_network(observations + 2 * learner.critic_sees_potential, learner.hidden)

    def get_non_inference_attributes(self) -> list[str]:
        """Attributes that env runners do not need."""
        return ["value"]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.distribution_inputs(self.actor, batch)}

    @staticmethod
    def distribution_inputs(actor: GaussianActor, batch: dict[str, Any]) -> Tensor:
        """Mean and log standard deviation of an actor's actions, float [B, 2 A]."""
        mean, log_std = actor(actor.normalise(batch[Columns.OBS]))
        return torch.cat((mean.tanh(), log_std), -1)

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """State values, float [B]; with `critic_sees_potential` of the shaped task's full state."""
        observations = self.actor.normalise(batch[Columns.OBS])
        if self.model_config["learner"].critic_sees_potential:
            observations = torch.cat((observations, batch[HELD]), -1)
        return self.value(observations).squeeze(-1)


def _value_network(observation_size: int, hidden: tuple[int, ...]) -> nn.Sequential:
    sizes = [observation_size, *hidden]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


class HeldPotential(ConnectorV2):
    """Adds the held potential and its age at every observation to the batch, from the labels of each fragment."""

    def __call__(self, *, batch: dict[str, Any], episodes: list[Any], **kwargs: Any) -> Any:
        """RLlib's hook. Each fragment already has the artificial last step from which its value is bootstrapped."""
        for episode in self.single_agent_episode_iterator(episodes, agents_that_stepped_only=False):
            held = held_columns(episode.custom_data.get(f"labels/{episode.t_started}"), len(episode))
            self.add_n_batch_items(batch, HELD, held, len(episode), episode)
        return batch


def held_columns(labels: LabelColumns | None, observations: int) -> NDArray[np.float32]:
    """Held potential and its age at the T + 1 observations of a fragment, float32 [T + 1, 2]; 0 without labels."""
    if labels is None:
        return np.zeros((observations, 2), np.float32)
    potential = np.append(labels.potential, labels.next_potential[-1:])
    return np.stack((potential, np.append(labels.phase, labels.next_phase[-1:])), -1).astype(np.float32)


class FiniteLosses(FiniteWeights):
    """A mixin for RLlib learners: stops at the first non-finite loss, before it reaches the weights."""

    metrics: Any
    LOSSES: Sequence[str]
    """Terms of the loss that must be finite; clipping can hide an infinite one from the total."""

    def compute_loss_for_module(self, *, module_id: str, **kwargs: Any) -> Tensor:
        """The total loss of one minibatch.

        Raises:
            Diverged: the loss or one of its terms is not finite.
        """
        loss = torch.as_tensor(super().compute_loss_for_module(module_id=module_id, **kwargs))  # type: ignore[misc]
        terms = [torch.as_tensor(self.metrics.peek((module_id, name))) for name in self.LOSSES]
        values = torch.stack([term.detach().to(loss.device) for term in (*terms, loss)]).tolist()
        for name, value in zip((*self.LOSSES, "total_loss"), values, strict=True):
            if not math.isfinite(value):
                raise Diverged(name, value, self.number_of_update(), FIX)
        return loss


class ActorCriticAlgorithm(ActingAlgorithm):
    """A mixin for RLlib algorithms whose learner updates an ActorCriticModule from fragments."""

    metrics: Any

    def _fragments(self, samples: list[RunnerSample]) -> list[Any]:
        """The fragments of samples, whose metrics are added to the report."""
        self.metrics.aggregate([metrics for _, metrics in samples], key=ENV_RUNNER_RESULTS)
        return [fragment for fragments, _ in samples for fragment in fragments]

    def _update(self, fragments: list[Any], **options: Any) -> None:
        """Update the networks from fragments; `options` are those of RLlib's `LearnerGroup.update`."""
        steps = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: steps}
        results = self.learner_group.update(episodes=fragments, timesteps=timesteps, **options)
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        self.acting.updates += 1

    def policy_state(self) -> PolicyState:
        """The policy's weights, for `save_policy` and DeterministicPolicy."""
        weights = self.learner_group.get_weights()[DEFAULT_MODULE_ID]
        return {name: values for name, values in weights.items() if name.startswith("actor.")}


def steps_of(fragments: Sequence[Any]) -> int:
    """Environment steps of fragments, in total."""
    return sum(len(fragment) for fragment in fragments)


def _held_potential(observation_space: Any, action_space: Any) -> HeldPotential:
    return HeldPotential(observation_space, action_space)


def configure_actor_critic(
    config: Any,
    setup: TrainingSetup,
    learner: LearnerConfig,
    initial_policy: str | None,
    module: type[ActorCriticModule] = ActorCriticModule,
) -> None:
    """Set environment, processes and networks on an AlgorithmConfig, in place.

    Args:
        initial_policy: a file of `save_policy` to start from, whose widths the actor then has; None starts from new
            networks with `learner.hidden`.
        module: class of the networks.
    """
    config.learner = learner
    configure(config, setup, learner)
    if learner.critic_sees_potential:
        config.learners(learner_connector=_held_potential)
    hidden = hidden_widths(load_policy(Path(initial_policy))) if initial_policy else learner.hidden
    model_config = {"learner": learner, "initial_policy": initial_policy, "actor_hidden": hidden}
    config.rl_module(rl_module_spec=RLModuleSpec(module_class=module, model_config=model_config))
