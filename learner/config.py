"""Settings of the policy learner: the `cloning` and `learner` sections of a preset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dopamine_rl.errors import BadInput, require
from learner.windows import Preference


@dataclass(frozen=True)
class CloningConfig:
    """Behaviour cloning: the `cloning` section of a preset.

    Args:
        widths: hidden-layer widths to try; the clone with the highest success rate on validation episodes is used.
        depth: number of hidden layers.
        trials: validation episodes per clone.
        updates: gradient updates; the weights with the lowest validation error are used.
        batch_size: transitions per update.
        learning_rate: of AdamW, decayed to zero by a cosine schedule.
        weight_decay: of AdamW.
        validation_share: share of the demonstrations held out for validation; of a single one, of its transitions.
        check_every: updates between two validations.
        observation_noise: standard deviation of noise on the demonstrated observations, in units of their own standard
            deviation. A clone of few demonstrations then errs less beside them.
        still_share: share of every batch that lies far from the demonstrations, with no movement as its action: the
            clone stands still where it knows nothing, instead of running away.
        still_spread: up to how far, in the same units.
        shifted: where the policy sees pictures, copies of every demonstration whose pictures are shifted at random by a
            few pixels.
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
    observation_noise: float = 0.0
    still_share: float = 0.0
    still_spread: float = 5.0
    shifted: int = 4

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Hidden-layer widths of every network to try."""
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
            ("observation_noise", 0.0 <= self.observation_noise < math.inf, "give 0 or more"),
            ("still_share", 0.0 <= self.still_share < 1.0, "give a share in [0, 1)"),
            ("shifted", self.shifted >= 0, "give at least 0"),
            ("still_spread", 0.0 < self.still_spread < math.inf, "give a number above 0"),
        )


POSITIVE_COUNTS = (
    "batch_size",
    "ppo_batch_size",
    "vtrace_batch_size",
    "ppo_epochs",
    "ppo_minibatch_size",
    "actor_every",
    "critics",
    "target_critics",
    "n_step",
    "progress_window",
    "replay_capacity",
    "updates_per_call",
    "num_envs_per_env_runner",
    "rollout_fragment_length",
    "steps_per_iteration",
    "threads",
)
"""Settings of the learner that must be at least 1."""


Algorithm = Literal["rlpd", "sac", "ppo", "appo", "impala"]

SAC: Mapping[str, Any] = {
    "demo_share": 0.0,
    "practice": False,
    "residual_scale": 0.0,
    "updates_per_step": 1.0,
    "actor_every": 1,
    "critics": 2,
    "target_critics": 2,
    "entropy_backup": True,
}
"""What makes RLPD SAC: these settings have these values under algorithm sac, whatever they were set to."""

OFF_POLICY = {"n_step": 1, "prefer": "uniform", "promote": 0, "choose": False, "imitation": 0.0}
"""Settings that need a replay buffer, with the value of each that the other algorithms accept."""

VTRACE = {"ppo_minibatch_size": 256, "gae_lambda": 0.95}
"""Settings that PPO alone uses: APPO and IMPALA learn from whole batches, with V-trace."""

REFUSED: Mapping[Algorithm, tuple[str, Mapping[str, Any]]] = {
    "sac": ("SAC has no demonstrations and no clone to keep", {"promote": 0, "choose": False}),
    "ppo": ("PPO has no replay buffer", OFF_POLICY),
    "appo": ("APPO has no replay buffer, minibatches or GAE", OFF_POLICY | VTRACE),
    "impala": (
        "IMPALA has no replay buffer, minibatches, GAE, passes or clipping",
        OFF_POLICY | VTRACE | {"ppo_epochs": 8, "ppo_clip": 0.2},
    ),
}
"""What algorithms lack, and the settings that need it, with the only value of each that they accept."""


REPLAY = (
    "batch_size",
    "demo_share",
    "updates_per_step",
    "actor_every",
    "critics",
    "target_critics",
    "prefer_candidates",
    "progress_window",
    "practice",
    "imitation_temperature",
    "tau",
    "actor_lr",
    "critic_lr",
    "alpha_lr",
    "initial_alpha",
    "entropy_per_dimension",
    "entropy_backup",
    "learning_starts",
    "critic_warmup_updates",
    "replay_capacity",
    "replay_gb",
    "updates_per_call",
)
"""Settings of a replay buffer and the critics that learn from it: RLPD's and SAC's alone."""
GRADIENT = ("ppo_epochs", "ppo_minibatch_size", "ppo_lr", "ppo_clip", "ppo_entropy", "gae_lambda")
"""Settings of PPO, APPO and IMPALA; with these, of the first alone or of the others."""
UNUSED: Mapping[Algorithm, tuple[str, ...]] = {
    "rlpd": (*GRADIENT, "ppo_batch_size", "vtrace_batch_size"),
    "sac": (*GRADIENT, "ppo_batch_size", "vtrace_batch_size"),
    "ppo": (*REPLAY, "vtrace_batch_size"),
    "appo": (*REPLAY, "ppo_batch_size"),
    "impala": (*REPLAY, "ppo_batch_size"),
}
"""Settings that an algorithm does not use. A preset may have set them for another one, so they are no error."""


@dataclass(frozen=True)
class LearnerConfig:
    """The policy learner: the `learner` section of a preset. γ and the reward mode are shared with the labeller.

    Args:
        algorithm: "rlpd" (off-policy, with demonstrations); "sac" (RLPD with the values in SAC, which replace those set
            here); "ppo" (on-policy: its actors wait for one another and for the labels); "appo" or "impala" (nearly
            on-policy: their actors wait for nobody, and V-trace corrects for their older policies).
        hidden: hidden-layer widths of actor and critics (the frozen base of a residual policy has its own).
        initial_std: initial standard deviation of the policy, before squashing.
        residual_scale: scale of a learned residual on top of the frozen cloned policy, as a share of half the action
            range; 0 learns the whole policy.
        batch_size: transitions per update.
        demo_share: share of demonstrations in every batch.
        updates_per_step: critic updates per environment step.
        actor_every: critic updates per update of actor and temperature.
        critics: size of the critic ensemble.
        target_critics: size of the random subset of target critics whose minimum is the target value.
        critic_sees_potential: whether critics (for PPO, APPO and IMPALA, the value network) get the held potential
            and its age as inputs; both are part of the shaped task's state. The policy never gets them.
        n_step: environment steps of the returns that critics learn from; fewer at an episode's end. They are not
            corrected for the actions of older policies and demonstrators, so the targets' bias grows with it.
        prefer: which online transitions are sampled more often: "uniform" (none), "high_potential" (of high potential),
            "rising_potential" (after which it rises within `progress_window`). Half of them are sampled uniformly
            all the same; without a potential all are, but for rewarded ends under "rising_potential".
        prefer_candidates: of so many transitions the preferred one is taken; with 4, the best are sampled 2.5 times
            as often as uniformly.
        progress_window: environment steps over which a rise of the potential is measured; several of the steps
            between scored frames.
        promote: number of own episodes that join the demonstrations, the best so far: rewarded ones, the quickest
            first, then those whose final potential reaches the lower quartile of the recorded demonstrations'; 0 for
            none.
        practice: whether the episodes of practice beside the demonstration (demonstrations.practice), where there are
            some, fill the replay before training: the critics then know the potential where the policy will go.
        choose: whether actors, the critics' targets and the saved policy take the better of two actions by the critics:
            the residual policy's or that of the cloned policy alone. The critics must not see the potential, which is
            not known while acting.
        imitation: weight of a term of the actor's loss that imitates the actions of the batch, demonstrations and own,
            each weighted by the progress that followed within `progress_window`; 0 for none. It changes the optimal
            policy, which shaping alone does not.
        imitation_temperature: gain of progress at which an action is weighted e times as much as without a gain.
        tau: soft-update coefficient of the target critics.
        actor_lr: learning rate of the actor.
        critic_lr: learning rate of the critics.
        alpha_lr: learning rate of the temperature.
        initial_alpha: initial temperature.
        entropy_per_dimension: target entropy per action dimension, nats.
        entropy_backup: whether the critics' targets include the entropy term.
        learning_starts: transitions collected with the initial policy before the first update.
        critic_warmup_updates: critic-only updates before the actor is trained.
        replay_capacity: capacity of the online replay buffer, transitions.
        replay_gb: most memory of the observations in it where the policy sees pictures, GB (10⁹ bytes). Memory is taken
            as the buffer fills.
        updates_per_call: updates per learner call; bounds the memory of sampled batches.
        num_env_runners: env runner processes; 0 samples in the driver.
        actor_resource: custom Ray resource of which every env runner takes one, such as "sim": places them on the
            nodes that offer it (`ray start --resources '{"sim": 2}'`); empty for none.
        num_envs_per_env_runner: environments per env runner.
        steps_per_iteration: environment steps per iteration (one report).
        rollout_fragment_length: environment steps per fragment, for each environment.
        num_cpus_per_env_runner: CPUs reserved per env runner.
        num_cpus_per_learner: CPUs reserved for the learner.
        num_cpus_for_driver: CPUs reserved for the driver under Ray Tune.
        num_gpus_per_learner: GPUs of the learner.
        threads: torch threads of the learner.
        sample_timeout_s: time limit for a fragment; an env runner that exceeds it is restarted. The others continue
            meanwhile; only PPO waits this long, once. Capped at `patience_s`.
        patience_s: the training fails when no env runner has answered for this long.
        restart_delay_s: pause before a failed env runner is restarted.
        ppo_batch_size: environment steps per PPO iteration.
        vtrace_batch_size: environment steps per batch of APPO and IMPALA.
        ppo_epochs: passes over a batch of PPO or APPO.
        ppo_minibatch_size: environment steps per PPO minibatch.
        ppo_lr: learning rate of PPO, APPO and IMPALA.
        ppo_clip: clipping range of the probability ratio of PPO and APPO.
        ppo_entropy: coefficient of the entropy bonus of PPO, APPO and IMPALA.
        gae_lambda: λ of PPO's generalised advantage estimation.
    Raises:
        BadInput: a value is out of range.
    """

    algorithm: Algorithm = "rlpd"
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
    n_step: int = 1
    prefer: Preference = "uniform"
    prefer_candidates: int = 4
    progress_window: int = 8
    promote: int = 0
    practice: bool = False
    choose: bool = False
    imitation: float = 0.0
    imitation_temperature: float = 0.1
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
    replay_gb: float = field(default=8.0, repr=False)  # A bound changes no result, so runs are not known by it.
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
    vtrace_batch_size: int = 512
    ppo_epochs: int = 8
    ppo_minibatch_size: int = 256
    ppo_lr: float = 3e-4
    ppo_clip: float = 0.2
    ppo_entropy: float = 0.0
    gae_lambda: float = 0.95

    def __post_init__(self) -> None:
        for name, value in SAC.items() if self.algorithm == "sac" else ():
            object.__setattr__(self, name, value)
        lack, accepted = REFUSED.get(self.algorithm, ("", {}))
        for name, value in accepted.items():
            if getattr(self, name) != value:
                fix = f"leave it at {value!r}, or use algorithm rlpd: {lack}"
                raise BadInput(f"learner.{name}", getattr(self, name), fix)
        if self.target_critics > self.critics:
            raise BadInput("learner.target_critics", self.target_critics, f"give at most critics = {self.critics}")
        if not 0.0 <= self.demo_share <= 1.0:
            raise BadInput("learner.demo_share", self.demo_share, "give a share in [0, 1]")
        if not 0.0 <= self.residual_scale <= 2.0:
            raise BadInput("learner.residual_scale", self.residual_scale, "give a scale in [0, 2]")
        if not 0.0 <= self.imitation < math.inf:
            raise BadInput("learner.imitation", self.imitation, "give a weight, 0 or more")
        for name in ("replay_gb", "initial_std", "initial_alpha", "tau", "updates_per_step", "imitation_temperature"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise BadInput(f"learner.{name}", getattr(self, name), "give a positive number")
        for name in ("sample_timeout_s", "patience_s"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise BadInput(f"learner.{name}", getattr(self, name), "give a positive number of seconds")
        if not 0.0 <= self.restart_delay_s < math.inf:
            raise BadInput("learner.restart_delay_s", self.restart_delay_s, "give seconds, 0 or more")
        if self.tau > 1.0:
            raise BadInput("learner.tau", self.tau, "give a share of at most 1")
        for name in ("num_env_runners", "promote"):
            if getattr(self, name) < 0:
                raise BadInput(f"learner.{name}", getattr(self, name), "give 0 or more")
        if self.promote and not self.demo_share:
            raise BadInput("learner.promote", self.promote, "set learner.demo_share above 0: none would be sampled")
        for name in ("actor_lr", "critic_lr", "alpha_lr", "ppo_lr"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise BadInput(f"learner.{name}", getattr(self, name), "give a learning rate in (0, 1)")
        if not self.hidden or min(self.hidden) < 1:
            raise BadInput("learner.hidden", self.hidden, "give the width of at least one layer, each 1 or more")
        for name in POSITIVE_COUNTS:
            if getattr(self, name) < 1:
                raise BadInput(f"learner.{name}", getattr(self, name), "give at least 1")
        if self.prefer_candidates < 2:
            raise BadInput("learner.prefer_candidates", self.prefer_candidates, "give at least 2")
        if self.choose and not self.residual_scale:
            raise BadInput("learner.choose", True, "set learner.residual_scale above 0: there is no clone to choose")
        if self.choose and self.critic_sees_potential:
            fix = "set learner.critic_sees_potential = false: actors do not know the potential when they choose"
            raise BadInput("learner.choose", True, fix)
        if self.choose and self.entropy_backup:
            raise BadInput("learner.choose", True, "set learner.entropy_backup = false: the clone has no entropy")


def unused(config: LearnerConfig) -> dict[str, Any]:
    """The settings that differ from their defaults though the algorithm does not use them, by name."""
    plain = LearnerConfig()
    return {
        name: getattr(config, name)
        for name in UNUSED[config.algorithm]
        if getattr(config, name) != getattr(plain, name)
    }


@dataclass(frozen=True)
class TrainingConfig:
    """Length of the policy's training."""

    environment_steps: int = 800
    """Environment steps to train for, over all actors."""
    checkpoint_s: float = 60.0
    """Seconds between two checkpoints, from which an interrupted run resumes."""
    snapshot_steps: int = 0
    """Save a copy of the policy every so many environment steps, in policies/; 0 saves none."""

    def __post_init__(self) -> None:
        require(
            "training",
            self,
            ("environment_steps", self.environment_steps >= 1, "give at least 1"),
            ("checkpoint_s", self.checkpoint_s > 0.0, "give seconds above 0"),
            ("snapshot_steps", self.snapshot_steps >= 0, "give 0 or more"),
        )
