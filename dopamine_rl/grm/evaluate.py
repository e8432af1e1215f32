"""Asks a reward model in training, directly, about episodes that it has not seen; `evaluation` makes figures of the
answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dopamine_rl.evaluation.answers import EpisodeHops
from dopamine_rl.evaluation.held_out import held_out_figures
from dopamine_rl.grm.labels import LabelledEpisode
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.readout import binned_hops, encode_images, forward_logits
from dopamine_rl.interfaces import Prompt
from dopamine_rl.metrics import MIN_POINTS

MOST_FRAMES = 24
"""Of an episode that is judged while a model is trained."""


def episode_hops(
    grm: GRM, episode: LabelledEpisode, demonstration: LabelledEpisode, frames: NDArray[np.int64]
) -> EpisodeHops:
    """Ask about the chosen frames of an episode, the first of which is its INIT.

    Args:
        demonstration: where the references and the goal come from; a success of the same task.
        frames: int64 [T + 1], increasing.
    """
    views = episode.frames.shape[1]
    sources = [demonstration.frames[0][:1], demonstration.frames[-1], *(episode.frames[frame] for frame in frames)]
    images = np.concatenate(sources)
    goal = tuple(range(1, 1 + views))
    shown = [tuple(range(1 + views * (row + 1), 1 + views * (row + 2))) for row in range(len(frames))]
    instruction = episode.instructions[0]
    questions = [
        pair
        for row in range(1, len(frames))
        for pair in (
            (shown[row - 1], shown[row]),
            (shown[0], shown[row]),
            (goal, shown[row]),
            (shown[row], shown[row - 1]),
        )
    ]
    prompts = [Prompt(instruction, (0, goal[0]), before, after) for before, after in questions]
    with torch.inference_mode():
        estimates = binned_hops(forward_logits(grm, encode_images(grm, images), prompts))
    gain, loss, entropy = (values.cpu().numpy().reshape(-1, 4) for values in estimates)
    valid = np.ones(len(gain), bool)
    return EpisodeHops(frames, gain[:, :3], loss[:, :3], entropy[:, :3], valid, gain[:, 3] - loss[:, 3])


def spread(count: int, most: int = MOST_FRAMES) -> NDArray[np.int64]:
    """At most `most` of `count` frames, evenly spread from the first to the last, increasing."""
    return np.unique(np.linspace(0, count - 1, max(min(most, count), MIN_POINTS)).round().astype(np.int64))


def evaluate(
    grm: GRM, episodes: Sequence[LabelledEpisode], demonstration: LabelledEpisode, most_frames: int = MOST_FRAMES
) -> dict[str, float]:
    """The figures of `held_out_figures`, from at most `most_frames` evenly spread frames of each episode.

    Raises:
        BadInput: no success among the episodes.
    """
    return held_out_figures(
        [
            (episode.labels, episode_hops(grm, episode, demonstration, spread(len(episode.frames), most_frames)))
            for episode in episodes
        ]
    )
