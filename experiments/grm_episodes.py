"""Unseen episodes to judge a reward model by: how each is scored, what it truly shows, and how it truly ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.raw import KEYFRAMES, TRANSITIONS, list_episodes, read_demonstration, read_raw_episode
from dopamine_rl.errors import BadInput
from dopamine_rl.grm.labels import label_episodes
from dopamine_rl.metrics import EpisodeOutcome, true_outcome
from dopamine_rl.types import Demonstration
from experiments.gate_figures import Row, verdict_row
from experiments.recordings import Recording, find_recordings, size_of, stride_of
from experiments.score_plan import Plan


@dataclass(frozen=True, eq=False, slots=True)
class UnseenEpisode:
    """An episode that the reward model was not trained on, without its pictures.

    Args:
        plan: how it is scored at its own stride with all cameras.
        truth: float [L], true progress of every video frame, on the demonstrations' scale (Eq. 1); None where nobody
            knows it.
        frame_steps: int64 [L], environment step of every video frame; counts frames where there is no environment.
        expert: a success whose keyframes tell its progress on the way; only such episodes count for VOC.
        verdict: how it ended (gate_figures.verdict_row).
        outcome: the same in three classes (metrics.true_outcome); None where it is not known.
    """

    plan: Plan
    truth: NDArray[np.float64] | None
    frame_steps: NDArray[np.int64]
    expert: bool
    verdict: Row
    outcome: EpisodeOutcome | None

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.plan.recording.name

    @property
    def stride_steps(self) -> int:
        """Environment steps from one scored frame to the next."""
        return int(self.frame_steps[min(self.plan.stride, len(self.frame_steps) - 1)])


def read_unseen(
    folders: Sequence[Path],
    demo: Path | None,
    stride: int | None,
    most: int | None,
    threshold: float,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[UnseenEpisode], Recording]:
    """The episodes of raw folders of one task, and the demonstration that references and goal are taken from.

    Args:
        demo: an episode's folder; where left out, the first annotated success, which is then not judged.
        stride: video frames from one scored frame to the next; None leaves it to each recording.
        most: at most so many successes and so many failures, evenly spread over the names.
        threshold: final progress from which an episode counts as claimed success.
        on_progress: called with the number of episodes read and of all.
    Raises:
        BadInput: a folder holds no episodes, the episodes show several tasks, or there is nothing to judge or refer to.
    """
    recordings = {path.resolve(): _recording(path) for folder in folders for path in _episodes(folder)}
    shown = _first_annotated(recordings) if demo is None else demo.resolve()
    if shown is None:
        raise BadInput("DATA", [str(folder) for folder in folders], "no annotated success is there: give --demo")
    if not (shown / KEYFRAMES).exists():
        raise BadInput("--demo", str(shown), f"give a raw episode's folder; this one has no {KEYFRAMES}")
    reference = recordings.pop(shown, None) or _recording(shown)
    if reference.success is False:
        raise BadInput("--demo", str(shown), "it failed: give an episode that succeeded")
    for path, recording in recordings.items():
        if recording.instructions != reference.instructions:
            raise BadInput("DATA", str(path), f"it is of another task than {shown.name}: evaluate each task alone")
        if len(recording.videos) > len(reference.videos):
            raise BadInput("--demo", shown.name, f"it has fewer cameras than {path.name}, {len(recording.videos)}")
    kept = _spread(recordings, most)
    if not kept:
        raise BadInput("DATA", [str(folder) for folder in folders], "no episode is left to judge: give more")
    episodes = []
    for path, recording in kept:
        episodes.append((recording, _read(path)))
        on_progress(len(episodes), len(kept))
    return _labelled(episodes, (reference, _read(shown)), stride, threshold), reference


def _episodes(folder: Path) -> list[Path]:
    found = list_episodes(folder)
    if not found:
        raise BadInput("DATA", str(folder), "give a folder of raw episodes, as dopamine_rl.episodes.raw describes it")
    return found


def _recording(folder: Path) -> Recording:
    [recording] = find_recordings(str(folder))
    return recording


def _first_annotated(recordings: Mapping[Path, Recording]) -> Path | None:
    """The first success with stages."""
    for path, recording in recordings.items():
        if recording.success is not False:
            known = _read(path)
            if known.true_progress is None or len(known.stages) > 1:
                return path
    return None


def _read(folder: Path) -> Demonstration:
    """What is known of an episode; of its pictures one pixel is kept."""
    if not (folder / TRANSITIONS).exists():
        return _plain(folder)
    demonstration = read_demonstration(folder)
    return replace(demonstration, frames=demonstration.frames[:, :1, :1, :1].copy())


def _plain(folder: Path) -> Demonstration:
    """An annotated episode that came without transitions: a success, whose keyframes tell its progress."""
    raw = read_raw_episode(folder, [0], (1, 1))
    return Demonstration(
        episode_id=raw.episode_id,
        instructions=raw.instructions,
        frames=np.zeros((raw.frame_count, 1, 1, 1, 3), np.uint8),
        frame_steps=np.arange(raw.frame_count),
        keyframes=raw.keyframes,
        stages=raw.stages,
        observations=np.zeros((1, 0), np.float32),
        actions=np.zeros((0, 0), np.float32),
        task_rewards=np.zeros(0, np.float32),
        terminated=True,
        success=True,
        seed=0,
    )


def _annotated(episode: Demonstration, stages: Sequence[str]) -> bool:
    """Its keyframes tell progress on the way, in a demonstration's stages.

    Of episodes whose true progress was recorded, those of policies and of scripts that are meant to fail have keyframes
    that mean something else.
    """
    return episode.success and (episode.true_progress is None or set(episode.stages) <= set(stages))


def _spread(recordings: Mapping[Path, Recording], most: int | None) -> list[tuple[Path, Recording]]:
    kept = []
    for failed in (False, True):
        alike = [item for item in recordings.items() if (item[1].success is False) == failed]
        count = len(alike) if most is None else min(most, len(alike))
        kept += [alike[i] for i in np.linspace(0, len(alike) - 1, count).round().astype(int)]
    return kept


def _labelled(
    episodes: Sequence[tuple[Recording, Demonstration]],
    reference: tuple[Recording, Demonstration],
    stride: int | None,
    threshold: float,
) -> list[UnseenEpisode]:
    stages = reference[1].stages
    shown = [known for _, known in (*episodes, reference) if _annotated(known, stages)]
    scale_known = any(known.true_progress is not None for known in shown)
    unseen = []
    for recording, known in episodes:
        expert, truth = _annotated(known, stages), None
        if expert:
            truth = label_episodes([known])[0].progress.astype(np.float64)
        elif scale_known and known.true_progress is not None:
            # Labelled as failures are, by what its true progress means in the annotated successes.
            truth = label_episodes([*shown, replace(known, success=False)])[-1].progress.astype(np.float64)
        end = 1.0 if known.success else None if truth is None else float(truth[-1])
        outcome = None if end is None else true_outcome(known.success, end, len(stages))
        plan = Plan(
            recording, reference[0], known.instructions[0], stride_of(recording, stride, None), size_of(recording),
            len(recording.videos),
        )  # fmt: skip
        unseen.append(UnseenEpisode(plan, truth, known.frame_steps, expert, verdict_row(known, threshold), outcome))
    return unseen
