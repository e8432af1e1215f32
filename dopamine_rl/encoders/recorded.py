"""Recorded episodes as the policy would have seen them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.encoders.eyes import Eyes
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Demonstration

SHIFT_SHARE = 1 / 28
"""Largest shift of a picture in each direction, as a share of its side: 4 pixels of 112 (arXiv:2004.13649 shifts 84
pixels by up to 4)."""


def encoded(demonstration: Demonstration, eyes: Eyes, views: Sequence[str]) -> Demonstration:
    """An episode whose observations are what a learner is given of a policy with eyes.

    Args:
        demonstration: with a frame at every environment step, and proprioception as observations, float32 [T+1, P].
        eyes: of the policy.
        views: names of the frames' views, in their order.
    Raises:
        BadInput: a view or the frame of a step was not recorded.
    """
    seen = eyes.given(demonstration.observations, seen_pictures(demonstration, eyes, views))
    return replace(demonstration, observations=seen)


def shifted(demonstration: Demonstration, eyes: Eyes, views: Sequence[str], seed: int) -> Demonstration:
    """`encoded`, from pictures that are each shifted at random, the same at no two steps; arguments as there."""
    pictures = seen_pictures(demonstration, eyes, views)
    moved = shift(pictures, np.random.default_rng(seed))
    return replace(demonstration, observations=eyes.vectors(demonstration.observations, moved))


def seen_pictures(demonstration: Demonstration, eyes: Eyes, views: Sequence[str]) -> NDArray[np.uint8]:
    """What the policy sees at every environment step: uint8 [T+1, V, H, W, 3]. Raises BadInput as `encoded`."""
    missing = [view for view in eyes.sight.views if view not in views]
    if missing:
        raise BadInput("views", tuple(views), f"record {missing[0]} too: the policy sees it")
    if len(demonstration.frames) != len(demonstration.observations):
        fix = f"record {demonstration.episode_id} with a frame at every environment step: the policy sees each"
        raise BadInput("frame_steps", len(demonstration.frames), fix)
    return demonstration.frames[:, [views.index(view) for view in eyes.sight.views]]


def shift_reach(height: int, width: int) -> int:
    """The largest shift of a picture in each direction, pixels."""
    return max(1, round(SHIFT_SHARE * min(height, width)))


def shift(pictures: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Shift each picture by whole pixels; what comes in repeats the edge. Args: pictures: uint8 [..., H, W, 3]."""
    height, width = pictures.shape[-3:-1]
    reach = shift_reach(height, width)
    flat = pictures.reshape(-1, height, width, 3)
    padded = np.pad(flat, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    offsets = rng.integers(0, 2 * reach + 1, (len(flat), 2))
    moved = [image[y : y + height, x : x + width] for image, (y, x) in zip(padded, offsets, strict=True)]
    return np.stack(moved).reshape(pictures.shape)
