"""A reward model's answers about unseen episodes: asked once for each stride and choice of cameras, and kept on disk.

Everything else (perspectives, fusions, curves, figures) follows from these hops without asking again.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.recordings import Pictures, Recording, read_frames
from dopamine_rl.evaluation.answers import EpisodeHops, both_directions, join_directions
from dopamine_rl.evaluation.plans import Plan
from dopamine_rl.evaluation.scoring import ScoringConfig
from dopamine_rl.evaluation.unseen import UnseenEpisode
from dopamine_rl.files import fingerprint, write_atomically, write_npz
from dopamine_rl.interfaces import OnProgress, RewardClient
from dopamine_rl.types import TaskReference

MULTIPLES = (2, 4)
"""Of the stride, that are compared with it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Which pictures the model is shown.

    Args:
        multiple: one frame in so many of those that the episode's own stride gives, and the last.
        shown: indices of the cameras that it sees; the others' pictures are blank, as in training with dropped views.
            None shows all.
    """

    multiple: int = 1
    shown: tuple[int, ...] | None = None


FIELDS = ("frame_ids", "gain", "loss", "entropy", "valid", "swapped")


class HopStore:
    """Asks a model about episodes, and keeps its answers in a folder under a name that all they depend on is part of.

    Args:
        folder: where they are kept.
        client, version: who answers.
        reference: the demonstration that references and goal are taken from.
        scoring: how an episode is asked for.

    `asked` counts what was not there yet: an episode in a setting each.
    """

    def __init__(
        self, folder: Path, client: RewardClient, version: str, reference: Recording, scoring: ScoringConfig
    ) -> None:
        self._folder, self._client, self._version = folder, client, version
        self._reference, self._scoring = reference, scoring
        self._shown: dict[tuple[tuple[int, int], int], NDArray[np.uint8]] = {}
        self.asked = 0

    def answers(
        self, episode: UnseenEpisode, settings: Mapping[str, Setting], on_progress: OnProgress
    ) -> dict[str, EpisodeHops]:
        """The answers about an episode by setting, from the folder where they are there.

        Args:
            on_progress: called with each setting's name and number of frames.
        Raises:
            BadInput: its videos cannot be used.
            ScoringError: the service did not answer.
        """
        paths = {name: self._path(episode, setting) for name, setting in settings.items()}
        found = {name: _kept(path) for name, path in paths.items()}
        missing = [name for name, kept in found.items() if kept is None]
        if missing:
            plan = episode.plan
            pictures = read_frames(plan.recording, plan.stride, plan.size, plan.views)
            for name in missing:
                asked = self._ask(episode, settings[name], pictures, _prefixed(on_progress, f"{name}: "))
                fields = {field: getattr(asked, field) for field in FIELDS}
                write_atomically(paths[name], partial(write_npz, arrays=fields))
                found[name] = asked
                self.asked += 1
        return {name: answers for name, answers in found.items() if answers is not None}

    def _path(self, episode: UnseenEpisode, setting: Setting) -> Path:
        plan = episode.plan
        asked = (plan.instruction, plan.size, plan.views, plan.stride * setting.multiple, setting.shown)
        key = fingerprint((self._version, plan.recording.identity, self._reference.identity, asked))
        return self._folder / f"{episode.name}.{key}.npz"

    def _ask(
        self, episode: UnseenEpisode, setting: Setting, pictures: Pictures, on_progress: OnProgress
    ) -> EpisodeHops:
        plan, ids = episode.plan, pictures.frame_ids
        chosen = np.flatnonzero((ids % (plan.stride * setting.multiple) == 0) | (ids == ids[-1]))
        frames, ends = pictures.frames[chosen], self._ends(plan)
        goal = ends[-1].copy()
        if setting.shown is not None:
            hidden = [camera for camera in range(plan.views) if camera not in setting.shown]
            frames[:, hidden] = 0
            goal[hidden] = 0
        reference = TaskReference(plan.instruction, ends[0, 0], ends[-1, 0], goal)
        context = replace(reference.context(episode.name, frames[0]), model_version=self._version)
        forwards, backwards = both_directions(self._client, context, frames, self._scoring)
        return join_directions(
            ids[chosen], forwards.run(on_progress), backwards.run(_prefixed(on_progress, "in reverse, "))
        )

    def _ends(self, plan: Plan) -> NDArray[np.uint8]:
        """First and last frame of the demonstration, uint8 [2, V, H, W, 3]."""
        shape = plan.size, plan.views
        if shape not in self._shown:
            self._shown[shape] = read_frames(self._reference, sys.maxsize, plan.size, plan.views).frames
        return self._shown[shape]


def ask_all(
    store: HopStore, episodes: Sequence[UnseenEpisode], settings: Mapping[str, Setting], on_progress: OnProgress
) -> dict[str, list[tuple[UnseenEpisode, EpisodeHops]]]:
    """The answers about every episode, by setting.

    Args:
        settings: by name.
        on_progress: called with the numbers of episodes and frames.
    Raises:
        ScoringError: the model did not answer; what it answered by then is kept.
    """
    answered: dict[str, list[tuple[UnseenEpisode, EpisodeHops]]] = {name: [] for name in settings}
    for number, episode in enumerate(episodes, 1):
        report = _prefixed(on_progress, f"episode {number} of {len(episodes)}, ")
        for name, hops in store.answers(episode, settings, report).items():
            answered[name].append((episode, hops))
    return answered


def _prefixed(on_progress: OnProgress, prefix: str) -> OnProgress:
    return lambda text, matters: on_progress(prefix + text, matters)


def _kept(path: Path) -> EpisodeHops | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return EpisodeHops(**{name: file[name] for name in FIELDS})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
