"""PPO with the actor network, environments and callbacks of RLPD; it can start from the same cloned policy."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.algorithms.ppo.ppo import LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)
from torch import Tensor, nn

from dopamine_rl.errors import Diverged
from dopamine_rl.policy import PolicyState, load_policy
from dopamine_rl.types import LabelColumns
from learner.algorithms.common import ActingAlgorithm, TrainingSetup, configure
from learner.algorithms.finite import FIX, FiniteWeights
from learner.algorithms.networks import GaussianActor
from learner.config import LearnerConfig

HELD = "held"
"""Batch column of the held potential and its age, which are part of the shaped task's state."""
FINITE_LOSSES = (POLICY_LOSS_KEY, VF_LOSS_KEY, LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY, ENTROPY_KEY)
"""Terms of PPO's loss that must be finite; clipping can hide an infinite one from the total."""


class PPOModule(TorchRLModule, InferenceOnlyAPI, ValueFunctionAPI):
    """RLPD's actor with a squashed mean, an unsquashed Gaussian around it, and a value network."""

    observation_space: Any
    action_space: Any
    model_config: Any

    def setup(self) -> None:
        """Build the networks; with `initial_policy` the actor starts from the cloned mean."""
        learner: LearnerConfig = self.model_config["learner"]
        observations, actions = self.observation_space.shape[0], self.action_space.shape[0]
        self.actor = GaussianActor(observations, actions, learner.hidden, learner.initial_std)
        if self.model_config["initial_policy"] and not self.inference_only:
            self.actor.start_from(load_policy(Path(self.model_config["initial_policy"])))
        if not self.inference_only:
            torch.set_num_threads(learner.threads)
            self.value = _value_network(observations + 2 * learner.critic_sees_potential, learner.hidden)

    def get_non_inference_attributes(self) -> list[str]:
        """Attributes that env runners do not need."""
        return ["value"]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        mean, log_std = self.actor(self.actor.normalise(batch[Columns.OBS]))
        return {Columns.ACTION_DIST_INPUTS: torch.cat((mean.tanh(), log_std), -1)}

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


class ActorPPOLearner(FiniteWeights, PPOTorchLearner):
    """RLlib's PPO learner; stops at the first non-finite loss, before it reaches the weights."""

    metrics: Any

    def compute_loss_for_module(self, *, module_id: str, **kwargs: Any) -> Tensor:
        """The total loss of one minibatch.

        Raises:
            Diverged: the loss or one of its terms is not finite.
        """
        loss = torch.as_tensor(super().compute_loss_for_module(module_id=module_id, **kwargs))
        terms = [torch.as_tensor(self.metrics.peek((module_id, name))) for name in FINITE_LOSSES]
        values = torch.stack([term.detach().to(loss.device) for term in (*terms, loss)]).tolist()
        for name, value in zip((*FINITE_LOSSES, "total_loss"), values, strict=True):
            if not math.isfinite(value):
                raise Diverged(name, value, self.number_of_update(), FIX)
        return loss


class ActorPPOConfig(PPOConfig):
    """PPO's configuration, plus our LearnerConfig."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or ActorPPO)
        self.learner = LearnerConfig(algorithm="ppo")

    def get_default_learner_class(self) -> type[ActorPPOLearner]:
        """The learner that checks its losses."""
        return ActorPPOLearner

    def validate_train_batch_size_vs_rollout_fragment_length(self) -> None:
        """Nothing to refuse, unlike for RLlib's sampling: ours collects fragments until the batch is full."""


class ActorPPO(ActingAlgorithm, PPO):
    """RLlib's PPO with RLPD's policy format, robust against slow and hung env runners."""

    config: Any
    metrics: Any
    learner_group: Any

    @classmethod
    def get_default_config(cls) -> Any:
        """An ActorPPOConfig."""
        return ActorPPOConfig()

    def training_step(self) -> None:
        """Sample a batch with the current policy, update, and publish the new weights.

        On-policy learning waits for every env runner. One that hangs is given up after `sample_timeout_s`; the others
        fill the batch.
        """
        config = self.config
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            episodes = self._sample(config.total_train_batch_size)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            steps = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)
            results = self.learner_group.update(
                episodes=episodes,
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: steps},
                num_epochs=config.num_epochs,
                minibatch_size=config.minibatch_size,
                shuffle_batch_per_epoch=config.shuffle_batch_per_epoch,
            )
            self.metrics.aggregate(results, key=LEARNER_RESULTS)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self.acting.publish()

    def _sample(self, environment_steps: int) -> list[Any]:
        """Fragments with at least that many environment steps in total, sampled with the current policy."""
        episodes: list[Any] = []
        while sum(len(episode) for episode in episodes) < environment_steps:
            self.acting.request()
            samples = self.acting.take(everyone=True)
            self.metrics.aggregate([metrics for _, metrics in samples], key=ENV_RUNNER_RESULTS)
            episodes += [episode for fragments, _ in samples for episode in fragments]
        return episodes

    def policy_state(self) -> PolicyState:
        """The policy's weights, for `save_policy` and DeterministicPolicy."""
        weights = self.learner_group.get_weights()[DEFAULT_MODULE_ID]
        return {name: values for name, values in weights.items() if name.startswith("actor.")}


def _held_potential(observation_space: Any, action_space: Any) -> HeldPotential:
    return HeldPotential(observation_space, action_space)


def make_ppo_config(setup: TrainingSetup, learner: LearnerConfig, initial_policy: str | None = None) -> ActorPPOConfig:
    """Make PPO's configuration; `.build_algo()` starts it. PPO learns from the rewards written by the labeller.

    Args:
        setup: environment, callbacks, discount, seed.
        learner: settings; of the algorithm's, only ppo_* and those shared by all algorithms apply.
        initial_policy: a file of `save_policy` to start from, or None.
    """
    config = ActorPPOConfig()
    config.learner = learner
    configure(config, setup, learner)
    config.training(
        lr=learner.ppo_lr,
        train_batch_size_per_learner=learner.ppo_batch_size,
        num_epochs=learner.ppo_epochs,
        minibatch_size=learner.ppo_minibatch_size,
        lambda_=learner.gae_lambda,
        clip_param=learner.ppo_clip,
        entropy_coeff=learner.ppo_entropy,
        use_kl_loss=False,
        grad_clip=0.5,
    )
    if learner.critic_sees_potential:
        config.learners(learner_connector=_held_potential)
    model_config = {"learner": learner, "initial_policy": initial_policy}
    config.rl_module(rl_module_spec=RLModuleSpec(module_class=PPOModule, model_config=model_config))
    return config
