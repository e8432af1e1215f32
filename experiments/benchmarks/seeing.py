"""Updates/s and memory of a learner whose policy sees pictures, with a full replay buffer."""

from __future__ import annotations

import resource
import time
from typing import Any, Literal

import numpy as np
import torch

from dopamine_rl.encoders.packing import Packing
from learner.algorithms.updater import Updater, build_agent
from learner.algorithms.vision import VisionShape
from learner.config import LearnerConfig
from learner.feed import ReplayFeed
from learner.replay import ColumnarReplay

Sees = Literal["features", "pictures"]
PROPRIOCEPTION, ACTION_SIZE, EPISODE, GAMMA = 14, 6, 100, 0.97
SHAPES = {
    "features": VisionShape(Packing(PROPRIOCEPTION, 2 * 512, "float16")),
    "pictures": VisionShape(Packing(PROPRIOCEPTION, 2 * 3 * 64**2, "uint8"), side=64, towers=2),
}
"""Two views: features as grm-mini gives them, and pictures for encoder cnn under a residual policy."""


def measure(sees: Sees, transitions: int, updates: int, batch_size: int) -> dict[str, Any]:
    """Fill a replay buffer and update from it, as RLPD does without Ray.

    Args:
        transitions: in the buffer.
        updates: timed ones, in CPU time of the thread, after one that is not.
        batch_size: transitions of an update.
    Returns:
        updates_per_s; sampling_ms of a batch; bytes_per_transition, stored, and bytes_both_observations, what a row
        with both observations as float32 (features) or as bytes (pictures) would take; peak_memory_gb of the process.
    """
    torch.set_num_threads(1)
    shape = SHAPES[sees]
    replay = filled(shape.packing, transitions)
    config = LearnerConfig(
        hidden=(256, 256), batch_size=batch_size, demo_share=0.0, learning_starts=1, residual_scale=0.3
    )
    updater = Updater(build_agent(0, ACTION_SIZE, config, (128, 128), shape), config, GAMMA, 0)
    feed, sampling_s = ReplayFeed(replay, None, config, 0), 0.0
    for update in range(updates + 1):
        if update == 1:
            began, sampling_s = time.thread_time(), 0.0
        sampled = time.thread_time()
        batch = {name: torch.from_numpy(values[0]) for name, values in feed.draw(1).items()}
        sampling_s += time.thread_time() - sampled
        updater.update(batch)
    seconds = time.thread_time() - began
    numbers = PROPRIOCEPTION + shape.packing.seen
    both = 2 * (shape.packing.width if sees == "pictures" else 4 * numbers)
    return {
        "sees": sees,
        "transitions": transitions,
        "batch_size": batch_size,
        "updates_per_s": round(updates / seconds, 2),
        "sampling_ms": round(1e3 * sampling_s / updates, 3),
        "bytes_per_transition": replay.layout.bytes,
        "bytes_both_observations": 4 * replay.layout.width + both,
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }


def filled(packing: Packing, transitions: int) -> ColumnarReplay:
    """A buffer full of made-up episodes."""
    rng = np.random.default_rng(0)
    replay = ColumnarReplay(transitions, packing.width, ACTION_SIZE, GAMMA, "grm", packing=packing)
    high = 256 if packing.kind == "uint8" else 1
    for start in range(0, transitions, EPISODE):
        count = min(EPISODE, transitions - start)
        seen = rng.integers(0, high, (count + 1, packing.seen), np.uint8)
        observations = packing.pack(rng.normal(size=(count + 1, packing.proprioception)), seen)
        columns: dict[str, Any] = {
            "obs": observations[:-1],
            "next_obs": observations[1:],
            "actions": rng.uniform(-1, 1, (count, ACTION_SIZE)),
            "task_reward": rng.normal(size=count),
            "terminated": np.zeros(count),
        }
        replay.add(columns, str(start))
    return replay
