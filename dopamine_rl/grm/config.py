"""Settings of the reward model and its training. Nothing here imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from dopamine_rl.errors import BadInput, require

Control = Literal["none", "untrained", "shuffled", "constant"]
"""Which negative control a training makes of its model."""

Loss = Literal["binned", "hops", "text"]
"""What a training makes small."""

Precision = Literal["float32", "bfloat16"]
"""What a training computes in; weights and the optimiser's state are float32 in any case."""


@dataclass(frozen=True)
class GRMConfig:
    """Shape of an embedded reward model that is built from nothing. The section `[grm]` of a preset."""

    image_size: int = 112
    """Side of the square picture the model sees, in pixels; a multiple of twice the patch."""
    patch: int = 28
    """Side of one vision patch in pixels; four patches become one token of the prompt. 14 as in the released models has
    four times the tokens and learns no better per update, at almost twice the cost."""
    vision_width: int = 128
    """Channels of the vision tower; a multiple of 4 · vision_heads."""
    vision_depth: int = 2
    """Blocks of the vision tower, all with full attention inside one picture."""
    vision_heads: int = 4
    """Attention heads of the vision tower."""
    text_width: int = 128
    """Channels of the language model; a multiple of 8 · text_heads."""
    text_depth: int = 3
    """Layers of the language model."""
    text_heads: int = 4
    """Attention heads of the language model; a quarter of them hold keys and values."""
    mlp_ratio: float = 2.5
    """Inner width of every feed-forward block over its outer width."""
    seed: int = 0
    """Seed of the initial weights."""

    def __post_init__(self) -> None:
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
    """What one batch asks about each of its episodes. The section `[sft.train.plan]` of a preset."""

    episodes: int = 2
    """Episodes in a batch."""
    runs: int = 2
    """Runs of neighbouring frames shown of an episode; every frame shown is asked forward and backward."""
    run_length: int = 4
    """Frames in a run."""
    neighbours: int = 8
    """Incremental questions about an episode: frames up to three apart, in either direction."""
    balanced: int = 4
    """Questions about an episode from the pool of balanced pairs."""
    still: int = 0
    """Questions about an episode with the same frame before and after: while nothing moves, nothing is gained."""
    spread: float = 0.0
    """How far apart the neighbouring frames of a run may lie, as a share of the episode; 0 takes every frame. Of episodes that
    were recorded at a camera's rate, and scored at a lower one, 0.08 shows neighbours as they are scored."""
    by_progress: float = 0.0
    """Probability that a run of a success lies at a random progress instead of a random time: short stages are seen oftener."""
    blank_view: float = 0.0
    """Probability that one of several views is blank throughout the questions about an episode."""
    blank_reference: float = 0.05
    """Probability, for START and END each, that the reference is blank."""

    def __post_init__(self) -> None:
        for name in ("episodes", "runs", "run_length"):
            if getattr(self, name) < 1:
                raise BadInput(f"sft.train.plan.{name}", getattr(self, name), "give at least 1")
        for name in ("neighbours", "balanced", "still"):
            if getattr(self, name) < 0:
                raise BadInput(f"sft.train.plan.{name}", getattr(self, name), "give 0 or more")
        for name in ("spread", "by_progress", "blank_view", "blank_reference"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise BadInput(f"sft.train.plan.{name}", getattr(self, name), "give a share in [0, 1]")


@dataclass(frozen=True)
class AugmentConfig:
    """How pictures are changed in training. The section `[sft.train.augment]` of a preset.

    All frames that one camera shows of an episode are changed alike, and those of the goal and of the references in another way:
    what another recording has otherwise is not progress. Every amount is drawn from ± the number given.
    """

    share: float = 0.0
    """Probability that the pictures of an episode in a batch are changed."""
    shift: float = 0.12
    """Shift in either direction, as a share of the picture's side."""
    zoom: float = 0.15
    """Change of the picture's scale."""
    turn_rad: float = 0.15
    """Turn of the first camera's pictures, which stands still."""
    wrist_turn_rad: float = 0.5
    """Turn of all other cameras' pictures: a hand carries them, and what it approaches lies turned in them as the hand is."""
    contrast: float = 0.25
    """Change of the contrast."""
    brightness: float = 0.1
    """Light added, as a share of white."""
    colour: float = 0.1
    """Change of red, green and blue, each by itself."""
    worlds: float = 0.0
    """Probability that all pictures of an episode in a batch, with its goal and references, are mirrored at random, each camera's
    alike, and their colours exchanged: another task of the same motions. For pre-training on few tasks."""

    def __post_init__(self) -> None:
        for name in ("share", "shift", "zoom", "contrast", "brightness", "colour", "worlds"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise BadInput(f"sft.train.augment.{name}", getattr(self, name), "give a share in [0, 1]")
        for name in ("turn_rad", "wrist_turn_rad"):
            if not 0.0 <= getattr(self, name) <= math.pi:
                raise BadInput(f"sft.train.augment.{name}", getattr(self, name), "give an angle in [0, π]")


@dataclass(frozen=True)
class TrainConfig:
    """How a reward model is trained, and for how long. The section `[sft.train]` of a preset."""

    budget_s: float = 120.0
    """Most seconds of training, evaluations and checkpoints not counted; 0 means no limit."""
    updates: int = 200
    """Most updates; 0 means no limit. Whichever limit is reached first ends the training, and the learning rate falls to
    its end by then. With a limit on updates alone a training is reproducible."""
    learning_rate: float = 1.5e-3
    """Peak of the learning rate (AdamW); 1e-5 is right for billions of weights, not for a few million new ones."""
    vision_rate: float = 1.0
    """Learning rate of the vision tower without its merger, as a share of the others'; the released models were fine-tuned
    with 0.05."""
    weight_decay: float = 0.02
    """Decay of all matrices."""
    warmup: float = 0.05
    """Share of the training in which the learning rate rises."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    loss: Loss = "binned"
    """binned (cross-entropy against a soft label over the 201 answers, and squared error), hops (squared error of E[H⁺] and
    E[H⁻] alone, Eq. 12), text (cross-entropy on the answer's tokens, as the released models were trained)."""
    label_sigma: float = 0.05
    """Width of the soft label in hops: neighbouring bins are nearly right."""
    hop_weight: float = 5.0
    """Weight of the squared error of E[H⁺] and E[H⁻] beside the cross-entropy."""
    batches: int = 2
    """Batches of one update. The processes of a training share them; one that trains alone on a CPU gives each of its threads
    one at a time, others work through their share one after the other. How many processes there are changes nothing but the
    rounding."""
    precision: Precision = "float32"
    """What products are computed in; weights, gradients and the optimiser stay float32."""
    recompute: bool = False
    """Gradient checkpointing: keep only what enters every layer, and compute the rest again in the backward pass. A third more
    work for a fraction of the memory."""
    peak_flops: float = 0.0
    """Peak of this device in floating-point operations a second, for MFU; 0 measures it by a matrix product."""
    plan: BatchPlan = field(default_factory=BatchPlan)
    """What a batch asks."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How its pictures are changed."""
    seed: int = 0
    """Seed of the order of training."""
    control: Control = "none"
    """Negative controls, which show that the gate refuses a model that deserves no trust, and never for use: untrained (no
    update is made, whatever the budget), shuffled (the answers of every batch are dealt out among its questions at random),
    constant (the answer to every question is a hop of +0.2)."""

    def __post_init__(self) -> None:
        if self.control not in get_args(Control):
            raise BadInput("sft.train.control", self.control, f"choose from {', '.join(get_args(Control))}")
        for name, kinds in (("loss", Loss), ("precision", Precision)):
            if getattr(self, name) not in get_args(kinds):
                raise BadInput(f"sft.train.{name}", getattr(self, name), f"choose from {', '.join(get_args(kinds))}")
        require(
            "sft.train",
            self,
            ("seed", self.seed >= 0, "give 0 or more"),
            ("learning_rate", 0.0 < self.learning_rate < 1.0, "give a rate in (0, 1)"),
            ("batches", self.batches >= 1, "give at least 1"),
            ("vision_rate", self.vision_rate >= 0.0, "give a share of the learning rate, or 0"),
            ("weight_decay", 0.0 <= self.weight_decay < math.inf, "give a number from 0"),
            ("warmup", 0.0 <= self.warmup <= 1.0, "give a share in [0, 1]"),
            ("clip", self.clip > 0.0, "give a norm above 0; inf clips nothing"),
            ("label_sigma", 0.0 < self.label_sigma < math.inf, "give a width above 0"),
            ("hop_weight", 0.0 <= self.hop_weight < math.inf, "give a number from 0"),
            ("peak_flops", self.peak_flops >= 0.0, "give operations a second, or 0 to measure them"),
        )
        if self.updates < 0:
            raise BadInput("sft.train.updates", self.updates, "give a number of updates, or 0 for no limit")
        if not (math.isfinite(self.budget_s) and self.budget_s >= 0):
            raise BadInput("sft.train.budget_s", self.budget_s, "give a number of seconds, or 0 for no limit")
        if not self.updates and not self.budget_s:
            raise BadInput("sft.train.budget_s", self.budget_s, "limit the training by seconds or by sft.train.updates")


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters, trained in the place of all weights. The section `[sft.lora]` of a preset."""

    rank: int = 0
    """Rank of every adapter; 0 trains all weights."""
    alpha: float = 32.0
    """Strength: an adapter counts alpha / rank times."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Linear modules of the language model that get one, by the last part of their names."""
    vision_targets: tuple[str, ...] = ()
    """The same of the vision tower, such as qkv."""
    seed: int = 0
    """Seed of their first weights."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise BadInput("sft.lora.rank", self.rank, "give a rank, or 0 to train all weights")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise BadInput("sft.lora.alpha", self.alpha, "give a number above 0")
        if not self.targets and not self.vision_targets:
            raise BadInput("sft.lora.targets", self.targets, "name at least one kind of module")


MOST_THREADS = 1024
"""Of a process: far beyond it libraries end the process instead of raising an error."""


@dataclass(frozen=True)
class SFTConfig:
    """The Ray Train job that fits the reward model."""

    train: TrainConfig = field(default_factory=TrainConfig)
    """The training itself."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Adapters in the place of a training of all weights."""
    start_from: str = ""
    """Folder or hub id of the reward model to begin with; empty builds one from `[grm]`."""
    stride: int = 1
    """Frames of a recording from one that is used to the next; videos of 30 frames a second need about 10."""
    memory_mb: int = 2048
    """Most MiB of decoded pictures that a process keeps. Episodes with more than that are streamed: the frames of the coming
    batches are decoded while the training goes on, the last ones are kept. Results are the same."""
    decoders: int = 1
    """Processes (threads, where the training runs without Ray) that decode for each process of the training."""
    workers: int = 1
    """Processes that share the training."""
    num_cpus: float = 0.5
    """Logical CPUs of each."""
    threads: int = 2
    """Torch threads of each. On a CPU, a process that trains alone gives each a batch of its own, as far as an update has several:
    a third faster than all of them at one batch after the other. The weights are the same but for rounding."""
    use_gpu: bool = False
    """Give each process a GPU."""
    sharded: bool = False
    """Share gradients and the optimiser's state out among the processes (FSDP), for models of billions of weights, instead of
    each keeping all of them (DDP). The weights are gathered for each update."""
    checkpoint_updates: int = 100
    """Updates between two states that an interrupted training can go on from; held-out episodes are judged at the same
    moments."""
    max_failures: int = 1
    """How often a failed job is started again."""

    def __post_init__(self) -> None:
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
