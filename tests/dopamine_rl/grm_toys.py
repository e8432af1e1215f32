"""A tiny reward model and episodes whose progress can be seen: a square that moves to its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.grm.batches import in_memory
from dopamine_rl.grm.config import GRMConfig, TrainConfig
from dopamine_rl.grm.labels import LabelledEpisode, label
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.train import Trainer
from dopamine_rl.types import Demonstration, EpisodeInfo

TINY = GRMConfig(
    image_size=56, patch=14, vision_width=32, vision_depth=1, vision_heads=2, text_width=32, text_depth=2, text_heads=2
)


def pictures(n: int, seed: int = 0, height: int = 56, width: int = 56) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def moving_square(
    seed: int, success: bool = True, count: int = 24, size: int = 56, views: int = 2, shift: float = 0.3
) -> LabelledEpisode:
    """A square goes from a random place to (0.85, 0.5) of the picture, not evenly in time; a failure stops half-way."""
    rng = np.random.default_rng(seed)
    progress = np.linspace(0.0, 1.0 if success else 0.5, count) ** rng.uniform(0.8, 1.25)
    x, y = rng.uniform(0.0, shift), rng.uniform(0.5 - shift, 0.5 + shift)
    side = size // 6
    frames = np.full((count, views, size, size, 3), 70, np.uint8)
    for f, done in enumerate(progress):
        left, top = int((x + (0.85 - x) * done) * (size - side)), int((y + (0.5 - y) * done) * (size - side))
        frames[f, 0, top : top + side, left : left + side] = (230, 80, 40)
        frames[f, 1:, left : left + side, top : top + side] = (40, 80, 230)
    states = np.arange(count) if success else np.zeros(0, np.int64)
    return LabelledEpisode(("push the block",), frames, progress.astype(np.float32), states)


def labelled(*demonstrations: Demonstration) -> list[LabelledEpisode]:
    """Episodes in memory with the progress that training gives them."""
    labels = label([EpisodeInfo.of(demonstration) for demonstration in demonstrations])
    return [
        LabelledEpisode(known.instructions, demonstration.frames, known.progress, known.states)
        for known, demonstration in zip(labels, demonstrations, strict=True)
    ]


def record_squares(folder: Path, successes: int, failures: int, count: int = 10, task: str = "push the block") -> Path:
    """Raw episodes of the moving square; failures are the last, with their true progress."""
    for index in range(successes + failures):
        shown = moving_square(index, index < successes, count)
        write_demonstration(
            folder,
            Demonstration(
                episode_id=f"episode_{index:03d}",
                instructions=(task,),
                frames=shown.frames,
                frame_steps=np.arange(count),
                keyframes=np.array([0, count // 2, count - 1]),
                stages=("near", "push"),
                observations=np.zeros((count, 3), np.float32),
                actions=np.zeros((count - 1, 2), np.float32),
                task_rewards=np.zeros(count - 1, np.float32),
                terminated=index < successes,
                success=index < successes,
                seed=index,
                true_progress=shown.progress,
            ),
        )
    return folder


def make_trainer(grm: GRM, episodes: Sequence[LabelledEpisode], config: TrainConfig, sharded: bool = False) -> Trainer:
    return Trainer(grm, in_memory(episodes, config), config, sharded)
