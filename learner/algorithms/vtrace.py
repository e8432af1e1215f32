"""APPO and IMPALA: on-policy learning whose actors wait for nobody; V-trace corrects for their older policies.

Batches are made of the fragments that are ready, whoever sampled them, and env runners go on while the learner updates.
The losses are RLlib's, with two differences. A fragment's end is bootstrapped from the value of its last observation:
RLlib's V-trace gives the artificial step after it a reward of 0, so that its target, which the step before it learns
from, loses the value, as if every fragment ended in a terminal state of worth 0. And V-trace runs over whole fragments:
RLlib cuts the batch into rows of `rollout_fragment_length`, but a fragment with its artificial step is longer.

Source: arXiv:1802.01561 (IMPALA, V-trace), arXiv:1912.00167 (APPO, there IMPACT). Differs: no replay of batches; APPO's
target policy is the policy at the start of a batch's passes, which is what its ratio is clipped against.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from ray.rllib.algorithms.appo import APPO, APPOConfig
from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.algorithms.impala import IMPALA, IMPALAConfig
from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY, Learner
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS, TargetNetworkAPI
from ray.rllib.utils.metrics import LEARNER_UPDATE_TIMER, SYNCH_WORKER_WEIGHTS_TIMER, TIMERS
from torch import Tensor

from learner.algorithms.actor_critic import (
    ActorCriticAlgorithm,
    ActorCriticModule,
    FiniteLosses,
    configure_actor_critic,
    steps_of,
)
from learner.algorithms.common import TrainingSetup
from learner.algorithms.networks import GaussianActor
from learner.config import LearnerConfig


class TargetActorModule(ActorCriticModule, TargetNetworkAPI):
    """An ActorCriticModule that also has a target of its actor."""

    target_actor: GaussianActor

    def make_target_networks(self) -> None:
        """Make the target, a copy of the actor."""
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        """The actor and its target."""
        return [(self.actor, self.target_actor)]

    def forward_target(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The target's distribution of actions."""
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: self.distribution_inputs(self.target_actor, batch)}

    def get_non_inference_attributes(self) -> list[str]:
        """Attributes that env runners do not need."""
        return [*super().get_non_inference_attributes(), "target_actor"]


class _OneRow:
    """An algorithm's config that makes RLlib's losses take a batch as one row of fragments.

    Args:
        config: the algorithm's.
        length: of the batch, environment steps with the artificial ones.
    """

    def __init__(self, config: Any, length: int) -> None:
        self._config, self._length = config, length

    def get_rollout_fragment_length(self) -> int:
        """Length of a row."""
        return self._length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


class VTraceLearner(FiniteLosses):
    """A mixin for RLlib's IMPALA and APPO learners: whole, bootstrapped fragments; updates in the caller's thread."""

    module: Any

    def build(self) -> None:
        """Build the learner, and end its thread: errors of updates there would never reach the caller."""
        super().build()  # type: ignore[misc]
        self.shutdown()  # type: ignore[attr-defined]

    update = Learner.update

    def compute_loss_for_module(self, *, module_id: str, **kwargs: Any) -> Tensor:
        """The total loss of a batch; the reward of each artificial step is its value, so that its target is too."""
        batch = kwargs["batch"]
        mask, rewards = batch[Columns.LOSS_MASK], batch[Columns.REWARDS]
        with torch.no_grad():
            values = self.module[module_id].unwrapped().compute_values(batch)
        kwargs["batch"] = {**batch, Columns.REWARDS: torch.where(mask, rewards, values)}
        kwargs["config"] = _OneRow(kwargs["config"], len(rewards))
        return super().compute_loss_for_module(module_id=module_id, **kwargs)


class ActorIMPALALearner(VTraceLearner, IMPALATorchLearner):  # type: ignore[misc]
    """RLlib's IMPALA learner, with the differences named above."""

    LOSSES = ("mean_pi_loss", "mean_vf_loss", ENTROPY_KEY)


class ActorAPPOLearner(VTraceLearner, APPOTorchLearner):  # type: ignore[misc]
    """RLlib's APPO learner, with the differences named above."""

    LOSSES = (POLICY_LOSS_KEY, VF_LOSS_KEY, ENTROPY_KEY)


class ActorIMPALAConfig(IMPALAConfig):
    """IMPALA's configuration, plus our LearnerConfig."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or ActorIMPALA)
        self.learner = LearnerConfig(algorithm="impala")

    def get_default_learner_class(self) -> type[ActorIMPALALearner]:
        """The learner that checks its losses."""
        return ActorIMPALALearner


class ActorAPPOConfig(APPOConfig):
    """APPO's configuration, plus our LearnerConfig."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or ActorAPPO)
        self.learner = LearnerConfig(algorithm="appo")

    def get_default_learner_class(self) -> type[ActorAPPOLearner]:
        """The learner that checks its losses."""
        return ActorAPPOLearner


class VTraceAlgorithm(ActorCriticAlgorithm):
    """A mixin for RLlib's IMPALA and APPO: learns from the fragments that are ready."""

    def setup(self, config: Any) -> None:
        """Set up RLlib's algorithm; no fragment is ready."""
        super().setup(config)
        self._ready: list[Any] = []

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state from `get_state`; fragments from before are discarded."""
        super().set_state(state)
        self._ready = []

    def training_step(self) -> None:
        """Collect the fragments that arrived and request new ones; with a full batch, update while they are sampled."""
        self.acting.request()
        self._ready += self._fragments(self.acting.take())
        self.acting.request()
        if steps_of(self._ready) < self.config.total_train_batch_size:
            return
        batch, self._ready = self._ready, []
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            self._update(batch, num_epochs=self.config.num_epochs)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self.acting.publish()


class ActorIMPALA(VTraceAlgorithm, IMPALA):
    """RLlib's IMPALA with RLPD's policy format, robust against slow and hung env runners."""

    @classmethod
    def get_default_config(cls) -> Any:
        """An ActorIMPALAConfig."""
        return ActorIMPALAConfig()


class ActorAPPO(VTraceAlgorithm, APPO):
    """RLlib's APPO with RLPD's policy format, robust against slow and hung env runners."""

    @classmethod
    def get_default_config(cls) -> Any:
        """An ActorAPPOConfig."""
        return ActorAPPOConfig()


def make_impala_config(
    setup: TrainingSetup, learner: LearnerConfig, initial_policy: str | None = None
) -> ActorIMPALAConfig:
    """Make IMPALA's configuration; `.build_algo()` starts it. IMPALA makes one pass over each batch.

    Args:
        setup, learner, initial_policy: as for `make_ppo_config`.
    """
    config = ActorIMPALAConfig()
    configure_actor_critic(config, setup, learner, initial_policy)
    _configure_vtrace(config, learner)
    return config


def make_appo_config(
    setup: TrainingSetup, learner: LearnerConfig, initial_policy: str | None = None
) -> ActorAPPOConfig:
    """Make APPO's configuration; `.build_algo()` starts it. APPO learns from the labeller's rewards.

    Args:
        setup, learner, initial_policy: as for `make_ppo_config`.
    """
    config = ActorAPPOConfig()
    configure_actor_critic(config, setup, learner, initial_policy, TargetActorModule)
    _configure_vtrace(config, learner)
    config.training(
        num_epochs=learner.ppo_epochs,
        clip_param=learner.ppo_clip,
        use_kl_loss=False,
        use_circular_buffer=False,
        target_network_update_freq=0,  # after every batch
        tau=1.0,
    )
    return config


def _configure_vtrace(config: Any, learner: LearnerConfig) -> None:
    config.use_env_runner_state_server = False  # `Acting` sends the weights
    config.training(
        lr=learner.ppo_lr,
        train_batch_size_per_learner=learner.vtrace_batch_size,
        entropy_coeff=learner.ppo_entropy,
        grad_clip=0.5,
        num_gpu_loader_threads=0,
    )
