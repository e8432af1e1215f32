"""Training labels of an episode: its task and the ground-truth progress of every frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.states import episode_states, frame_progress
from dopamine_rl.errors import BadInput
from dopamine_rl.paths import DEFAULT, PathConfig, path_progress
from dopamine_rl.targets import FailureLabels, ProgressMap, Target
from dopamine_rl.types import EpisodeInfo, check_views

LEAST_MOVE = 1e-3
"""A demonstration whose tool moves less, in metres or entries of the quaternion, shows no path."""


@dataclass(frozen=True, eq=False, slots=True)
class EpisodeLabels:
    """The progress of an episode's frames: of a success, or of a failure with known progress.

    Args:
        instructions: ways to say the task; the first is the canonical one, and equal ones mean the same task.
        progress: float32 [F] in [0, 1], ground truth, F ≥ 2.
        states: int64 [M + 1], the frames that are states (Eq. 1); empty for a failure.
        views: images per frame.
    Raises:
        BadInput: shapes differ, or progress lies outside [0, 1].
    """

    instructions: tuple[str, ...]
    progress: NDArray[np.float32]
    states: NDArray[np.int64]
    views: int

    def __post_init__(self) -> None:
        if self.progress.ndim != 1 or len(self.progress) < 2:
            raise BadInput("episode.progress", self.progress.shape, "give one value per frame, at least 2")
        if not np.all((self.progress >= 0.0) & (self.progress <= 1.0)):
            raise BadInput("episode.progress", self.progress, "give finite values in [0, 1]")

    @property
    def success(self) -> bool:
        """Whether it reaches the goal, so that its first and last frames can serve as references and goal."""
        return len(self.states) > 0


@dataclass(frozen=True, eq=False, slots=True)
class LabelledEpisode:
    """The frames of an episode with their labels.

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
            raise BadInput("episode.progress", self.progress.shape, f"give one value per frame, [{len(self.frames)}]")

    @property
    def labels(self) -> EpisodeLabels:
        """The labels without the frames."""
        return EpisodeLabels(self.instructions, self.progress, self.states, self.frames.shape[1])

    @property
    def success(self) -> bool:
        """See `EpisodeLabels`."""
        return self.labels.success


def label(
    episodes: Sequence[EpisodeInfo],
    target: Target = "keyframes",
    failures: FailureLabels = "truth",
    path: PathConfig = DEFAULT,
) -> list[EpisodeLabels]:
    """Label episodes with their progress, in the order given.

    With keyframes as target, successes are labelled by their keyframes and failures by their simulator-true progress.
    The two scales differ (the simulator already counts a peg held in front of the hole), so the true progress of
    failures is mapped to the progress that successes of the same task have at that value. With the geometric target
    both are labelled by their true progress. Failures labelled by their outcome have no progress in any frame; those
    labelled by the path have it by how near the tool is to the path of their task's successes, labelled in the same
    way. An episode without recorded outcome counts as a success.

    Raises:
        BadInput: a task has failures but no success with true progress; an episode lacks a true progress or poses of
            the tool that are needed; unusable keyframes.
        EpisodeError: a success has too few states.
    """
    if failures == "outcome":
        successes_alone = iter(label([episode for episode in episodes if episode.success is not False], target))
        return [_label_failed(episode) if episode.success is False else next(successes_alone) for episode in episodes]
    if failures == "path":
        return _label_by_path(episodes, target, path)
    labels = {index: _label_success(episode) for index, episode in enumerate(episodes) if episode.success is not False}
    if target == "geometric":
        return [
            EpisodeLabels(
                episode.instructions,
                _true_progress(episode).astype(np.float32),
                labels[index].states if index in labels else np.zeros(0, np.int64),
                len(episode.cameras),
            )
            for index, episode in enumerate(episodes)
        ]
    successes = [(episodes[index], episode_labels) for index, episode_labels in labels.items()]
    failed = dict.fromkeys(episode.instructions[0] for episode in episodes if episode.success is False)
    maps = {task: _map_of(task, successes) for task in failed}
    return [
        labels[index] if index in labels else _label_failure(episode, maps[episode.instructions[0]])
        for index, episode in enumerate(episodes)
    ]


def _label_success(episode: EpisodeInfo) -> EpisodeLabels:
    """States by Eq. 1 with one frame per state on average; every frame is labelled by `frame_progress`.

    Source: arXiv:2512.23703, Eq. 1.
    """
    count = episode.frame_count
    states = episode_states(episode, 1.0)
    progress = frame_progress(episode.keyframes, count, np.arange(count))
    return EpisodeLabels(episode.instructions, progress.astype(np.float32), states, len(episode.cameras))


def keyframe_map(episodes: Sequence[EpisodeInfo]) -> ProgressMap:
    """The map from geometric progress to progress by keyframes, in successes of one task that have a true progress.

    Raises:
        BadInput: there are none.
    """
    return _map_of(episodes[0].instructions[0], [(episode, _label_success(episode)) for episode in episodes])


def _map_of(task: str, successes: Sequence[tuple[EpisodeInfo, EpisodeLabels]]) -> ProgressMap:
    curves = [
        (episode.true_progress, labels.progress)
        for episode, labels in successes
        if episode.instructions[0] == task and episode.true_progress is not None
    ]
    if not curves:
        raise BadInput("demonstrations", task, "give successes with true progress in addition to this task's failures")
    true, progress = zip(*curves, strict=True)
    return ProgressMap.fit(true, progress)


def _label_failure(episode: EpisodeInfo, keyframes: ProgressMap) -> EpisodeLabels:
    progress = keyframes(_true_progress(episode)).astype(np.float32)
    return EpisodeLabels(episode.instructions, progress, np.zeros(0, np.int64), len(episode.cameras))


def _label_by_path(episodes: Sequence[EpisodeInfo], target: Target, config: PathConfig) -> list[EpisodeLabels]:
    """Every episode by its distance from the paths of its task's successes; on them, by their own progress."""
    successes = [episode for episode in episodes if episode.success is not False]
    own = {id(episode): labels for episode, labels in zip(successes, label(successes, target), strict=True)}
    labelled = []
    for episode in episodes:
        task = episode.instructions[0]
        paths = [(_poses(e), own[id(e)].progress) for e in successes if e.instructions[0] == task]
        progress = path_progress(_poses(episode), paths, config).astype(np.float32)
        states = own[id(episode)].states if id(episode) in own else np.zeros(0, np.int64)
        labelled.append(EpisodeLabels(episode.instructions, progress, states, len(episode.cameras)))
    return labelled


def _poses(episode: EpisodeInfo) -> NDArray[np.float32]:
    if episode.tool_poses is None:
        fix = "record them, as the robot's joints tell them; without them label failures by their outcome"
        raise BadInput(f"{episode.episode_id}.tool_poses", None, fix)
    if episode.success is not False and np.ptp(episode.tool_poses, axis=0).max() < LEAST_MOVE:
        raise BadInput(f"{episode.episode_id}.tool_poses", "the same in all frames", "record the tool's pose in each")
    return episode.tool_poses


def _label_failed(episode: EpisodeInfo) -> EpisodeLabels:
    """No progress in any frame."""
    nothing = np.zeros(episode.frame_count, np.float32)
    return EpisodeLabels(episode.instructions, nothing, np.zeros(0, np.int64), len(episode.cameras))


def _true_progress(episode: EpisodeInfo) -> NDArray[np.float32]:
    if episode.true_progress is None:
        fix = "record it; without it train on successes, with keyframes as target"
        raise BadInput(f"{episode.episode_id}.true_progress", None, fix)
    return episode.true_progress
