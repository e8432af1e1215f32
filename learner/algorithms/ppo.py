"""PPO with the actor network, environments and callbacks of RLPD; it can start from the same cloned policy."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.algorithms.ppo.ppo import LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.utils.metrics import (
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_UPDATE_TIMER,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from learner.algorithms.actor_critic import ActorCriticAlgorithm, FiniteLosses, configure_actor_critic, steps_of
from learner.algorithms.common import TrainingSetup
from learner.config import LearnerConfig


class ActorPPOLearner(FiniteLosses, PPOTorchLearner):
    """RLlib's PPO learner; stops at the first non-finite loss, before it reaches the weights."""

    LOSSES = (POLICY_LOSS_KEY, VF_LOSS_KEY, LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY, ENTROPY_KEY)


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


class ActorPPO(ActorCriticAlgorithm, PPO):
    """RLlib's PPO with RLPD's policy format, robust against slow and hung env runners."""

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
            fragments: list[Any] = []
            while steps_of(fragments) < config.total_train_batch_size:
                self.acting.request()
                fragments += self._fragments(self.acting.take(everyone=True))
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            self._update(
                fragments,
                num_epochs=config.num_epochs,
                minibatch_size=config.minibatch_size,
                shuffle_batch_per_epoch=config.shuffle_batch_per_epoch,
            )
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self.acting.publish()


def make_ppo_config(setup: TrainingSetup, learner: LearnerConfig, initial_policy: str | None = None) -> ActorPPOConfig:
    """Make PPO's configuration; `.build_algo()` starts it. PPO learns from the rewards written by the labeller.

    Args:
        setup: environment, callbacks, discount, seed.
        learner: settings; of the algorithm's, only ppo_* and those shared by all algorithms apply.
        initial_policy: a file of `save_policy` to start from, or None.
    """
    config = ActorPPOConfig()
    configure_actor_critic(config, setup, learner, initial_policy)
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
    return config
