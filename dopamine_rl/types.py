"""The values that cross package boundaries: frozen dataclasses, every field with shape, dtype and unit.

Shapes use T (scored frames of a fragment, or environment steps where a field says so), V (views), H and W (pixels),
P = 3 (perspectives, in the order of `PERSPECTIVES`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput, require
from dopamine_rl.tokens import FrameTokens

Perspective = Literal["incremental", "forward", "backward"]
PERSPECTIVES: tuple[Perspective, ...] = ("incremental", "forward", "backward")
"""What a frame is compared with: the previous scored frame, the first frame, the goal. The order of every P axis."""

RewardMode = Literal["grm", "sparse", "naive", "oracle", "dense"]
"""grm: γΦ' − Φ from the GRM. naive: Φ' − Φ from the GRM (the semantic trap). oracle: γΦ' − Φ from the simulator's true
progress. sparse: no shaping. dense: no shaping either; the task's reward is the simulator's dense one."""

UNSHAPED: tuple[RewardMode, ...] = ("sparse", "dense")
"""Modes without a potential."""

Outcome = Literal["answered", "invalid", "late", "rejected"]
"""The outcome of one requested frame: asked = answered + invalid + late + rejected, always."""

Views = NDArray[np.uint8]
"""All cameras at one instant: uint8 [V, H, W, 3], RGB."""


def check_views(field_name: str, frames: NDArray[np.uint8], ndim: int = 4) -> None:
    """Raise BadInput unless `frames` is uint8 [..., H, W, 3] with `ndim` axes, none of them empty."""
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        raise BadInput(field_name, getattr(frames, "dtype", type(frames)), "give a numpy array of uint8 RGB pixels")
    if frames.ndim != ndim or frames.shape[-1] != 3 or 0 in frames.shape:
        expected_shape = {3: "[H, W, 3]", 4: "[V, H, W, 3]", 5: "[T, V, H, W, 3]"}[ndim]
        raise BadInput(field_name, frames.shape, f"give an array of shape {expected_shape} with no empty axis")


@dataclass(frozen=True, eq=False, slots=True)
class EpisodeContext:
    """The part of a request that stays the same throughout an episode.

    Args:
        episode_id: unique name of the episode.
        instruction: the task in words.
        reference_start, reference_end: uint8 [H, W, 3], front view of a demonstration's first and last frame.
        init: uint8 [V, H, W, 3], first frame of this episode (anchor of the forward perspective).
        goal: uint8 [V, H, W, 3], final frame of a demonstration (anchor of the backward perspective). Never rendered
            from the running episode.
        model_version: the version that must answer; None accepts the current one, which the reply names.
    Raises:
        BadInput: an image has the wrong dtype or shape; init and goal differ in shape.
    """

    episode_id: str
    instruction: str
    reference_start: NDArray[np.uint8]
    reference_end: NDArray[np.uint8]
    init: Views
    goal: Views
    model_version: str | None = None

    def __post_init__(self) -> None:
        check_views("reference_start", self.reference_start, 3)
        check_views("reference_end", self.reference_end, 3)
        check_views("init", self.init)
        check_views("goal", self.goal)
        if self.goal.shape != self.init.shape:
            raise BadInput("goal", self.goal.shape, f"give the same views as init, {self.init.shape}")


@dataclass(frozen=True, eq=False, slots=True)
class TaskReference:
    """The references that a demonstration gives for its task: instruction, first and last frame, goal in every view.

    Args:
        instruction: the task in words.
        reference_start, reference_end: uint8 [H, W, 3], front view.
        goal: uint8 [V, H, W, 3].
    """

    instruction: str
    reference_start: NDArray[np.uint8]
    reference_end: NDArray[np.uint8]
    goal: Views

    @classmethod
    def of(cls, demonstration: Demonstration) -> TaskReference:
        """Take the references from a demonstration, whose first view is the front view."""
        frames = demonstration.frames
        return cls(demonstration.instructions[0], frames[0, 0], frames[-1, 0], frames[-1])

    def context(self, episode_id: str, init: Views) -> EpisodeContext:
        """The context of an episode whose first frame is `init`."""
        return EpisodeContext(episode_id, self.instruction, self.reference_start, self.reference_end, init, self.goal)


FusionKind = Literal["mean", "consistency", "incremental", "forward", "backward"]
FUSIONS: tuple[FusionKind, ...] = get_args(FusionKind)


@dataclass(frozen=True, slots=True)
class FusionConfig:
    """How the three perspectives are fused into one progress value (METHOD.md section 2).

    Args:
        kind: "mean" (Eq. 8) or "consistency" (Eq. 9-11); or one perspective alone, for ablations.
        alpha: sharpness of the consistency weight exp(−α Δ²).
        epsilon: added to Φ̄ in the denominator of Δ (the paper does not state its value).
        chain: the incremental hop is applied to the "fused" progress, or to the incremental perspective's "own".
    """

    kind: FusionKind = "mean"
    alpha: float = 20.0
    epsilon: float = 1e-6
    chain: Literal["fused", "own"] = "fused"

    def __post_init__(self) -> None:
        require(
            "fusion",
            self,
            ("kind", self.kind in FUSIONS, f"choose from {', '.join(FUSIONS)}"),
            ("alpha", 0.0 <= self.alpha < np.inf, "give a finite number of at least 0; the paper uses 20"),
            ("epsilon", 0.0 < self.epsilon < np.inf, "give a small finite number above 0, such as 1e-6"),
        )


@dataclass(frozen=True, eq=False, slots=True)
class ScoreRequest:
    """One question to the reward service: how far along are these frames of one episode?

    The service is stateless: a request carries everything, so any replica can answer it and it is safe to retry.
    Frame 0 is compared with `previous`, frame i with frame i−1 (or with the last frame before it whose answer was
    valid).

    Args:
        context: the part that stays the same throughout the episode.
        previous: uint8 [V, H, W, 3], the last scored frame before `frames`.
        frames: uint8 [T, V, H, W, 3], in time order.
        times: int [T], environment step of each frame, strictly increasing; with the episode id it identifies the
            frame.
        remaining_ms: time left until the deadline when the request is sent.
        start_progress: Φ* at `previous`; if given, the service folds the fragment and the reply carries Φ*.
        fusion: how the service folds.
        start_perspectives: progress of each perspective at `previous`, in [0, 1]: the last row of the
            `folded.perspectives` before. May be omitted at the start of an episode, and where the incremental chain
            builds on the fused progress.
        previous_tokens, frame_tokens: tokens [V, N, D] and [T, V, N, D] in place of the pictures of `previous` and
            `frames`, which then have no views: [0, H, W, 3] and [T, 0, H, W, 3].
    Raises:
        BadInput: wrong shapes, dtypes or order, or a start value that folding needs is missing.
    """

    context: EpisodeContext
    previous: Views
    frames: NDArray[np.uint8]
    times: tuple[int, ...]
    remaining_ms: float
    start_progress: float | None = None
    fusion: FusionConfig = FusionConfig()
    start_perspectives: tuple[float, float, float] | None = None
    previous_tokens: FrameTokens | None = None
    frame_tokens: FrameTokens | None = None

    def __post_init__(self) -> None:
        _check_given("previous", self.previous, self.previous_tokens, self.context.init.shape)
        _check_given("frames", self.frames, self.frame_tokens, self.context.init.shape)
        if len(self.towers) > 1:
            raise BadInput("tokens.tower", sorted(self.towers), "give the tokens of one tower")
        if len(self.times) != len(self.frames):
            raise BadInput("times", len(self.times), f"give one time for each of the {len(self.frames)} frames")
        if any(b <= a for a, b in zip(self.times, self.times[1:], strict=False)):
            raise BadInput("times", self.times, "give strictly increasing environment steps")
        if not np.isfinite(self.remaining_ms):
            raise BadInput("remaining_ms", self.remaining_ms, "give a finite number of milliseconds")
        if self.start_progress is not None and not 0.0 <= self.start_progress <= 1.0:
            raise BadInput("start_progress", self.start_progress, "give a progress in [0, 1], or None")
        self._check_start()

    @property
    def towers(self) -> frozenset[str]:
        """The version of the tower that made the tokens; empty if all views are given as pictures."""
        return frozenset(tokens.tower for tokens in (self.previous_tokens, self.frame_tokens) if tokens is not None)

    def _check_start(self) -> None:
        """Raise BadInput if folding would have to guess the progress of a perspective."""
        start, perspectives = self.start_progress, self.start_perspectives
        if perspectives is not None:
            if start is None:
                raise BadInput("start_perspectives", perspectives, "give start_progress with it, or leave it out")
            if len(perspectives) != len(PERSPECTIVES) or not all(0.0 <= value <= 1.0 for value in perspectives):
                raise BadInput("start_perspectives", perspectives, "give three values of progress in [0, 1], or None")
        elif start is not None and self.fusion.chain == "own" and not self._all_at_zero():
            raise BadInput(
                "start_perspectives",
                None,
                'give the progress of each perspective at `previous`: chain = "own" builds on it',
            )

    def _all_at_zero(self) -> bool:
        """True if every perspective is at 0: their mean is, or the episode begins."""
        begins = self.fusion.kind == "mean" or np.array_equal(self.previous, self.context.init)
        return self.start_progress == 0.0 and begins


def _check_given(name: str, pictures: NDArray[np.uint8], tokens: FrameTokens | None, shape: tuple[int, ...]) -> None:
    """Raise BadInput unless pictures, or tokens, are views of this shape (V, H, W, 3), of one instant or of T."""
    axes = 5 if name == "frames" else 4
    if tokens is None:
        check_views(name, pictures, axes)
        if pictures.shape[-4:] != shape:
            raise BadInput(name, pictures.shape, f"give the same views as init, {shape}")
        return
    if pictures.dtype != np.uint8 or pictures.ndim != axes or pictures.shape[-4:] != (0, *shape[1:]):
        raise BadInput(name, pictures.shape, f"leave out the pictures where tokens are given: {(0, *shape[1:])}")
    if tokens.values.shape[:-2] != (*pictures.shape[:-4], shape[0]):
        raise BadInput("tokens.values", tokens.values.shape, f"give tokens of the {shape[0]} views of {name}")


@dataclass(frozen=True, eq=False, slots=True)
class HopEstimates:
    """The model's answers to N prompts: distributions over hops, reduced to what fusion needs.

    Args:
        gain: float32 [N], E[H⁺] in [0, 1]; NaN where invalid.
        loss: float32 [N], E[H⁻] in [0, 1]; NaN where invalid. The expected hop is gain − loss.
        entropy: float32 [N], nats; NaN where there is no distribution or the answer is invalid.
        reasons: N strings, "" where the answer is valid, else why it is not.
    """

    gain: NDArray[np.float32]
    loss: NDArray[np.float32]
    entropy: NDArray[np.float32]
    reasons: tuple[str, ...]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """bool [N]: the answer is readable."""
        return np.array([not reason for reason in self.reasons], bool)

    @property
    def hop(self) -> NDArray[np.float32]:
        """float32 [N] in [−1, 1], NaN where invalid."""
        return self.gain - self.loss


@dataclass(frozen=True, eq=False, slots=True)
class FoldedProgress:
    """Progress after each scored frame, folded in time order from a start value.

    Args:
        progress: float32 [T], fused Φ* in [0, 1]; held where invalid.
        perspectives: float32 [T, P], progress of each perspective alone; held where invalid.
        valid: bool [T].
        weight: float32 [T], weight of the new evidence: 1 for mean fusion, w of Eq. 10 for consistency; 0 where held.
    """

    progress: NDArray[np.float32]
    perspectives: NDArray[np.float32]
    valid: NDArray[np.bool_]
    weight: NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class ScoreReply:
    """The answer to a ScoreRequest: hops for each frame and perspective. The service returns hops; the core folds them.

    Args:
        gain, loss: float32 [T, P], E[H⁺] and E[H⁻]; NaN where invalid.
        entropy: float32 [T, P], nats; NaN where unknown.
        reasons: T strings: "" where all three perspectives are valid, else why the frame is not.
        anchor_times: int [T], the time of the frame that each incremental hop starts from; `previous` is −1.
        model_version: the version that answered; one for the whole reply.
        queue_ms, model_ms: time the request spent in the queue, and its batch in the model.
        folded: progress after each frame if the request carried a start progress, else None.
    """

    gain: NDArray[np.float32]
    loss: NDArray[np.float32]
    entropy: NDArray[np.float32]
    reasons: tuple[str, ...]
    anchor_times: tuple[int, ...]
    model_version: str
    queue_ms: float = 0.0
    model_ms: float = 0.0
    folded: FoldedProgress | None = None

    @property
    def valid(self) -> NDArray[np.bool_]:
        """bool [T]: all three perspectives of the frame are readable."""
        return np.array([not reason for reason in self.reasons], bool)

    @property
    def hops(self) -> NDArray[np.float32]:
        """float32 [T, P] in [−1, 1], NaN where invalid."""
        return self.gain - self.loss


@dataclass(frozen=True, eq=False, slots=True)
class LabelColumns:
    """The labeller's columns for a fragment of T environment steps, stored next to the reward.

    Args:
        task_reward: float32 [T].
        potential: float32 [T], held Φ_t before each step.
        next_potential: float32 [T], held Φ_{t+1} after each step; 0 where the step terminated the episode.
        valid: bool [T], the last frame scored at or before t+1 has a valid answer.
        phase: float32 [T], the held potential's age before each step: environment steps since the last scored frame
            over the stride, in [0, 1).
        next_phase: float32 [T], its age after each step.
        model_version: the version behind every potential of the fragment's episode; "" if no model is used.
    """

    task_reward: NDArray[np.float32]
    potential: NDArray[np.float32]
    next_potential: NDArray[np.float32]
    valid: NDArray[np.bool_]
    phase: NDArray[np.float32]
    next_phase: NDArray[np.float32]
    model_version: str


@dataclass(slots=True)
class LabelCounts:
    """Outcomes of the requested frames. Once all replies are in, `asked` is the sum of the other four.

    Args:
        asked, answered, invalid, late, rejected: frames.
        retried: requests sent again (dead replica, invalid anchor, refused tokens); their frames are not counted twice.
        errors: exceptions inside the labelling callback, each logged.
        latencies_ms: one per reply, from arrival at the service to answer.
    """

    asked: int = 0
    answered: int = 0
    invalid: int = 0
    late: int = 0
    rejected: int = 0
    retried: int = 0
    errors: int = 0
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def closed(self) -> bool:
        """True if every requested frame has exactly one outcome."""
        return self.asked == self.answered + self.invalid + self.late + self.rejected


@dataclass(frozen=True, eq=False, slots=True)
class Demonstration:
    """One recorded episode: images at the scored frames, transitions at every environment step.

    Args:
        episode_id: folder name.
        instructions: ways to say the task; the first is the canonical one.
        frames: uint8 [F, V, H, W, 3], the recorded images.
        frame_steps: int [F], environment step of each frame, strictly increasing from 0.
        keyframes: int [N+1], indices into `frames` of the sub-task boundaries, strictly increasing.
        stages: N names, one per segment.
        observations: float32 [T+1, D], policy observations.
        actions: float32 [T, A] in [−1, 1]; for a replayed trajectory, in the units of its control mode.
        task_rewards: float32 [T].
        terminated: bool, step T ended the task (success); else time ran out.
        success: bool, the simulator's ground truth; for evaluation and task reward only.
        seed: the environment seed it was recorded with.
        true_progress: float32 [F], the simulator's true progress at each frame; None if unknown (real robot). For
            diagnostics and failed training episodes, never as a substitute for the GRM's reward.
        near_miss: whether a failure came close to success, as judged by the actor; None if not recorded.
        tool_poses: float32 [F, 7], the tool's pose at each frame in the robot's base frame, as its joints tell it:
            position in metres, then rotation as a quaternion (x, y, z, w); None if not recorded.
    """

    episode_id: str
    instructions: tuple[str, ...]
    frames: NDArray[np.uint8]
    frame_steps: NDArray[np.int64]
    keyframes: NDArray[np.int64]
    stages: tuple[str, ...]
    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    task_rewards: NDArray[np.float32]
    terminated: bool
    success: bool
    seed: int
    true_progress: NDArray[np.float32] | None = None
    near_miss: bool | None = None
    tool_poses: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class EpisodeInfo:
    """Metadata of a recorded episode, available without decoding its videos.

    Args:
        episode_id: unique within its source.
        instructions: ways to say the task; the first is the canonical one, and equal ones mean the same task.
        frame_count: frames in every view, according to the files.
        frames_per_second: frame rate of the videos.
        cameras: names in the order of the V axis.
        keyframes: int64 [N+1], frame ids of the sub-task boundaries, strictly increasing, below `frame_count`.
        stages: N names, one per segment.
        annotation: where the keyframes come from (path of the file as the user gave it, and column), as errors name it;
            "" if there are none and the whole episode is one segment.
        success: whether it succeeded; None if not recorded.
        true_progress: float32 [frame_count], the simulator's true progress at each frame; None if unknown.
        near_miss: whether a failure came close to success, as judged by the actor; None if not recorded.
        frame_steps: int64 [frame_count], environment step of each frame, strictly increasing from 0; None if not
            recorded.
        tool_poses: float32 [frame_count, 7], see `Demonstration`; None if not recorded.
    """

    episode_id: str
    instructions: tuple[str, ...]
    frame_count: int
    frames_per_second: float
    cameras: tuple[str, ...]
    keyframes: NDArray[np.int64]
    stages: tuple[str, ...]
    annotation: str
    success: bool | None = None
    true_progress: NDArray[np.float32] | None = None
    near_miss: bool | None = None
    frame_steps: NDArray[np.int64] | None = None
    tool_poses: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, demonstration: Demonstration) -> EpisodeInfo:
        """What is known of an episode in memory without its pictures. Its cameras are named by their numbers."""
        cameras = tuple(str(view) for view in range(demonstration.frames.shape[1]))
        return cls(
            demonstration.episode_id,
            demonstration.instructions,
            len(demonstration.frames),
            1.0,
            cameras,
            demonstration.keyframes,
            demonstration.stages,
            f"{demonstration.episode_id}: keyframes",
            demonstration.success,
            demonstration.true_progress,
            demonstration.near_miss,
            demonstration.frame_steps,
            demonstration.tool_poses,
        )


@dataclass(frozen=True, slots=True)
class Rate:
    """A success rate with its Wilson interval at 95 %."""

    mean: float
    low: float
    high: float
    n: int
