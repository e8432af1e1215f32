"""Settings of the reward model and its training. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from dopamine_rl.errors import BadInput, require, seed_check
from dopamine_rl.paths import PathConfig
from dopamine_rl.targets import FAILURE_LABELS, TARGETS, FailureLabels, Target

Control = Literal["none", "untrained", "shuffled", "constant"]
"""Negative controls of training."""

Loss = Literal["binned", "hops", "text"]
"""The training loss."""

Precision = Literal["float32", "bfloat16"]
"""Precision of the computation; weights and optimizer state are always float32."""


@dataclass(frozen=True)
class GRMConfig:
    """Shape of an embedded reward model that is trained from scratch. Section `[grm]` of a preset."""

    image_size: int = 112
    """Side of the square input image in pixels; a multiple of twice the patch."""
    patch: int = 28
    """Side of a vision patch in pixels; four patches become one prompt token. 14, as in the released models, needs four
    times the tokens at almost twice the cost and learns no better per update."""
    vision_width: int = 128
    """Channels of the vision tower; a multiple of 4 · vision_heads."""
    vision_depth: int = 2
    """Blocks of the vision tower, all with full attention within an image."""
    vision_heads: int = 4
    """Attention heads of the vision tower."""
    text_width: int = 128
    """Channels of the language model; a multiple of 8 · text_heads."""
    text_depth: int = 3
    """Layers of the language model."""
    text_heads: int = 4
    """Attention heads of the language model; there is one key-value head per four."""
    mlp_ratio: float = 2.5
    """Inner width of every feed-forward block relative to its outer width."""
    seed: int = 0
    """Seed of the initial weights."""

    def __post_init__(self) -> None:
        require("grm", self, seed_check("seed", self.seed))
        if self.patch < 1 or self.image_size < 1 or self.image_size % (2 * self.patch):
            raise BadInput("grm.image_size", self.image_size, f"give a multiple of {2 * self.patch}, twice grm.patch")
        for name, width, unit in (
            ("vision_width", self.vision_width, 4 * self.vision_heads),
            ("text_width", self.text_width, 8 * self.text_heads),
        ):
            if width < 1 or width % unit:
                raise BadInput(f"grm.{name}", width, f"give a multiple of {unit}")


@dataclass(frozen=True)
class BatchPlan:
    """Which frames of an episode a batch compares. Section `[sft.train.plan]` of a preset."""

    episodes: int = 2
    """Episodes per batch."""
    runs: int = 2
    """Runs of neighbouring frames per episode; each of their frames gets a forward and a backward prompt."""
    run_length: int = 4
    """Frames per run."""
    neighbours: int = 8
    """Incremental prompts per episode: frames up to three apart, in either direction."""
    balanced: int = 4
    """Prompts per episode from the pool of balanced pairs."""
    still: int = 0
    """Prompts per episode with the same frame as BEFORE and AFTER: no motion, no progress."""
    paused: int = 0
    """Prompts per episode with the same frame as BEFORE and AFTER, but for flickering light and a camera that shakes by
    about a pixel: a pause as a real camera sees it."""
    mismatched: float = 0.0
    """Questions that are asked again under another task's instruction, as a share of an episode's: progress stays 0
    then. They are drawn evenly over the hops, and the pictures stay, so that a model has to read."""
    other_instructions: tuple[str, ...] = ()
    """Instructions of other tasks, for `mismatched`, besides those in the data. Empty takes those that the card of the
    model to start from lists. None may mean the same as one of the data's own in other words."""
    spread: float = 0.0
    """Largest distance between neighbouring frames of a run, as a share of the episode; 0 takes consecutive frames. For
    episodes recorded at camera rate but scored at a lower one, 0.08 matches the distances in scoring."""
    failures: float = 0.0
    """Probability that an episode of a batch is a failure, if its task has some; 0 draws all episodes equally often."""
    by_progress: float = 0.0
    """Probability that a run of a success is placed at a random progress instead of a random time, which samples short
    stages more often."""
    blank_view: float = 0.0
    """Probability that one of several views is blank in all prompts of an episode."""
    blank_reference: float = 0.05
    """Probability, for START and END each, that the reference is blank."""

    def __post_init__(self) -> None:
        for name in ("episodes", "runs", "run_length"):
            if getattr(self, name) < 1:
                raise BadInput(f"sft.train.plan.{name}", getattr(self, name), "give at least 1")
        for name in ("neighbours", "balanced", "still", "paused"):
            if getattr(self, name) < 0:
                raise BadInput(f"sft.train.plan.{name}", getattr(self, name), "give 0 or more")
        for name in ("spread", "failures", "by_progress", "blank_view", "blank_reference", "mismatched"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise BadInput(f"sft.train.plan.{name}", getattr(self, name), "give a share in [0, 1]")
        words, field = self.other_instructions, "sft.train.plan.other_instructions"
        if words and not self.mismatched:
            raise BadInput(field, words, "give sft.train.plan.mismatched with it, or leave it out")
        if any(not instruction.strip() or "<|" in instruction for instruction in words):
            raise BadInput(field, words, "give tasks in plain words, without control tokens")


@dataclass(frozen=True)
class AugmentConfig:
    """Image augmentation in training. Section `[sft.train.augment]` of a preset.

    All frames of a camera in an episode are changed alike; goal and references differently, because differences between
    recordings are not progress. Every amount is drawn from ± the number given.
    """

    share: float = 0.0
    """Probability that the images of an episode in a batch are augmented."""
    shift: float = 0.12
    """Shift in either direction, as a share of the image side."""
    zoom: float = 0.15
    """Change of scale."""
    turn_rad: float = 0.15
    """Rotation of the images of the first camera, which is fixed."""
    wrist_turn_rad: float = 0.5
    """Rotation of the images of all other cameras, which move and rotate with the hand."""
    contrast: float = 0.25
    """Change of the contrast."""
    brightness: float = 0.1
    """Added brightness, as a share of white."""
    colour: float = 0.1
    """Change of red, green and blue, independently."""
    worlds: float = 0.0
    """Probability that all images of an episode in a batch, with goal and references, are mirrored at random (per
    camera) and their colour channels permuted, which makes another task of the same motions. For pre-training on few
    tasks."""

    def __post_init__(self) -> None:
        for name in ("share", "shift", "zoom", "contrast", "brightness", "colour", "worlds"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise BadInput(f"sft.train.augment.{name}", getattr(self, name), "give a share in [0, 1]")
        for name in ("turn_rad", "wrist_turn_rad"):
            if not 0.0 <= getattr(self, name) <= math.pi:
                raise BadInput(f"sft.train.augment.{name}", getattr(self, name), "give an angle in [0, π]")


@dataclass(frozen=True)
class TrainConfig:
    """How a reward model is trained, and for how long. Section `[sft.train]` of a preset."""

    budget_s: float = 120.0
    """Limit in seconds of training, without evaluation and checkpoints; 0 means no limit."""
    updates: int = 200
    """Limit in updates; 0 means no limit. The first limit reached ends training, and the learning rate has decayed by
    then. Only with a limit in updates alone is training reproducible."""
    learning_rate: float = 1.5e-3
    """Peak learning rate (AdamW). Use about 1e-5 to fine-tune billions of weights, more for a few million new ones."""
    vision_rate: float = 1.0
    """Learning rate of the vision tower without its merger, relative to `learning_rate` (released models: 0.05)."""
    weight_decay: float = 0.02
    """Weight decay of all matrices."""
    warmup: float = 0.05
    """Share of training in which the learning rate rises."""
    clip: float = 1.0
    """Gradient norm limit."""
    loss: Loss = "binned"
    """binned: cross-entropy against a soft label over the 201 answers, plus squared error. hops: only the squared error
    of E[H⁺] and E[H⁻], Eq. 12. text: cross-entropy on the answer's tokens, as the released models were trained."""
    label_sigma: float = 0.05
    """Standard deviation of the soft label, in hops."""
    hop_weight: float = 5.0
    """Weight of the squared error of E[H⁺] and E[H⁻] relative to the cross-entropy."""
    batches: int = 2
    """Batches per update, divided among the processes. A single process on a CPU gives each thread one batch at a time;
    otherwise a process works through its batches in sequence. The number of processes changes only rounding."""
    precision: Precision = "float32"
    """Precision of matrix products; weights, gradients and optimizer stay float32."""
    recompute: bool = False
    """Gradient checkpointing: keep only the layers' inputs and recompute the rest in the backward pass. A third more
    compute, a fraction of the memory."""
    peak_flops: float = 0.0
    """Peak floating-point operations per second of this device, for MFU; 0 measures it with matrix products."""
    plan: BatchPlan = field(default_factory=BatchPlan)
    """The prompts of a batch."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Image augmentation."""
    seed: int = 0
    """Seed of the training batches."""
    control: Control = "none"
    """Negative controls, only to test that the gate refuses bad models. untrained: no updates, whatever the budget.
    shuffled: the target hops of every batch are permuted at random. constant: every target is a hop of +0.2."""

    def __post_init__(self) -> None:
        if self.control not in get_args(Control):
            raise BadInput("sft.train.control", self.control, f"choose from {', '.join(get_args(Control))}")
        for name, kinds in (("loss", Loss), ("precision", Precision)):
            if getattr(self, name) not in get_args(kinds):
                raise BadInput(f"sft.train.{name}", getattr(self, name), f"choose from {', '.join(get_args(kinds))}")
        require(
            "sft.train",
            self,
            seed_check("seed", self.seed),
            ("learning_rate", 0.0 < self.learning_rate < 1.0, "give a rate in (0, 1)"),
            ("batches", self.batches >= 1, "give at least 1"),
            ("vision_rate", self.vision_rate >= 0.0, "give a share of the learning rate, or 0"),
            ("weight_decay", 0.0 <= self.weight_decay < math.inf, "give 0 or more"),
            ("warmup", 0.0 <= self.warmup <= 1.0, "give a share in [0, 1]"),
            ("clip", self.clip > 0.0, "give a norm above 0; inf disables clipping"),
            ("label_sigma", 0.0 < self.label_sigma < math.inf, "give a width above 0"),
            ("hop_weight", 0.0 <= self.hop_weight < math.inf, "give 0 or more"),
            ("peak_flops", self.peak_flops >= 0.0, "give operations per second, or 0 to measure them"),
        )
        if self.updates < 0:
            raise BadInput("sft.train.updates", self.updates, "give a number of updates, or 0 for no limit")
        if not (math.isfinite(self.budget_s) and self.budget_s >= 0):
            raise BadInput("sft.train.budget_s", self.budget_s, "give a number of seconds, or 0 for no limit")
        if not self.updates and not self.budget_s:
            raise BadInput("sft.train.updates", self.updates, "give at least 1, or seconds in sft.train.budget_s")


@dataclass(frozen=True)
class LoRAConfig:
    """LoRA adapters, trained instead of all weights. Section `[sft.lora]` of a preset."""

    rank: int = 0
    """Rank of the adapters; 0 trains all weights."""
    alpha: float = 32.0
    """Adapters are scaled by alpha / rank."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Linear modules of the language model to adapt, by the last part of their names."""
    vision_targets: tuple[str, ...] = ()
    """Linear modules of the vision tower to adapt, such as qkv."""
    seed: int = 0
    """Seed of the initial adapters."""

    def __post_init__(self) -> None:
        require("sft.lora", self, seed_check("seed", self.seed))
        if self.rank < 0:
            raise BadInput("sft.lora.rank", self.rank, "give a rank, or 0 to train all weights")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise BadInput("sft.lora.alpha", self.alpha, "give a number above 0")
        if not self.targets and not self.vision_targets:
            raise BadInput("sft.lora.targets", self.targets, "name at least one kind of module")


MOST_THREADS = 1024
"""Limit of threads per process. Far above it, libraries abort the process instead of raising an error."""


@dataclass(frozen=True)
class SFTConfig:
    """The Ray Train job that fits the reward model."""

    train: TrainConfig = field(default_factory=TrainConfig)
    """Training settings."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """LoRA adapters instead of training all weights."""
    start_from: str = ""
    """Folder or hub id of the reward model to start from; empty builds one from `[grm]`."""
    target: Target = "keyframes"
    """Progress that the model learns. keyframes: equal shares of the demonstration's stages. geometric: the simulator's
    true progress, for studies; a real robot has none."""
    failures: FailureLabels = "truth"
    """Labels of failed training episodes. truth: the simulator's true progress; failures without are skipped. outcome:
    no progress in their last third, which is all that is used of them; needs no simulator. path: how near the tool is
    to the path of the demonstrations, which then are labelled so too; needs the tool's poses, and a scene in which
    nothing but the robot and what it holds has moved."""
    path: PathConfig = field(default_factory=PathConfig)
    """Progress beside the demonstrations' path, for failures = path."""
    stride: int = 1
    """Use every n-th frame of a recording; about 10 for videos with 30 frames per second."""
    memory_mb: int = 2048
    """Limit in MiB of decoded images per process. Larger data is streamed: frames of the next batches are decoded
    during training and the most recent are cached. The results are the same."""
    decoders: int = 1
    """Decoding processes per training process (threads when training without Ray)."""
    workers: int = 1
    """Training processes."""
    num_cpus: float = 0.5
    """Logical CPUs per training process."""
    threads: int = 2
    """Torch threads per training process. A single process on a CPU gives each thread its own batch if an update has
    several, which is a third faster than using all threads for one batch at a time. Weights differ only by rounding."""
    use_gpu: bool = False
    """Give each training process a GPU."""
    sharded: bool = False
    """Shard gradients and optimizer state across processes (FSDP), for models with billions of weights, instead of
    replicating them (DDP). Weights are gathered for each update."""
    checkpoint_updates: int = 100
    """Updates between checkpoints of the training state. The model is evaluated on held-out episodes at the same
    time."""
    max_failures: int = 1
    """How often a failed job is restarted."""

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise BadInput("sft.target", self.target, f"choose from {', '.join(TARGETS)}")
        if self.path != PathConfig() and self.failures != "path":
            raise BadInput("sft.path", self.path, "write sft.failures = path with it, or leave it out")
        if self.failures not in FAILURE_LABELS:
            raise BadInput("sft.failures", self.failures, f"choose from {', '.join(FAILURE_LABELS)}")
        for name in ("workers", "threads", "checkpoint_updates", "stride", "decoders"):
            if getattr(self, name) < 1:
                raise BadInput(f"sft.{name}", getattr(self, name), "give at least 1")
        for name in ("threads", "decoders"):
            if getattr(self, name) > MOST_THREADS:
                raise BadInput(f"sft.{name}", getattr(self, name), f"give at most {MOST_THREADS}")
        if self.memory_mb < 0:
            raise BadInput("sft.memory_mb", self.memory_mb, "give 0 or more")
        if self.train.batches % self.workers:
            raise BadInput("sft.train.batches", self.train.batches, f"give a multiple of sft.workers, {self.workers}")

    def with_other_instructions(self, words: Iterable[str]) -> SFTConfig:
        """The same with `words` as the instructions of other tasks, if the plan needs some and names none."""
        plan = self.train.plan
        if not plan.mismatched or plan.other_instructions:
            return self
        return replace(self, train=replace(self.train, plan=replace(plan, other_instructions=tuple(words))))
