"""Settings of the policy learner: the `cloning` and `learner` sections of a preset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dopamine_rl.errors import BadInput, require


@dataclass(frozen=True)
class CloningConfig:
    """How a policy is cloned: the `cloning` section of a preset.

    Args:
        widths: widths of the networks that are tried; the clone that succeeds most often on starts of its own is kept.
        depth: their layers.
        trials: episodes that each is tried on.
        updates: gradient updates, after which the weights with the least validation error are kept.
        batch_size: transitions in an update.
        learning_rate: Adam's, decayed to zero along a cosine.
        weight_decay: AdamW's.
        validation_share: share of the episodes that is held out.
        check_every: updates between two looks at the held-out episodes.
    """

    widths: tuple[int, ...] = (128, 256)
    depth: int = 2
    trials: int = 40
    updates: int = 4000
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    validation_share: float = 0.1
    check_every: int = 100

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Widths of the layers of every network that is tried."""
        return tuple((width,) * self.depth for width in self.widths)

    def __post_init__(self) -> None:
        require(
            "cloning",
            self,
            (
                "widths",
                bool(self.widths) and min(self.widths, default=0) >= 1,
                "give at least one width, each 1 or more",
            ),
            *(
                (name, getattr(self, name) >= 1, "give at least 1")
                for name in ("depth", "trials", "updates", "batch_size")
            ),
            ("learning_rate", 0.0 < self.learning_rate < 1.0, "give a learning rate in (0, 1)"),
            ("validation_share", 0.0 < self.validation_share < 1.0, "give a share in (0, 1)"),
            ("check_every", self.check_every >= 1, "give at least 1"),
        )


POSITIVE_COUNTS = (
    "batch_size",
    "actor_every",
    "critics",
    "target_critics",
    "replay_capacity",
    "updates_per_call",
    "num_envs_per_env_runner",
    "rollout_fragment_length",
    "steps_per_iteration",
    "threads",
)
"""Settings of the learner that make no sense below 1."""


@dataclass(frozen=True)
class LearnerConfig:
    """How a policy is learned. γ and the reward mode are given apart, because the labeller shares them.

    Args:
        algorithm: "rlpd" (replay with demonstrations) or "ppo" (on-policy).
        hidden: widths of the layers of actor and critics (a frozen base below a residual keeps its own).
        initial_std: standard deviation of the policy before squashing when learning begins.
        residual_scale: half width of a learned residual on the frozen cloned policy, in units of the action range's
            half width; 0 learns the whole policy.
        batch_size: transitions in an update.
        demo_share: share of every batch that is drawn from the demonstrations.
        updates_per_step: updates of the critics for every environment step.
        actor_every: updates of the critics for one update of actor and temperature.
        critics: size of the critic ensemble.
        target_critics: critics drawn at random for every target, of which the least value counts.
        critic_sees_potential: whether the critics (PPO's value network) are given the held potential and its age, which
            are part of the shaped task's state; the policy never is.
        tau: share of the critics that moves into their targets at every update.
        actor_lr: learning rate of the actor.
        critic_lr: learning rate of the critics.
        alpha_lr: learning rate of the temperature.
        initial_alpha: temperature when learning begins.
        entropy_per_dimension: target entropy in nats for every action dimension.
        entropy_backup: whether the critics' targets carry the entropy.
        learning_starts: transitions acted by the initial policy before the first update.
        critic_warmup_updates: updates on demonstrations and first transitions before the actor may move.
        replay_capacity: online transitions kept.
        updates_per_call: updates done between two looks at the losses, which bounds the memory of drawn batches.
        num_env_runners: processes that act; 0 acts in the driver.
        actor_resource: custom resource of which every acting process takes one, such as "sim": it spreads them over the
            nodes that offer it (`ray start --resources '{"sim": 2}'`); empty for none.
        num_envs_per_env_runner: environments in each of them.
        steps_per_iteration: environment steps between two reports.
        rollout_fragment_length: environment steps of one environment between two returns to the learner.
        num_cpus_per_env_runner: cores reserved for each of them.
        num_cpus_per_learner: cores reserved for the learner.
        num_cpus_for_driver: cores reserved for the driver under Tune.
        num_gpus_per_learner: GPUs of the learner.
        threads: torch threads of the learner.
        sample_timeout_s: how long a fragment may take before its env runner is taken for hung and started anew; RLPD's
            others go on meanwhile, PPO waits this long once. Never more than `patience_s`.
        patience_s: how long nothing at all may come from the env runners before the training ends with an error.
        restart_delay_s: pause before a failed env runner is started again.
        ppo_batch_size: environment steps of one PPO iteration.
        ppo_epochs: passes over them.
        ppo_minibatch_size: environment steps of one PPO update.
        ppo_lr: PPO's learning rate.
        ppo_clip: PPO's clipping range of the probability ratio.
        ppo_entropy: weight of PPO's entropy bonus.
        gae_lambda: λ of the generalised advantage estimate.
    Raises:
        BadInput: a value lies outside its range.
    """

    algorithm: Literal["rlpd", "ppo"] = "rlpd"
    hidden: tuple[int, ...] = (256, 256)
    initial_std: float = 0.2
    residual_scale: float = 0.0
    batch_size: int = 256
    demo_share: float = 0.5
    updates_per_step: float = 2.0
    actor_every: int = 2
    critics: int = 4
    target_critics: int = 2
    critic_sees_potential: bool = True
    tau: float = 0.005
    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    alpha_lr: float = 3e-4
    initial_alpha: float = 0.1
    entropy_per_dimension: float = -1.0
    entropy_backup: bool = False
    learning_starts: int = 500
    critic_warmup_updates: int = 0
    replay_capacity: int = 200_000
    updates_per_call: int = 64
    num_env_runners: int = 1
    actor_resource: str = ""
    num_envs_per_env_runner: int = 1
    steps_per_iteration: int = 500
    rollout_fragment_length: int = 4
    num_cpus_per_env_runner: float = 0.5
    num_cpus_per_learner: float = 0.5
    num_cpus_for_driver: float = 0.25
    num_gpus_per_learner: float = 0.0
    threads: int = 1
    sample_timeout_s: float = 120.0
    patience_s: float = 600.0
    restart_delay_s: float = 2.0
    ppo_batch_size: int = 2048
    ppo_epochs: int = 8
    ppo_minibatch_size: int = 256
    ppo_lr: float = 3e-4
    ppo_clip: float = 0.2
    ppo_entropy: float = 0.0
    gae_lambda: float = 0.95

    def __post_init__(self) -> None:
        if self.target_critics > self.critics:
            raise BadInput("learner.target_critics", self.target_critics, f"give at most critics = {self.critics}")
        if not 0.0 <= self.demo_share <= 1.0:
            raise BadInput("learner.demo_share", self.demo_share, "give a share in [0, 1]")
        if not 0.0 <= self.residual_scale <= 2.0:
            raise BadInput("learner.residual_scale", self.residual_scale, "give a half width in [0, 2]")
        for name in ("initial_std", "initial_alpha", "tau", "updates_per_step"):
            if getattr(self, name) <= 0:
                raise BadInput(f"learner.{name}", getattr(self, name), "give a positive number")
        for name in ("sample_timeout_s", "patience_s"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise BadInput(f"learner.{name}", getattr(self, name), "give a positive number of seconds")
        if not 0.0 <= self.restart_delay_s < math.inf:
            raise BadInput("learner.restart_delay_s", self.restart_delay_s, "give seconds, 0 or more")
        if self.tau > 1.0:
            raise BadInput("learner.tau", self.tau, "give a share of at most 1")
        if self.num_env_runners < 0:
            raise BadInput("learner.num_env_runners", self.num_env_runners, "give 0 or more")
        for name in ("actor_lr", "critic_lr", "alpha_lr", "ppo_lr"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise BadInput(f"learner.{name}", getattr(self, name), "give a learning rate in (0, 1)")
        if not self.hidden or min(self.hidden) < 1:
            raise BadInput("learner.hidden", self.hidden, "give the width of at least one layer, each 1 or more")
        for name in POSITIVE_COUNTS:
            if getattr(self, name) < 1:
                raise BadInput(f"learner.{name}", getattr(self, name), "give at least 1")


@dataclass(frozen=True)
class TrainingConfig:
    """How long the policy is trained."""

    environment_steps: int = 800
    """Environment steps of the policy's training, over all actors."""
    checkpoint_s: float = 60.0
    """Seconds of training between two checkpoints that an interrupted run goes on from."""

    def __post_init__(self) -> None:
        require(
            "training",
            self,
            ("environment_steps", self.environment_steps >= 1, "give at least 1"),
            ("checkpoint_s", self.checkpoint_s > 0.0, "give seconds above 0"),
        )
