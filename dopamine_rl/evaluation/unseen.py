"""Unseen episodes to judge a reward model by: how each is scored, what it truly shows, and how it truly ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.listing import check_instructions, list_recordings, open_source, split_argument
from dopamine_rl.episodes.pauses import find_pauses, wavers
from dopamine_rl.episodes.raw import KEYFRAMES
from dopamine_rl.episodes.recordings import Recording, check_files, size_of, stride_of
from dopamine_rl.episodes.states import episode_states, too_few_states
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.evaluation.behaviours import kind_of
from dopamine_rl.evaluation.figures import Row, verdict_row
from dopamine_rl.evaluation.plans import Plan, check_single
from dopamine_rl.grm.labels import label
from dopamine_rl.interfaces import OnProgress, no_progress
from dopamine_rl.metrics import EpisodeOutcome, true_outcome
from dopamine_rl.types import EpisodeInfo


@dataclass(frozen=True, eq=False, slots=True)
class UnseenEpisode:
    """An episode that the reward model was not trained on, without its pictures.

    Args:
        plan: how it is scored at its own stride with all cameras.
        truth: float [L], true progress of every video frame, on the demonstrations' scale (Eq. 1); None where nobody
            knows it.
        recorded: float [L], the same on the simulator's scale, whose order it is; without a simulator, as `truth`.
        frame_steps: int64 [L], environment step of every video frame; counts frames where there is no environment.
        expert: a success whose keyframes tell its progress on the way; only such episodes count for VOC.
        verdict: how it ended (figures.verdict_row).
        outcome: the same in three classes (metrics.true_outcome); None where it is not known.
        kind: of behaviour (behaviours.kind_of); "" where it has none.
        pauses: int64 [L], number of the pause that each video frame belongs to; 0 where something moves.
        simulated: `frame_steps` are those of an environment, not frames.
    """

    plan: Plan
    truth: NDArray[np.float64] | None
    recorded: NDArray[np.float64] | None
    frame_steps: NDArray[np.int64]
    expert: bool
    verdict: Row
    outcome: EpisodeOutcome | None
    kind: str
    pauses: NDArray[np.int64]
    simulated: bool

    @property
    def name(self) -> str:
        """Of a raw episode, its folder's."""
        return self.plan.recording.name

    @property
    def stride_steps(self) -> int:
        """Environment steps (frames where there is no environment) from one scored frame to the next."""
        return int(self.frame_steps[min(self.plan.stride, len(self.frame_steps) - 1)])


def read_unseen(
    folders: Sequence[Path],
    demo: Path | None,
    stride: int | None,
    most: int | None,
    threshold: float,
    on_progress: OnProgress = no_progress,
    cameras: Sequence[str] | None = None,
) -> tuple[list[UnseenEpisode], Recording]:
    """The episodes of one task, and the demonstration that references and goal are taken from.

    Args:
        folders: raw folders or LeRobot datasets, as `open_source` takes them. An episode of which nobody recorded
            whether it succeeded counts as a success, as in training.
        demo: one episode's folder, or DATASET#NUMBER; where left out, the first success whose keyframes tell its
            progress. It is not judged.
        stride: video frames from one scored frame to the next; None leaves it to each recording.
        most: at most so many successes and so many failures, evenly spread over the names.
        threshold: final progress from which an episode counts as claimed success.
        on_progress: called for every episode.
        cameras: names of those to use, the front view first; None leaves the choice to the format.
    Raises:
        BadInput: a folder holds no episodes, the episodes show several tasks, or there is nothing to judge or refer to.
        EpisodeError: an episode is malformed, or a folder of videos among the raw episodes has no keyframes.
    """
    listed = {
        episode.recording.identity: episode for folder in folders for episode in _list_episodes(str(folder), cameras)
    }
    reference = _first_annotated(listed.values()) if demo is None else _demonstration(demo, cameras)
    if reference is None:
        raise BadInput("DATA", [str(folder) for folder in folders], "no annotated success is there: give --demo")
    if reference.info.success is False:
        raise BadInput("--demo", str(demo), "it failed: give an episode that succeeded")
    if wavers(reference.info.stages):
        raise BadInput("--demo", str(demo), "it pauses or retreats: give an episode that only advances")
    listed.pop(reference.recording.identity, None)
    episode_states(reference.info, 1.0)
    check_instructions([reference.info])
    listed = {identity: _with_instructions(episode, reference.info) for identity, episode in listed.items()}
    for recording, info in listed.values():
        if info.instructions[0] != reference.info.instructions[0]:
            fix = f"it is of another task than {reference.recording.name}: evaluate each task alone"
            raise BadInput("DATA", recording.name, fix)
        if len(recording.videos) > len(reference.recording.videos):
            fix = f"it has fewer cameras than {recording.name}, {len(recording.videos)}"
            raise BadInput("--demo", reference.recording.name, fix)
    check_files([reference.recording], "--demo")
    check_files([recording for recording, _ in listed.values()], "DATA")
    selected = _spread(_with_states(list(listed.values()), reference.info.stages, on_progress), most)
    if not selected:
        raise BadInput("DATA", [str(folder) for folder in folders], "no episode is left to judge: give more")
    return _labelled(selected, reference, stride, threshold, on_progress), reference.recording


class _Episode(NamedTuple):
    """A recording and its metadata."""

    recording: Recording
    info: EpisodeInfo


def _list_episodes(argument: str, cameras: Sequence[str] | None) -> list[_Episode]:
    """The episodes of a folder or dataset, or the one of DATASET#NUMBER. Raises BadInput if there is none."""
    folder, number = split_argument(argument)
    source = open_source(folder, cameras)
    return [_Episode(recording, source.episode(recording.name)) for recording in list_recordings(source, number)]


def _with_instructions(episode: _Episode, reference: EpisodeInfo) -> _Episode:
    """The episode, with the demonstration's instructions if it has none of its own."""
    if episode.info.instructions:
        return episode
    return episode._replace(info=replace(episode.info, instructions=reference.instructions))


def _demonstration(demo: Path, cameras: Sequence[str] | None) -> _Episode:
    try:
        episodes = _list_episodes(str(demo), cameras)
    except EpisodeError:
        raise
    except BadInput as error:
        if error.field == "--cameras":
            raise
        fix = f"give a raw episode's folder, which has {KEYFRAMES}, or DATASET#NUMBER"
        raise BadInput("--demo", str(demo), error.fix if error.field == "EPISODE" else fix) from error
    check_single(str(demo), [recording for recording, _ in episodes])
    return episodes[0]


def _first_annotated(listed: Iterable[_Episode]) -> _Episode | None:
    """The first success whose keyframes tell its progress."""
    told = [
        episode
        for episode in listed
        if episode.info.success is not False
        and not wavers(episode.info.stages)
        and (episode.info.true_progress is None or len(episode.info.stages) > 1)
    ]
    return next((episode for episode in told if too_few_states(episode.info) is None), told[0] if told else None)


def _annotated(info: EpisodeInfo, stages: Sequence[str]) -> bool:
    """Its keyframes tell progress on the way, in a demonstration's stages.

    Of episodes whose true progress was recorded, those of policies and of scripts that are meant to fail have keyframes
    that mean something else; so have all that pause or retreat.
    """
    if info.success is False or wavers(info.stages):
        return False
    return info.true_progress is None or set(info.stages) <= set(stages)


def _with_states(listed: Sequence[_Episode], stages: Sequence[str], on_progress: OnProgress) -> list[_Episode]:
    """The episodes without the annotated successes that have too few states; raises EpisodeError if none is left."""
    errors = [too_few_states(info) if _annotated(info, stages) else None for _, info in listed]
    short = [error for error in errors if error is not None]
    if short and len(short) == len(listed):
        raise short[0]
    for error in short:
        on_progress(f"skipped: {error}", True)
    return [episode for episode, error in zip(listed, errors, strict=True) if error is None]


def _spread(listed: Sequence[_Episode], most: int | None) -> list[_Episode]:
    selected = []
    for failed in (False, True):
        group = [episode for episode in listed if (episode.info.success is False) == failed]
        count = len(group) if most is None else min(most, len(group))
        selected += [group[i] for i in np.linspace(0, len(group) - 1, count).round().astype(int)]
    return selected


def _labelled(
    listed: Sequence[_Episode],
    reference: _Episode,
    stride: int | None,
    threshold: float,
    on_progress: OnProgress,
) -> list[UnseenEpisode]:
    stages = reference.info.stages
    annotated = [info for _, info in (*listed, reference) if _annotated(info, stages)]
    unseen: list[UnseenEpisode] = []
    for recording, info in listed:
        expert = _annotated(info, stages)
        truth = _truth(info, annotated, expert)
        end = 1.0 if info.success is not False else None if truth is None else float(truth[-1])
        unseen.append(
            UnseenEpisode(
                plan=Plan(
                    recording,
                    reference.recording,
                    info.instructions[0],
                    stride_of(recording, stride, None),
                    size_of(recording),
                    len(recording.videos),
                ),
                truth=truth,
                recorded=truth if info.true_progress is None else info.true_progress.astype(np.float64),
                frame_steps=np.arange(info.frame_count) if info.frame_steps is None else info.frame_steps,
                expert=expert,
                verdict=verdict_row(info, threshold),
                outcome=None if end is None else true_outcome(info.success is not False, end, len(stages)),
                kind=kind_of(recording.name, info.stages),
                pauses=find_pauses(info.keyframes, info.stages, info.frame_count),
                simulated=info.frame_steps is not None,
            )
        )
        on_progress(f"{len(unseen)} of {len(listed)} episodes read", False)
    return unseen


def _truth(info: EpisodeInfo, annotated: Sequence[EpisodeInfo], expert: bool) -> NDArray[np.float64] | None:
    """True progress of every video frame on the demonstrations' scale; None where nobody knows it."""
    if expert:
        return label([info])[0].progress.astype(np.float64)
    if info.true_progress is None or not any(other.true_progress is not None for other in annotated):
        return None
    # Labelled as failures are, by what its true progress means in the annotated successes.
    return label([*annotated, replace(info, success=False)])[-1].progress.astype(np.float64)
