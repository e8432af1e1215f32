"""The settings of the main job: typed, one section a part of the system, values in presets/*.toml.

Nothing here imports torch, Ray or the simulator, so that `--help` and a wrong key answer at once.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from actors.envs import check_task
from actors.maniskill import EnvConfig
from dopamine_rl.errors import BadInput, require
from dopamine_rl.evaluation.gate_config import GateConfig
from dopamine_rl.grm.config import GRMConfig, SFTConfig
from dopamine_rl.types import FusionConfig, RewardMode
from experiments.runtime.cluster import ClusterConfig
from learner.config import CloningConfig, LearnerConfig, TrainingConfig
from reward_service.service import ServiceConfig


@dataclass(frozen=True)
class DemonstrationConfig:
    """Recorded episodes: of scripts, and of the cloned policy. No two sets share a seed, and none is near the evaluation's."""

    reward_model: int = 12
    """Expert episodes that the reward model is trained on."""
    reward_model_stride: int = 0
    """Environment steps from one frame to the next in those episodes; 0 takes env.stride. Of few demonstrations, more frames
    teach more: 1."""
    reward_model_failures: int = 6
    """Failed episodes (near misses, stalls, retreats) that the reward model is trained on, labelled with the simulator's
    true progress; 0 trains on successes alone."""
    policy: int = 12
    """Expert episodes that the policy is cloned from and that its replay holds."""
    reward_model_rollouts: int = 0
    """Episodes of the cloned policy that the reward model is trained on, failures labelled with the simulator's true
    progress and successes left out; they show it the failures that it will be asked about."""
    gate_successes: int = 6
    """Unseen expert episodes that the reward model is judged on."""
    gate_failures: int = 6
    """Unseen scripted failures that the reward model is judged on; more than half of them near misses."""
    gate_rollouts: int = 4
    """Unseen episodes of the cloned policy that the reward model is judged on: what training will ask about."""
    first_seed: int = 1000
    """Seed of the first episode; each set begins 1000 further on."""

    def __post_init__(self) -> None:
        sets = (
            self.reward_model + self.reward_model_failures,
            self.policy,
            self.gate_successes + self.gate_failures,
            self.reward_model_rollouts,
            self.gate_rollouts,
        )
        require(
            "demonstrations",
            self,
            ("reward_model", self.reward_model >= 1, "give at least 1"),
            ("reward_model_stride", self.reward_model_stride >= 0, "give at least 0"),
            ("reward_model_failures", self.reward_model_failures >= 0, "give at least 0"),
            ("policy", self.policy >= 2, "give at least 2, one of them to validate the clone on"),
            ("gate_successes", self.gate_successes >= 1, "give at least 1"),
            ("gate_failures", self.gate_failures >= 1, "give at least 1"),
            ("reward_model_rollouts", self.reward_model_rollouts >= 0, "give at least 0"),
            ("gate_rollouts", self.gate_rollouts >= 0, "give at least 0"),
            ("first_seed", self.first_seed >= 0, "give at least 0"),
        )
        if max(sets) > 1000:
            raise BadInput(
                "demonstrations", max(sets), "give at most 1000 episodes a set: the sets' seeds lie 1000 apart"
            )


@dataclass(frozen=True)
class LabelsConfig:
    """How answers of the reward service become labels."""

    deadline_s: float = 10.0
    """A fragment's answers are awaited this long after its end, and no request may take longer, in seconds."""
    keep_frames: bool = True
    """Keep the scored frames of every training episode in records/, for `dopamine audit`."""
    records_mb: float = 500.0
    """Size that records/ may have, in 10⁶ bytes; the oldest episodes are removed first, which the console says."""

    def __post_init__(self) -> None:
        require(
            "labels",
            self,
            ("deadline_s", 0.0 < self.deadline_s < math.inf, "give seconds above 0"),
            ("records_mb", 0.0 < self.records_mb < math.inf, "give MB above 0; keep_frames = false keeps no records"),
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """How success is measured."""

    episodes: int = 20
    """Unseen episodes for every policy; each plays the same seeds."""
    first_seed: int = 50_000
    """First of the unseen seeds: never trained or tuned on."""

    def __post_init__(self) -> None:
        require("evaluation", self, ("episodes", self.episodes >= 1, "give at least 1"))


@dataclass(frozen=True)
class TrackingConfig:
    """Where a run can be watched, beside its own folder's TensorBoard."""

    wandb: bool = False
    """Also log to Weights & Biases; without a key (WANDB_API_KEY, or `wandb login`) it is recorded offline."""
    wandb_project: str = "dopamine-rl"
    """Its project."""


@dataclass(frozen=True)
class SimulationConfig:
    """Processes that record demonstrations and evaluate policies."""

    workers: int = 2
    """How many, each with one environment."""
    num_cpus: float = 0.2
    """Logical CPUs of each."""

    def __post_init__(self) -> None:
        require(
            "simulation",
            self,
            ("workers", self.workers >= 1, "give at least 1"),
            ("num_cpus", self.num_cpus > 0.0, "give a number above 0"),
        )


@dataclass(frozen=True)
class ExperimentConfig:
    """Peg insertion with a learned progress reward: demonstrations, reward model, service, policy, evaluation."""

    name: str = "peg_insert"
    """Name of the run; its folder below the storage."""
    reward: RewardMode = "grm"
    """Where the potential comes from: grm (the reward model), naive (the same, paid as a plain difference: the semantic
    trap), oracle (simulator-true potential: a diagnostic), sparse (no shaping: a baseline)."""
    seed: int = 0
    """Seed of the networks, the replay and the actors."""
    gamma: float = 0.97
    """Discount of one environment step: the learner's and, being the same number, the shaping's."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """The simulated task."""
    demonstrations: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    """Scripted demonstrations."""
    grm: GRMConfig = field(default_factory=GRMConfig)
    """The embedded reward model."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """Its training, a Ray Train job."""
    service: ServiceConfig = field(default_factory=ServiceConfig)
    """Its deployment on Ray Serve."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    """How three perspectives become one progress."""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    """How answers become labels."""
    cloning: CloningConfig = field(default_factory=CloningConfig)
    """The behaviour cloning that the policy starts from."""
    gate: GateConfig = field(default_factory=GateConfig)
    """What the reward model must reach before it may drive the training."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """The policy's learner."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """The policy's training."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """The measurement of success."""
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    """Processes for demonstrations and evaluation."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Where the run can be watched."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The Ray cluster, where none is joined."""

    def __post_init__(self) -> None:
        check_task(self.env)
        if self.seed < 0:
            raise BadInput("seed", self.seed, "give 0 or more")
        if not 0.0 < self.gamma < 1.0:
            raise BadInput("gamma", self.gamma, "give a discount in (0, 1)")
        if not re.fullmatch(r"[\w.-]*\w[\w.-]*", self.name):
            raise BadInput("name", self.name, "give letters, digits, '.', '_' and '-' alone")
        if self.reward in ("grm", "naive") and not self.env.views:
            raise BadInput("env.views", self.env.views, f"name the cameras: reward {self.reward} is seen in pictures")
        if self.evaluation.first_seed < self.demonstrations.first_seed + 10_000:
            raise BadInput(
                "evaluation.first_seed", self.evaluation.first_seed, "keep it 10000 above the demonstrations'"
            )
