"""Training questions: pictures of a few moments, each encoded once, and the many comparisons that can be asked about them.

A model that is only asked balanced pairs within one demonstration meets two questions at run time that it has never
seen: neighbouring frames, and a goal that belongs to another episode. So every batch asks all kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.pairs import sample_pairs
from dopamine_rl.episodes.states import frame_progress, sample_states
from dopamine_rl.errors import BadInput
from dopamine_rl.grm.config import BatchPlan
from dopamine_rl.interfaces import Prompt
from dopamine_rl.progress import hop
from dopamine_rl.types import Demonstration, check_views

POOL_PER_EPISODE = 2000
"""Balanced pairs drawn in advance for each demonstration; a batch uses those whose two frames it shows."""


@dataclass(frozen=True, eq=False, slots=True)
class LabelledEpisode:
    """Pictures with the progress they show: a success, or a failure whose progress somebody knows.

    Args:
        instructions: ways to say the task; the first is the canonical one, and equal ones mean the same task.
        frames: uint8 [F, V, H, W, 3], F ≥ 2.
        progress: float32 [F] in [0, 1], ground truth.
        states: int64 [M + 1], the frames that are states (Eq. 1); empty for a failure.
    Raises:
        BadInput: shapes differ, or progress lies outside [0, 1].
    """

    instructions: tuple[str, ...]
    frames: NDArray[np.uint8]
    progress: NDArray[np.float32]
    states: NDArray[np.int64]

    def __post_init__(self) -> None:
        check_views("episode.frames", self.frames, 5)
        if self.progress.shape != (len(self.frames),) or len(self.frames) < 2:
            raise BadInput("episode.progress", self.progress.shape, f"give one value a frame, [{len(self.frames)}] ≥ 2")
        if not np.all((self.progress >= 0.0) & (self.progress <= 1.0)):
            raise BadInput("episode.progress", self.progress, "give finite values in [0, 1]")

    @property
    def success(self) -> bool:
        """It reaches the goal: its first and last frame may serve as references, and its last one as a goal."""
        return len(self.states) > 0


def label_demonstration(demonstration: Demonstration, frames_per_state: float = 1.0) -> LabelledEpisode:
    """Give every recorded frame of a successful demonstration its progress.

    States are cut by Eq. 1 and carry i / M; the frames between two states are interpolated, those outside the first
    and last keyframe hold 0 and 1.

    Raises:
        BadInput: it failed; keyframes or frames_per_state cannot be used.
    Source: arXiv:2512.23703, Eq. 1. Differs: frames between states are labelled too.
    """
    if not demonstration.success:
        raise BadInput("demonstration.success", False, "label failures together with successes, by label_episodes")
    count = len(demonstration.frames)
    states = sample_states(demonstration.keyframes, count, frames_per_state)
    progress = frame_progress(demonstration.keyframes, count, np.arange(count), frames_per_state)
    return LabelledEpisode(demonstration.instructions, demonstration.frames, progress.astype(np.float32), states)


def label_episodes(demonstrations: Sequence[Demonstration], frames_per_state: float = 1.0) -> list[LabelledEpisode]:
    """Label successes by their keyframes and failures by their simulator-true progress, in the order given.

    The two scales differ (a peg held before the hole already counts for something in the simulator's), so the true
    progress of failures is mapped by what the same values meant in the successes.

    Raises:
        BadInput: no success among them; a failure whose true progress is not known; see `label_demonstration`.
    """
    labels = {
        index: label_demonstration(demonstration, frames_per_state)
        for index, demonstration in enumerate(demonstrations)
        if demonstration.success
    }
    if len(labels) == len(demonstrations):
        return list(labels.values())
    true, progress = [], []
    for index, label in labels.items():
        known = demonstrations[index].true_progress
        if known is not None:
            true.append(known)
            progress.append(label.progress)
    if not true:
        raise BadInput("demonstrations", len(labels), "give successes with true progress beside the failures")
    scale = _scale(np.concatenate(true), np.concatenate(progress))
    return [
        labels[index] if index in labels else _label_failure(demonstration, *scale)
        for index, demonstration in enumerate(demonstrations)
    ]


def _scale(
    true: NDArray[np.float32], progress: NDArray[np.float32], bins: int = 16
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A non-decreasing map from true progress to progress: its corners, the means of equally filled bins."""
    order = np.array_split(np.argsort(true, kind="stable"), min(bins, len(true)))
    corners = np.array([true[part].mean() for part in order], np.float64)
    means = np.array([progress[part].mean() for part in order], np.float64)
    return np.array([0.0, *corners, 1.0]), np.maximum.accumulate(np.array([0.0, *means, 1.0]))


def _label_failure(
    demonstration: Demonstration, corners: NDArray[np.float64], means: NDArray[np.float64]
) -> LabelledEpisode:
    if demonstration.true_progress is None:
        raise BadInput(f"{demonstration.episode_id}.true_progress", None, "record it, or train on successes only")
    progress = np.interp(demonstration.true_progress, corners, means).astype(np.float32)
    none = np.zeros(0, np.int64)
    return LabelledEpisode(demonstration.instructions, demonstration.frames, progress, none)


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Questions with their answers.

    Args:
        images: uint8 [M, H, W, 3], each picture once.
        prompts: N questions about them.
        hops: float32 [N], the right answers.
    """

    images: NDArray[np.uint8]
    prompts: tuple[Prompt, ...]
    hops: NDArray[np.float32]


class _Pictures:
    """A table of pictures that stores each one once. Key (−1, 0, 0) is the blank picture."""

    def __init__(self, episodes: Sequence[LabelledEpisode]) -> None:
        self._episodes = episodes
        self._rows: dict[tuple[int, int, int], int] = {}

    def row(self, episode: int, frame: int, view: int, blank: bool = False) -> int:
        key = (-1, 0, 0) if blank else (episode, frame, view)
        return self._rows.setdefault(key, len(self._rows))

    def stack(self) -> NDArray[np.uint8]:
        blank = np.zeros_like(self._episodes[0].frames[0, 0])
        return np.stack(
            [
                blank if episode < 0 else self._episodes[episode].frames[frame, view]
                for episode, frame, view in self._rows
            ]
        )


class BatchSampler:
    """Draws batches from labelled episodes.

    Args:
        episodes: at least one success; all with the same number and size of views.
        plan: what a batch asks.
        rng: the only source of randomness.
    Raises:
        BadInput: no success of some failure's task, or views that differ.
    """

    def __init__(self, episodes: Sequence[LabelledEpisode], plan: BatchPlan, rng: np.random.Generator) -> None:
        if not any(episode.success for episode in episodes):
            raise BadInput("episodes", len(episodes), "give at least one successful demonstration")
        shapes = {episode.frames.shape[1:] for episode in episodes}
        if len(shapes) > 1:
            raise BadInput("episodes", sorted(shapes), "give episodes with the same views of the same size")
        self._episodes, self._plan, self.rng = list(episodes), plan, rng
        self._goals = [self._goals_of(episode) for episode in self._episodes]
        self._pools = self._balanced_pools()

    def _goals_of(self, episode: LabelledEpisode) -> list[int]:
        goals = [
            index
            for index, other in enumerate(self._episodes)
            if other.success and other.instructions[0] == episode.instructions[0]
        ]
        if not goals:
            raise BadInput("episodes", episode.instructions[0], "give a successful demonstration of every task")
        return goals

    def _balanced_pools(self) -> list[NDArray[np.int64]]:
        """For each episode int64 [n, 2], balanced (before, after) frames; any two frames of a failure."""
        successes = [index for index, episode in enumerate(self._episodes) if episode.success]
        states = [self._episodes[index].states for index in successes]
        pairs = sample_pairs(states, POOL_PER_EPISODE * len(successes), self.rng)
        columns = np.stack([pairs.before_index, pairs.after_index], axis=1)
        pools = [self.rng.integers(len(e.frames), size=(POOL_PER_EPISODE, 2)) for e in self._episodes]
        for place, index in enumerate(successes):
            pools[index] = columns[pairs.episode_index == place]
        return pools

    def draw(self) -> Batch:
        """The next batch."""
        pictures = _Pictures(self._episodes)
        prompts: list[Prompt] = []
        hops: list[float] = []
        chosen = self.rng.choice(
            len(self._episodes), self._plan.episodes, replace=self._plan.episodes > len(self._episodes)
        )
        for index in chosen:
            self._ask(int(index), pictures, prompts, hops)
        return Batch(pictures.stack(), tuple(prompts), np.array(hops, np.float32))

    def _ask(self, index: int, pictures: _Pictures, prompts: list[Prompt], hops: list[float]) -> None:
        """Add the questions about one episode."""
        episode, rng, plan = self._episodes[index], self.rng, self._plan
        others = [goal for goal in self._goals[index] if goal != index] or self._goals[index]
        goal, reference = int(rng.choice(others)), int(rng.choice(self._goals[index]))
        instruction = str(rng.choice(episode.instructions))
        views = episode.frames.shape[1]
        hidden = int(rng.integers(views)) if views > 1 and rng.random() < plan.blank_view else -1
        last = len(self._episodes[reference].frames) - 1
        references = (
            pictures.row(reference, 0, 0, bool(rng.random() < plan.blank_reference)),
            pictures.row(reference, last, 0, bool(rng.random() < plan.blank_reference)),
        )

        def shown(of: int, frame: int) -> tuple[int, ...]:
            return tuple(pictures.row(of, frame, view, view == hidden) for view in range(views))

        for of, before, after in self._questions(index, goal):
            start = self._episodes[of].progress[before]
            prompts.append(Prompt(instruction, references, shown(of, before), shown(index, after)))
            hops.append(float(hop(start, episode.progress[after])))

    def _questions(self, index: int, goal: int) -> list[tuple[int, int, int]]:
        """(episode of BEFORE, its frame, frame of AFTER) of all questions about one episode."""
        rng, plan = self.rng, self._plan
        count = len(self._episodes[index].frames)
        length = min(plan.run_length, count)
        starts = _spread(count - length + 1, plan.runs, rng)
        frames = np.unique((starts[:, None] + np.arange(length)).ravel())
        questions = [(index, 0, int(frame)) for frame in frames]
        questions += [(goal, len(self._episodes[goal].frames) - 1, int(frame)) for frame in frames]
        gap = frames[None, :] - frames[:, None]
        near = np.argwhere((gap != 0) & (np.abs(gap) <= 3))
        for before, after in near[rng.permutation(len(near))[: plan.neighbours]]:
            questions.append((index, int(frames[before]), int(frames[after])))
        pool = self._pools[index]
        within = pool[np.isin(pool, frames).all(axis=1)]
        for before, after in within[rng.permutation(len(within))[: plan.balanced]]:
            questions.append((index, int(before), int(after)))
        return questions


def _spread(count: int, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """n numbers of 0 … count − 1, one from each n-th of the range."""
    edges = np.linspace(0, count, n + 1)
    return np.minimum((edges[:-1] + rng.random(n) * np.diff(edges)).astype(np.int64), count - 1)
