"""Reduce a recorded episode to a larger stride."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from dopamine_rl.errors import BadInput
from dopamine_rl.types import Demonstration


def at_stride(demonstration: Demonstration, stride: int) -> Demonstration:
    """Keep the frames that an environment with this stride scores: one every `stride` environment steps, and the last.

    A stage starts at the first remaining frame at or after its start; a stage that has ended by then is dropped.
    Transitions are not changed.

    Args:
        stride: environment steps between frames, a multiple of the recorded stride.
    Raises:
        BadInput: a required frame was not recorded, or no stage is left.
    """
    if stride < 1:
        raise BadInput("stride", stride, "give at least 1")
    steps = demonstration.frame_steps
    scored_steps = np.union1d(np.arange(0, steps[-1], stride), steps[-1:])
    missing = np.setdiff1d(scored_steps, steps)
    if len(missing):
        fix = f"give a multiple of the recorded stride: there is no frame at environment step {missing[0]}"
        raise BadInput("stride", stride, fix)
    keyframes = np.searchsorted(scored_steps, steps[demonstration.keyframes])
    stages = tuple(name for name, (a, b) in zip(demonstration.stages, pairwise(keyframes), strict=True) if a < b)
    if not stages:
        raise BadInput("stride", stride, f"give a smaller one: no stage of {demonstration.episode_id} is left")
    frame_ids = np.searchsorted(steps, scored_steps)
    truth, poses = demonstration.true_progress, demonstration.tool_poses
    return replace(
        demonstration,
        frames=demonstration.frames[frame_ids],
        frame_steps=steps[frame_ids],
        keyframes=np.unique(keyframes),
        stages=stages,
        true_progress=None if truth is None else truth[frame_ids],
        tool_poses=None if poses is None else poses[frame_ids],
    )
