"""What training knows of an episode before it looks at a picture: its task, and the progress that every frame shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.states import episode_states, frame_progress
from dopamine_rl.errors import BadInput
from dopamine_rl.types import EpisodeInfo, check_views


@dataclass(frozen=True, eq=False, slots=True)
class EpisodeLabels:
    """The progress of an episode's frames: a success, or a failure whose progress somebody knows.

    Args:
        instructions: ways to say the task; the first is the canonical one, and equal ones mean the same task.
        progress: float32 [F] in [0, 1], ground truth, F ≥ 2.
        states: int64 [M + 1], the frames that are states (Eq. 1); empty for a failure.
        views: pictures of a frame.
    Raises:
        BadInput: shapes differ, or progress lies outside [0, 1].
    """

    instructions: tuple[str, ...]
    progress: NDArray[np.float32]
    states: NDArray[np.int64]
    views: int

    def __post_init__(self) -> None:
        if self.progress.ndim != 1 or len(self.progress) < 2:
            raise BadInput("episode.progress", self.progress.shape, "give one value a frame, 2 at least")
        if not np.all((self.progress >= 0.0) & (self.progress <= 1.0)):
            raise BadInput("episode.progress", self.progress, "give finite values in [0, 1]")

    @property
    def success(self) -> bool:
        """It reaches the goal: its first and last frame may serve as references, and its last one as a goal."""
        return len(self.states) > 0


@dataclass(frozen=True, eq=False, slots=True)
class LabelledEpisode:
    """Pictures with the progress they show.

    Args:
        instructions, progress, states: see `EpisodeLabels`.
        frames: uint8 [F, V, H, W, 3], F ≥ 2.
    Raises:
        BadInput: shapes differ, or progress lies outside [0, 1].
    """

    instructions: tuple[str, ...]
    frames: NDArray[np.uint8]
    progress: NDArray[np.float32]
    states: NDArray[np.int64]

    def __post_init__(self) -> None:
        check_views("episode.frames", self.frames, 5)
        if len(self.labels.progress) != len(self.frames):
            raise BadInput("episode.progress", self.progress.shape, f"give one value a frame, [{len(self.frames)}]")

    @property
    def labels(self) -> EpisodeLabels:
        """What is known without the pictures."""
        return EpisodeLabels(self.instructions, self.progress, self.states, self.frames.shape[1])

    @property
    def success(self) -> bool:
        """See `EpisodeLabels`."""
        return self.labels.success


def label(episodes: Sequence[EpisodeInfo]) -> list[EpisodeLabels]:
    """Label successes by their keyframes and failures by their simulator-true progress, in the order given.

    The two scales differ (a peg held before the hole already counts for something in the simulator's), so the true
    progress of failures is mapped by what the same values meant in the successes of their task. An episode of which
    nobody recorded whether it succeeded counts as a success.

    Raises:
        BadInput: no success with true progress beside a task's failures; a failure whose true progress is not known; keyframes
            that cannot be used.
        EpisodeError: a success has too few states.
    """
    labels = {index: _label_success(episode) for index, episode in enumerate(episodes) if episode.success is not False}
    successes = [(episodes[index], known) for index, known in labels.items()]
    failed = dict.fromkeys(episode.instructions[0] for episode in episodes if episode.success is False)
    scales = {task: _scale_of(task, successes) for task in failed}
    return [
        labels[index] if index in labels else _label_failure(episode, *scales[episode.instructions[0]])
        for index, episode in enumerate(episodes)
    ]


def _label_success(episode: EpisodeInfo) -> EpisodeLabels:
    """States are cut by Eq. 1, one a frame on average; all frames are labelled by `frame_progress`.

    Source: arXiv:2512.23703, Eq. 1.
    """
    count = episode.frame_count
    states = episode_states(episode, 1.0)
    progress = frame_progress(episode.keyframes, count, np.arange(count))
    return EpisodeLabels(episode.instructions, progress.astype(np.float32), states, len(episode.cameras))


def _scale_of(
    task: str, successes: Sequence[tuple[EpisodeInfo, EpisodeLabels]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What true progress meant in the successes of one task."""
    known = [
        (episode.true_progress, labels.progress)
        for episode, labels in successes
        if episode.instructions[0] == task and episode.true_progress is not None
    ]
    if not known:
        raise BadInput("demonstrations", task, "give successes with true progress beside this task's failures")
    true, progress = zip(*known, strict=True)
    return _scale(np.concatenate(true), np.concatenate(progress))


def _scale(
    true: NDArray[np.float32], progress: NDArray[np.float32], bins: int = 16
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A non-decreasing map from true progress to progress: its corners, the means of equally filled bins."""
    order = np.array_split(np.argsort(true, kind="stable"), min(bins, len(true)))
    corners = np.array([true[part].mean() for part in order], np.float64)
    means = np.array([progress[part].mean() for part in order], np.float64)
    return np.array([0.0, *corners, 1.0]), np.maximum.accumulate(np.array([0.0, *means, 1.0]))


def _label_failure(episode: EpisodeInfo, corners: NDArray[np.float64], means: NDArray[np.float64]) -> EpisodeLabels:
    if episode.true_progress is None:
        raise BadInput(f"{episode.episode_id}.true_progress", None, "record it, or train on successes only")
    progress = np.interp(episode.true_progress, corners, means).astype(np.float32)
    return EpisodeLabels(episode.instructions, progress, np.zeros(0, np.int64), len(episode.cameras))
