"""The settings of the main job: typed dataclasses, one section for each part of the system; values in presets/*.toml.

This module imports neither torch, Ray nor the simulator, so that `--help` and errors in settings appear at once.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from actors.envs import check_task
from actors.maniskill import PEG_INSERTION, EnvConfig
from dopamine_rl.callables import load_callable
from dopamine_rl.encoders.encoder import LEARNED
from dopamine_rl.encoders.loading import OWN, encoder_source
from dopamine_rl.encoders.packing import Packing
from dopamine_rl.errors import BadInput, require, seed_check
from dopamine_rl.evaluation.gate_config import GateConfig
from dopamine_rl.grm.config import GRMConfig, SFTConfig
from dopamine_rl.grm.folder import usable_model
from dopamine_rl.shaping import Shaping
from dopamine_rl.success import SuccessConfig, SuccessSource
from dopamine_rl.targets import Target
from dopamine_rl.types import FusionConfig, RewardMode
from experiments.runtime.cluster import ClusterConfig
from learner.config import CloningConfig, LearnerConfig, TrainingConfig
from learner.observations import check_room
from reward_service.service import ServiceConfig, check_engine


@dataclass(frozen=True)
class DemonstrationConfig:
    """Recorded episodes of scripts and of the cloned policy. All sets and the evaluation use different seeds."""

    reward_model: int = 12
    """Expert episodes for training the reward model."""
    reward_model_stride: int = 0
    """Environment steps between frames in these episodes; 0 uses env.stride. With few demonstrations, 1 (every frame)
    works better."""
    reward_model_failures: int = 6
    """Failed episodes (near misses, stalls, retreats) for training the reward model, labelled with the simulator's
    ground-truth progress; 0 trains on successes only."""
    policy: int = 12
    """Expert episodes for behaviour cloning; they also stay in the replay buffer."""
    reward_model_rollouts: int = 0
    """Episodes of the cloned policy for training the reward model. Only failures are used, labelled with the
    simulator's ground-truth progress: they are the failures that the model meets in training."""
    practice: int = 0
    """Episodes for training the reward model in which the robot, alone, wanders about the path of its first
    demonstration, for sft.failures = path; a horizon each. Insertion start only: the scene must stay as it was."""
    gate_successes: int = 6
    """Held-out expert episodes for the gate."""
    gate_failures: int = 6
    """Held-out scripted failures for the gate; more than half are near misses."""
    gate_rollouts: int = 4
    """Held-out episodes of the cloned policy for the gate; they resemble the episodes in training."""
    gate_behaviours: int = 0
    """Held-out episodes of each behaviour that fools rewards: pause, retry, oscillate, beside. The gate reports how the
    model judges them; its verdict does not depend on them."""
    first_seed: int = 1000
    """Seed of the first episode; the seeds of the sets lie 1000 apart."""
    expert: str = ""
    """MODULE:CALLABLE that makes the expert (dopamine_rl.interfaces.Expert) of an environment of your own, env.make."""
    folder: str = ""
    """Episodes recorded in env.make, instead of an expert: a folder of raw episodes, or a LeRobotDataset v3. Successes
    are taken in order: for the policy, which needs actions, then for the gate, then for the reward model."""

    def __post_init__(self) -> None:
        sets = (
            self.reward_model + self.reward_model_failures,
            self.policy,
            self.gate_successes + self.gate_failures,
            self.reward_model_rollouts,
            self.practice,
            self.gate_rollouts,
            4 * self.gate_behaviours,
        )
        require(
            "demonstrations",
            self,
            ("reward_model", self.reward_model >= 1, "give at least 1"),
            ("reward_model_stride", self.reward_model_stride >= 0, "give at least 0"),
            ("reward_model_failures", self.reward_model_failures >= 0, "give at least 0"),
            ("policy", self.policy >= 1, "give at least 1"),
            ("practice", self.practice >= 0, "give at least 0"),
            ("gate_successes", self.gate_successes >= 1, "give at least 1"),
            ("gate_failures", self.gate_failures >= 0, "give at least 0"),
            (
                "gate_failures",
                self.gate_failures + self.gate_rollouts >= 1,
                "give at least 1, or gate_rollouts: the gate needs failures",
            ),
            ("reward_model_rollouts", self.reward_model_rollouts >= 0, "give at least 0"),
            ("gate_rollouts", self.gate_rollouts >= 0, "give at least 0"),
            ("gate_behaviours", self.gate_behaviours >= 0, "give at least 0"),
            seed_check("first_seed", self.first_seed),
        )
        if max(sets) > 1000:
            raise BadInput(
                "demonstrations", max(sets), "give at most 1000 episodes per set: the seeds of the sets lie 1000 apart"
            )


@dataclass(frozen=True)
class LabelsConfig:
    """Labelling of training episodes by the reward service."""

    deadline_s: float = 10.0
    """Time limit in seconds for each request, and for the answers of a fragment after its end."""
    keep_frames: bool = True
    """Save the scored frames of every training episode in records/, for `dopamine audit`."""
    records_mb: float = 500.0
    """Maximum size of records/ in MB (10⁶ bytes). The oldest episodes are removed first; the console reports it."""

    def __post_init__(self) -> None:
        require(
            "labels",
            self,
            ("deadline_s", 0.0 < self.deadline_s < math.inf, "give seconds above 0"),
            ("records_mb", 0.0 < self.records_mb < math.inf, "give MB above 0, or keep_frames = false"),
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation of the success rate."""

    episodes: int = 20
    """Evaluation episodes for each policy; all policies use the same seeds."""
    first_seed: int = 50_000
    """First evaluation seed; these seeds are never used for training or tuning."""

    def __post_init__(self) -> None:
        require(
            "evaluation",
            self,
            ("episodes", self.episodes >= 1, "give at least 1"),
            seed_check("first_seed", self.first_seed),
        )


@dataclass(frozen=True)
class TrackingConfig:
    """Experiment tracking, in addition to the TensorBoard files in the run's folder."""

    wandb: bool = False
    """Also log to Weights & Biases. Without a key (WANDB_API_KEY or `wandb login`) runs are recorded offline."""
    wandb_project: str = "dopamine-rl"
    """Weights & Biases project."""


@dataclass(frozen=True)
class SimulationConfig:
    """Simulator processes that record demonstrations and evaluate policies."""

    workers: int = 2
    """Number of processes, each with one environment."""
    num_cpus: float = 0.2
    """Logical CPUs of each process."""

    def __post_init__(self) -> None:
        require(
            "simulation",
            self,
            ("workers", self.workers >= 1, "give at least 1"),
            ("num_cpus", self.num_cpus > 0.0, "give a number above 0"),
        )


@dataclass(frozen=True)
class ExperimentConfig:
    """The main job: a policy trained with a learned progress reward."""

    name: str = "peg_insert"
    """Name of the run, and of its folder in the storage."""
    reward: RewardMode = "grm"
    """Source of the potential: grm (the reward model), naive (the reward model, paid as a plain difference of
    progress: the semantic trap), oracle (simulator ground truth: a diagnostic). Baselines without a potential: sparse
    (success alone), dense (ManiSkill's own dense reward at every step, made by hand for the task)."""
    oracle_target: Target = "geometric"
    """Target that reward oracle reports. geometric: distances and angles to the goal. keyframes: the same, mapped to
    the progress that the policy's demonstrations have by their keyframes (see sft.target)."""
    potential_scale: float = 1.0
    """Factor of the shaping. 0 pays the task's reward alone, while critics that see the potential still do."""
    progress_reward: float = 0.0
    """Weight of progress as a reward of its own: (1 − γ)Φ' a step, and 1 for a success. It draws a policy that has
    never succeeded to high progress for good; shaping alone does not. Among policies that fail it changes which is
    best."""
    success: SuccessSource = "env"
    """Who says that the task is done. env: the simulator. progress: the reward model, by its progress ([claims]); then
    nothing of the simulator's truth reaches learner, reward model or choices, and it is only reported beside."""
    seed: int = 0
    """Random seed of the networks, the replay buffer and the actors."""
    gamma: float = 0.97
    """Discount per environment step, of the learner and of the reward shaping."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """The simulated task."""
    encoder: str = "grm"
    """What turns pictures into numbers where the policy sees pictures (env.observation). grm: the vision tower of the
    run's first reward model, without one that of sft.start_from. grm:FOLDER: of another reward model. hf:FOLDER: a
    vision backbone of transformers. These stay frozen. cnn: a small network that is learned with the policy, from
    pictures of 64² pixels; cnn:84: of 84². Its weights travel in the policy's file."""
    demonstrations: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    """Recorded demonstrations and failures."""
    grm: GRMConfig = field(default_factory=GRMConfig)
    """The embedded reward model."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """Training of the reward model, with Ray Train."""
    service: ServiceConfig = field(default_factory=ServiceConfig)
    """Deployment of the reward model on Ray Serve."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    """Fusion of the three perspectives into one progress value."""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    """Labelling of training episodes."""
    claims: SuccessConfig = field(default_factory=SuccessConfig)
    """When success is claimed from progress."""
    cloning: CloningConfig = field(default_factory=CloningConfig)
    """Behaviour cloning of the initial policy."""
    gate: GateConfig = field(default_factory=GateConfig)
    """Bounds that the reward model must meet before it is used in training."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """The learner of the policy."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """The training of the policy."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Evaluation of the success rate."""
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    """Simulator processes for demonstrations and evaluation."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Experiment tracking."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The Ray cluster that is started if the job does not join one."""

    def __post_init__(self) -> None:
        check_task(self.env)
        require("", self, seed_check("seed", self.seed))
        for name in ("potential_scale", "progress_reward"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise BadInput(name, getattr(self, name), "give a finite number, 0 or more")
        if self.progress_reward and self.reward == "naive":
            raise BadInput("progress_reward", self.progress_reward, "give 0: reward naive pays progress in its own way")
        if self.reward == "dense" and self.env.task != PEG_INSERTION:
            raise BadInput("env.task", self.env.task, f"write {PEG_INSERTION}: reward dense is that task's")
        if not 0.0 < self.gamma < 1.0:
            raise BadInput("gamma", self.gamma, "give a discount in (0, 1)")
        if not re.fullmatch(r"[\w.-]*\w[\w.-]*", self.name):
            raise BadInput("name", self.name, "use only letters, digits, '.', '_' and '-'")
        if self.demonstrations.practice and self.sft.failures != "path":
            raise BadInput("sft.failures", self.sft.failures, "write path: demonstrations.practice is labelled so")
        counts = self.demonstrations
        tries = counts.practice + counts.reward_model_failures + counts.reward_model_rollouts
        if self.sft.failures != "truth" and not tries:
            fix = "give truth, or some of what it labels: demonstrations.practice, reward_model_failures or _rollouts"
            raise BadInput("sft.failures", self.sft.failures, fix)
        if self.reward in ("grm", "naive") and not self.env.views:
            raise BadInput("env.views", self.env.views, f"give cameras: reward {self.reward} needs images")
        if self.env.sees_pictures:
            self._check_sight()
        if self.success not in get_args(SuccessSource):
            raise BadInput("success", self.success, f"write {' or '.join(get_args(SuccessSource))}")
        if self.success == "progress":
            self._check_claims()
        if self.evaluation.first_seed < self.demonstrations.first_seed + 10_000:
            raise BadInput(
                "evaluation.first_seed", self.evaluation.first_seed, "give at least demonstrations.first_seed + 10000"
            )
        _check_own_environment(self)

    def _check_sight(self) -> None:
        """Raise BadInput if the policy's pictures cannot be recorded or encoded."""
        unseen = [view for view in self.env.policy_views if view not in self.env.views]
        if unseen:
            raise BadInput("env.policy_views", self.env.policy_views, f"add {unseen[0]} to env.views, or leave it out")
        learned = self.reward in ("grm", "naive")
        kind, source = encoder_source(self.encoder, "its own" if learned or self.sft.start_from else None)
        if kind == LEARNED:
            self._check_pictures(int(source))
        if self.clones_last and self.demonstrations.reward_model_rollouts:
            fix = "give 0, or another encoder: with grm the policy is cloned after the reward model is trained"
            raise BadInput("demonstrations.reward_model_rollouts", self.demonstrations.reward_model_rollouts, fix)
        if self.learner.practice and self.demonstrations.practice and self.demonstrations.reward_model_stride != 1:
            fix = "give 1: the policy sees every step of the practice in its replay"
            raise BadInput("demonstrations.reward_model_stride", self.demonstrations.reward_model_stride, fix)

    def _check_pictures(self, side: int) -> None:
        """Raise BadInput if the learner cannot learn from pictures of that side, or has no room for them."""
        if self.learner.algorithm not in ("rlpd", "sac"):
            fix = f"write grm or hf:FOLDER, or learner.algorithm = rlpd: {self.learner.algorithm} learns from features"
            raise BadInput("encoder", self.encoder, fix)
        pictures = Packing(0, len(self.env.policy_views) * side * side * 3, "uint8")
        check_room(self.learner.replay_capacity, pictures.width, self.learner.replay_gb)

    @property
    def clones_last(self) -> bool:
        """Whether the policy can be cloned only after the reward model was trained, because it sees with it."""
        return self.env.sees_pictures and self.encoder == OWN and self.reward in ("grm", "naive")

    def _check_claims(self) -> None:
        """Raise BadInput where success from progress would need the simulator's truth after all."""
        counts = self.demonstrations
        truth = "the simulator's truth may not label failures here"
        for name, value, good, fix in (
            ("reward", self.reward, self.reward in ("grm", "naive"), "write grm: success comes from the reward model"),
            ("env.start", self.env.start, self.env.start == "insertion", "write insertion: the robot practises there"),
            ("sft.target", self.sft.target, self.sft.target == "keyframes", "write keyframes: the other is the truth"),
            ("gate.probe", self.gate.probe, self.gate.probe != "required", "write shown: the simulator sets it up"),
            (
                "sft.failures",
                self.sft.failures,
                self.sft.failures != "truth" or not counts.reward_model_failures,
                f"write path or outcome: {truth}",
            ),
            (
                "demonstrations.reward_model_rollouts",
                counts.reward_model_rollouts,
                not counts.reward_model_rollouts,
                "give 0: nobody says which of them failed",
            ),
            (
                "demonstrations.gate_behaviours",
                counts.gate_behaviours,
                not counts.gate_behaviours,
                "give 0: only the simulator could say which of them ended as meant",
            ),
        ):
            if not good:
                raise BadInput(name, value, f"{fix} (success = progress)")

    @property
    def shaping(self) -> Shaping:
        """How the potential is paid."""
        return Shaping(self.potential_scale, self.progress_reward)


def _check_own_environment(config: ExperimentConfig) -> None:
    """Check that nothing is asked of a user's own environment that only the simulated tasks have. Raises BadInput."""
    env, counts = config.env, config.demonstrations
    if not env.make:
        for name in ("expert", "folder"):
            if value := getattr(counts, name):
                fix = "leave it out, or name your environment (env.make): a simulated task has its own script"
                raise BadInput(f"demonstrations.{name}", value, fix)
        return
    if counts.expert and counts.folder:
        raise BadInput("demonstrations.folder", counts.folder, "give this or demonstrations.expert, not both")
    if config.reward in ("oracle", "dense"):
        raise BadInput("reward", config.reward, "give grm or sparse: nobody knows the true progress in env.make")
    if config.success == "progress":
        raise BadInput("success", config.success, "write env: only simulated tasks go on after success (env.make)")


def _check_own_run(config: ExperimentConfig) -> None:
    """Check what a run in a user's own environment needs. Raises BadInput."""
    env, counts, own = config.env, config.demonstrations, "(--preset own leaves out what env.make cannot have)"
    load_callable("env.make", env.make)
    if counts.expert:
        load_callable("demonstrations.expert", counts.expert)
    elif not Path(counts.folder or " ").is_dir():
        fix = "give a folder of recorded episodes, or demonstrations.expert: a policy begins with demonstrations"
        raise BadInput("demonstrations.folder", counts.folder, fix)
    if config.reward == "sparse":
        return
    if not env.instruction:
        raise BadInput("env.instruction", env.instruction, "say the task in words: the reward model reads them")
    for name in ("reward_model_failures", "gate_failures", "gate_behaviours"):
        if getattr(counts, name):
            fix = f"give 0: only simulated tasks have scripts that fail {own}"
            raise BadInput(f"demonstrations.{name}", getattr(counts, name), fix)
    if counts.practice:
        fix = f"give 0, and sft.failures = outcome: nobody knows the tool's pose in env.make {own}"
        raise BadInput("demonstrations.practice", counts.practice, fix)
    if counts.reward_model_rollouts and config.sft.failures != "outcome":
        fix = f"write outcome: of a failure in env.make nothing else is known {own}"
        raise BadInput("sft.failures", config.sft.failures, fix)
    if config.gate.probe == "required":
        raise BadInput("gate.probe", config.gate.probe, "write off: the probe puts a simulated peg before its hole")


def check_run(config: ExperimentConfig) -> None:
    """Check, before anything starts, what matters only to a run: practice, and what the config only names.

    Raises:
        BadInput: practice where the scene changes; no such engine, environment or expert; an own environment is asked
            for what only the simulated tasks have; or the model's files are missing or damaged.
    """
    if config.env.make:
        _check_own_run(config)
    if config.demonstrations.practice and config.env.start != "insertion" and config.reward in ("grm", "naive"):
        fix = (
            "give 0, with sft.failures = truth and sft.train.plan.failures = 0: from the standard start every episode "
            "has another scene"
        )
        raise BadInput("demonstrations.practice", config.demonstrations.practice, fix)
    check_engine(config.service)
    if config.sft.start_from and config.reward in ("grm", "naive"):
        usable_model(config.sft.start_from, "sft.start_from")
