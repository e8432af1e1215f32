"""PPO with the same actor network, environments and callbacks as RLPD; it may begin with the same cloned policy."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from dopamine_rl.policy import PolicyState, load_policy
from learner.algorithms.common import CompleteReports, Task, configure
from learner.algorithms.networks import GaussianActor
from learner.config import LearnerConfig


class PPOModule(TorchRLModule, InferenceOnlyAPI, ValueFunctionAPI):
    """RLPD's actor with its mean squashed, a plain Gaussian around it, and a value network."""

    observation_space: Any
    action_space: Any
    model_config: Any

    def setup(self) -> None:
        """Build the networks; with `initial_policy` the actor begins with the cloned mean."""
        learner: LearnerConfig = self.model_config["learner"]
        observations, actions = self.observation_space.shape[0], self.action_space.shape[0]
        self.actor = GaussianActor(observations, actions, learner.hidden, learner.initial_std)
        if self.model_config["initial_policy"] and not self.inference_only:
            self.actor.start_from(load_policy(Path(self.model_config["initial_policy"])))
        if not self.inference_only:
            torch.set_num_threads(learner.threads)
            self.value = _value_network(observations, learner.hidden)

    def get_non_inference_attributes(self) -> list[str]:
        """What env runners do without."""
        return ["value"]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        mean, log_std = self.actor(self.actor.normalise(batch[Columns.OBS]))
        return {Columns.ACTION_DIST_INPUTS: torch.cat((mean.tanh(), log_std), -1)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """State values, float [B]."""
        return self.value(self.actor.normalise(batch[Columns.OBS])).squeeze(-1)


def _value_network(observation_size: int, hidden: tuple[int, ...]) -> nn.Sequential:
    sizes = [observation_size, *hidden]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


class ActorPPO(CompleteReports, PPO):
    """RLlib's PPO, with the policy in the form that RLPD's has."""

    learner_group: Any

    def policy_state(self) -> PolicyState:
        """The policy's arrays, for `save_policy` and DeterministicPolicy."""
        weights = self.learner_group.get_weights()[DEFAULT_MODULE_ID]
        return {name: values for name, values in weights.items() if name.startswith("actor.")}


def make_ppo_config(task: Task, learner: LearnerConfig, initial_policy: str | None = None) -> PPOConfig:
    """PPO's configuration; `.build_algo()` starts it. It learns from the reward that the labeller writes.

    Args:
        task: environment, callbacks, discount, seed.
        learner: the typed settings; those named ppo_* and the ones of the processes count here.
        initial_policy: a file of `save_policy` to begin with, or None.
    """
    config = PPOConfig(algo_class=ActorPPO)
    configure(config, task, learner)
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
    model_config = {"learner": learner, "initial_policy": initial_policy}
    config.rl_module(rl_module_spec=RLModuleSpec(module_class=PPOModule, model_config=model_config))
    return config
