"""How well a reward model follows episodes it has not seen: the three perspectives, folded as in a run, against the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dopamine_rl import metrics
from dopamine_rl.errors import BadInput
from dopamine_rl.grm.labels import LabelledEpisode
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.readout import binned_hops, encode_images, forward_logits
from dopamine_rl.interfaces import Prompt
from dopamine_rl.progress import FoldState, fold
from dopamine_rl.types import FusionConfig

MOST_FRAMES = 24
"""Of an episode that is judged while a model is trained."""


def episode_hops(
    grm: GRM, episode: LabelledEpisode, demonstration: LabelledEpisode, frames: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Ask about the chosen frames of an episode, the first of which is its INIT.

    Args:
        demonstration: where the references and the goal come from; a success of the same task.
        frames: int64 [T + 1], increasing.
    Returns:
        gain and loss float32 [T, 3] in the order of `PERSPECTIVES`, and float32 [T], the hop from each frame back to
        the one before it.
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
        gain, loss, _ = binned_hops(forward_logits(grm, encode_images(grm, images), prompts))
    gains, losses = gain.cpu().numpy().reshape(-1, 4), loss.cpu().numpy().reshape(-1, 4)
    return gains[:, :3], losses[:, :3], gains[:, 3] - losses[:, 3]


def spread(count: int, most: int = MOST_FRAMES) -> NDArray[np.int64]:
    """At most `most` of `count` frames, evenly spread from the first to the last, increasing."""
    return np.unique(np.linspace(0, count - 1, max(min(most, count), metrics.MIN_POINTS)).round().astype(np.int64))


def evaluate(
    grm: GRM, episodes: Sequence[LabelledEpisode], demonstration: LabelledEpisode, most_frames: int = MOST_FRAMES
) -> dict[str, float]:
    """Mean figures over unseen episodes, at most `most_frames` evenly spread frames of each.

    Returns:
        For successes voc_plus, voc_minus, spearman (fused progress against the truth), mae, end (final fused progress);
        with failures also end_failures and auc (success against failure by the final progress). The rank correlations
        (the first three) are over successes of at least `metrics.MIN_POINTS` frames, and left out where there is none.
    Raises:
        BadInput: no success among the episodes.
    """
    rows: dict[str, list[float]] = {"voc_plus": [], "voc_minus": [], "spearman": [], "mae": []}
    ends: dict[bool, list[float]] = {True: [], False: []}
    for episode in episodes:
        frames = spread(len(episode.frames), most_frames)
        gain, loss, back = episode_hops(grm, episode, demonstration, frames)
        folded, _ = fold(FoldState(), gain, loss, np.ones(len(gain), bool), FusionConfig())
        ends[episode.success].append(float(folded.progress[-1]))
        if not episode.success:
            continue
        truth = episode.progress[frames[1:]]
        rows["mae"].append(metrics.progress_mae(folded.progress, truth))
        if len(frames) < metrics.MIN_POINTS:
            continue
        rows["voc_plus"].append(metrics.voc_plus(gain[:, 0] - loss[:, 0]))
        rows["voc_minus"].append(metrics.voc_minus(back))
        rows["spearman"].append(metrics.spearman(folded.progress, truth))
    if not ends[True]:
        raise BadInput("episodes", len(episodes), "evaluate on at least one successful episode")
    means = {name: float(np.mean(values)) for name, values in rows.items() if values}
    figures = means | {"end": float(np.mean(ends[True]))}
    if ends[False]:
        figures["end_failures"] = float(np.mean(ends[False]))
        figures["auc"] = metrics.auc(ends[True], ends[False])
    return figures
