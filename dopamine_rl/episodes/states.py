"""From the keyframes of a demonstration to states with ground-truth progress."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.types import EpisodeInfo

StateRule = Literal["paper", "released"]
"""paper: m = floor(L / C / N), L = frames of the episode. released: m = round(L / C / N), L = last − first keyframe."""


MIN_STATES = 3
"""Fewest states of an episode (METHOD.md section 6)."""


def intervals_per_segment(keyframes: ArrayLike, n_frames: int, frames_per_state: float, rule: StateRule) -> int:
    """Return m, the number of intervals per segment; at least 1, which keeps the two ends of the segment.

    Arguments and errors as for `sample_states`.
    """
    keys = _check_keyframes(keyframes, n_frames)
    if not (math.isfinite(frames_per_state) and frames_per_state > 0):
        raise BadInput("frames_per_state", frames_per_state, "give a finite number of frames above 0")
    if rule not in ("paper", "released"):
        raise BadInput("rule", rule, "give 'paper' or 'released'")
    segments = len(keys) - 1
    if rule == "paper":
        m = math.floor(n_frames / frames_per_state / segments)
    else:
        m = round(float(keys[-1] - keys[0]) / frames_per_state / segments)
    return max(m, 1)


def sample_states(
    keyframes: ArrayLike, n_frames: int, frames_per_state: float, rule: StateRule = "paper"
) -> NDArray[np.int64]:
    """Return the frames of a demonstration's states s_0 … s_M; `state_progress` gives their ground-truth progress.

    Every segment gets the same number of states whatever its duration, so half of the sub-tasks is half of the
    progress.

    Args:
        keyframes: int [N + 1], frame indices of the sub-task boundaries, strictly increasing, in 0 … n_frames − 1.
        n_frames: L, frames per view of the episode.
        frames_per_state: C, frames per state on average.
        rule: how the number of intervals is rounded, and the definition of L.
    Returns:
        int64 [M + 1], strictly increasing frame indices from the first keyframe to the last.
    Raises:
        BadInput: keyframes out of order or range, fewer than 2; frames_per_state not above 0.
    Source: arXiv:2512.23703, Eq. 1.
    """
    m = intervals_per_segment(keyframes, n_frames, frames_per_state, rule)
    keys = _check_keyframes(keyframes, n_frames)
    m = min(m, int(np.diff(keys).max()))  # more intervals than frames give the same states
    segments = [np.rint(np.linspace(start, end, m + 1)) for start, end in pairwise(keys)]
    return np.unique(np.concatenate(segments)).astype(np.int64)


def episode_states(episode: EpisodeInfo, frames_per_state: float, rule: StateRule = "paper") -> NDArray[np.int64]:
    """The states of a recorded episode, int64 [M + 1].

    Raises:
        EpisodeError: it has fewer than 3 states, so none between start and end.
        BadInput: as for `sample_states`.
    """
    states = sample_states(episode.keyframes, episode.frame_count, frames_per_state, rule)
    if len(states) < MIN_STATES:
        fix = "annotate more segments, or use fewer frames per state"
        if frames_per_state <= 1.0:
            fix = "annotate a longer part of it, or use more of its frames"
        fix = f"{fix}: at least {MIN_STATES} states are needed"
        raise EpisodeError(f"{episode.annotation or episode.episode_id}: states", len(states), fix)
    return states


def too_few_states(
    episode: EpisodeInfo, frames_per_state: float = 1.0, rule: StateRule = "paper"
) -> EpisodeError | None:
    """The error of `episode_states` about an episode with too few states; None if it has enough."""
    try:
        episode_states(episode, frames_per_state, rule)
    except EpisodeError as error:
        return error
    return None


def state_progress(n_states: int) -> NDArray[np.float64]:
    """Return the ground truth Φ(s_i) = i / M of M + 1 states, float64 [n_states] from 0 to 1.

    Raises:
        BadInput: fewer than 2 states.
    """
    if n_states < 2:
        raise BadInput("n_states", n_states, "give at least 2 states")
    return np.arange(n_states) / (n_states - 1)


def frame_progress(keyframes: ArrayLike, n_frames: int, frame_ids: ArrayLike) -> NDArray[np.float64]:
    """Return the ground truth of frames of a success, float64 [F]: k / N at keyframe K_k, linear between keyframes.

    This is Eq. 1 for every frame, if every segment has enough frames for its states. Unlike numbering the states, it
    keeps the share of a shorter segment: otherwise a segment of one frame would count as one state, and progress would
    depend on the frame rate.

    Args:
        keyframes, n_frames: as for `sample_states`.
        frame_ids: int [F]; before the first keyframe progress is 0, after the last it is 1.
    Raises:
        BadInput: as `sample_states`.
    Source: arXiv:2512.23703, Eq. 1. Differs: as above, and frames between states are labelled too.
    """
    keys = _check_keyframes(keyframes, n_frames)
    return np.interp(np.asarray(frame_ids), keys, np.linspace(0.0, 1.0, len(keys)))


def _check_keyframes(keyframes: ArrayLike, n_frames: int) -> NDArray[np.int64]:
    keys = np.asarray(keyframes)
    if keys.ndim != 1 or len(keys) < 2 or not np.issubdtype(keys.dtype, np.integer):
        raise BadInput("keyframes", keys, "give at least 2 whole frame indices, [N + 1]")
    if np.any(np.diff(keys.astype(np.int64)) <= 0) or keys[0] < 0 or keys[-1] >= n_frames:
        raise BadInput("keyframes", keys, f"give strictly increasing frame indices in 0 … {n_frames - 1}")
    return keys.astype(np.int64)
