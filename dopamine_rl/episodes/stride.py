"""A recorded episode as it would have been recorded with a larger stride."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from dopamine_rl.errors import BadInput
from dopamine_rl.types import Demonstration


def at_stride(demonstration: Demonstration, stride: int) -> Demonstration:
    """Keep the frames that an environment of this stride scores: one every `stride` environment steps, and the last.

    A stage begins with the first kept frame at or after its own first one; a stage that is over by then is left out.
    Transitions stay as they are.

    Args:
        stride: environment steps between two frames, a multiple of the recorded stride.
    Raises:
        BadInput: a frame that is needed was not recorded, or no stage is left.
    """
    if stride < 1:
        raise BadInput("stride", stride, "give at least 1")
    steps = demonstration.frame_steps
    wanted = np.union1d(np.arange(0, steps[-1], stride), steps[-1:])
    missing = np.setdiff1d(wanted, steps)
    if len(missing):
        raise BadInput(
            "stride", stride, f"give a multiple of the recorded one: no frame at environment step {missing[0]}"
        )
    keyframes = np.searchsorted(wanted, steps[demonstration.keyframes])
    stages = tuple(name for name, (a, b) in zip(demonstration.stages, pairwise(keyframes), strict=True) if a < b)
    if not stages:
        raise BadInput("stride", stride, f"give a smaller one: no stage of {demonstration.episode_id} is left")
    kept = np.searchsorted(steps, wanted)
    truth = demonstration.true_progress
    return replace(
        demonstration,
        frames=demonstration.frames[kept],
        frame_steps=steps[kept],
        keyframes=np.unique(keyframes),
        stages=stages,
        true_progress=None if truth is None else truth[kept],
    )
