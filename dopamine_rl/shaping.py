"""Potential-based shaping with a held potential.

The potential of environment step t is the fused progress of the last frame scored at or before t. Every step is shaped,
so shaping telescopes over any window and stride, and an action has no effect before a scored frame shows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dopamine_rl.errors import BadInput
from dopamine_rl.progress import check_interval
from dopamine_rl.types import UNSHAPED, RewardMode


@dataclass(frozen=True, slots=True)
class Shaping:
    """How much of the potential is paid, and whether progress itself is.

    Args:
        scale: s, factor of γΦ' − Φ, 0 or more. sΦ is a potential too, so the optimal policy stays the same.
        progress: b, weight of progress as a reward of its own, 0 or more: b(1 − γ)Φ' a step, and b for a success, as if
            progress stayed 1 for ever. The return grows by b times the discounted mean of progress. A policy that has
            never succeeded is then drawn to high progress for good, not only until its critics know Φ; for that, among
            policies that fail the one with more progress is best. To finish always pays more than to hover.
    Raises:
        BadInput: a number out of range.
    """

    scale: float = 1.0
    progress: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "progress"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise BadInput(name, getattr(self, name), "give a finite number, 0 or more")


FULL = Shaping()
"""Potential-based shaping as it is, Eq. 14."""


def held_potential(score_times: ArrayLike, progress: ArrayLike, T: int, start: float) -> NDArray[np.float32]:
    """Return the potential at the T + 1 observations of a fragment, held between scored frames.

    Args:
        score_times: int [F], observation index (0 … T) of each scored frame, strictly increasing.
        progress: float [F], fused Φ* of each scored frame (already held where its answer was invalid), in [0, 1].
        T: number of environment steps of the fragment.
        start: Φ* of the last frame scored before the fragment, in [0, 1]; 0 at the start of an episode.
    Returns:
        float32 [T + 1] in [0, 1]; entry t uses only frames scored at or before t.
    Raises:
        BadInput: times out of order or range, shapes differ, a progress outside [0, 1].
    Source: arXiv:2512.23703, Eq. 14; holding between scored frames is ours.
    """
    times = _check_times(score_times, T)
    values = check_interval("progress", progress)
    if values.shape != times.shape:
        raise BadInput("progress", values.shape, f"give one value for each of the {len(times)} scored frames")
    potentials = np.concatenate([[float(check_interval("start", start))], values])
    return potentials[_frames_scored(times, T)].astype(np.float32)


def phase(score_times: ArrayLike, T: int, stride: int, start: int = 0) -> NDArray[np.float32]:
    """Return the age of the held potential at each observation: environment steps since the last scored frame / stride.

    Args:
        score_times: int [F], observation index (0 … T) of each scored frame, strictly increasing.
        T: number of environment steps of the fragment.
        stride: environment steps between scored frames.
        start: environment steps between the last frame scored before the fragment and its first observation.
    Returns:
        float32 [T + 1] in [0, 1).
    Raises:
        BadInput: times out of order or range, or further apart than the stride.
    """
    if stride < 1:
        raise BadInput("stride", stride, "give at least 1 environment step")
    times = _check_times(score_times, T)
    score_times_with_start = np.concatenate([[-start], times])
    age = np.arange(T + 1) - score_times_with_start[_frames_scored(times, T)]
    if age.max() >= stride or start < 0:
        raise BadInput("score_times", times, f"score a frame at least every {stride} environment steps")
    return (age / stride).astype(np.float32)


def next_potentials(potential: ArrayLike, terminated: bool) -> NDArray[np.float32]:
    """Return the potential after each step: shifted by one, and 0 after a step that ends the task.

    Truncation is not termination: if time ran out, or a fragment was cut, the potential keeps its value and the learner
    bootstraps.

    Args:
        potential: float [T + 1], `held_potential` of the fragment.
        terminated: the last step ended the task.
    Returns:
        float32 [T].
    """
    after = np.array(potential, np.float32)[1:]
    if terminated:
        after[-1:] = 0.0
    return after


def shaped_reward(
    task_reward: ArrayLike,
    potential: ArrayLike,
    next_potential: ArrayLike,
    gamma: float,
    mode: RewardMode,
    shaping: Shaping = FULL,
) -> NDArray[np.float32]:
    """Return the learner's reward. Both the labeller and replay compute it with this function.

    Values are first rounded to float32, as the columns store them, so both get identical bits.

    Args:
        task_reward: from the task; any shape.
        potential, next_potential: held Φ before and after the step (0 after termination), same shape.
        gamma: the learner's discount in (0, 1]; γ^k where it acts in macro-steps of k environment steps.
        mode: grm and oracle: task + s(γΦ' − Φ) + b((1 − γ)Φ' + task); naive: task + s(Φ' − Φ) (the semantic trap);
            sparse, dense: the task reward only.
        shaping: s and b. The task reward is 1 for a success.
    Returns:
        float32 of the same shape.
    Raises:
        BadInput: unknown mode, γ out of range, naive with a reward for progress, shapes differ, or a value that is
            not finite.
    Source: arXiv:2512.23703, Eq. 14.
    """
    if not 0.0 < gamma <= 1.0:
        raise BadInput("gamma", gamma, "give a discount in (0, 1]")
    task = _float32("task_reward", task_reward)
    if mode in UNSHAPED:
        return task.astype(np.float32)
    if mode not in ("grm", "oracle", "naive"):
        raise BadInput("mode", mode, "give one of grm, sparse, naive, oracle, dense")
    before, after = _float32("potential", potential), _float32("next_potential", next_potential)
    if not task.shape == before.shape == after.shape:
        raise BadInput("potential", (before.shape, after.shape), f"give the shape of task_reward, {task.shape}")
    if mode == "naive":
        if shaping.progress:
            raise BadInput("progress", shaping.progress, "give 0: naive pays Φ' − Φ as it is")
        return (task + shaping.scale * after - shaping.scale * before).astype(np.float32)
    paid = task + shaping.scale * gamma * after - shaping.scale * before
    if shaping.progress:
        paid += shaping.progress * ((1.0 - gamma) * after + task)
    return paid.astype(np.float32)


def n_step_shaping(
    task_reward: ArrayLike,
    potential: ArrayLike,
    next_potential: ArrayLike,
    gamma: float,
    n: int,
    mode: RewardMode,
    shaping: Shaping = FULL,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the shaped n-step returns of a fragment, and the number of steps that each spans.

    In modes grm and oracle, with no reward for progress, entry t is Σ_{i<m} γ^i task_{t+i} + s(γ^m Φ_{t+m} − Φ_t);
    bootstrap with γ^m. At the end of
    the fragment m is the number of remaining steps, not n.

    Args:
        task_reward, potential, next_potential: float [T], as for `shaped_reward`, of consecutive steps of one episode.
        gamma: discount of one environment step.
        n: window in environment steps.
        mode, shaping: as for `shaped_reward`.
    Returns:
        float32 [T] returns and int64 [T] spans m = min(n, T − t).
    Raises:
        BadInput: as for `shaped_reward`; n below 1; more than one axis.
    """
    if n < 1:
        raise BadInput("n", n, "give at least 1 environment step")
    reward = shaped_reward(task_reward, potential, next_potential, gamma, mode, shaping).astype(np.float64)
    if reward.ndim != 1:
        raise BadInput("task_reward", reward.shape, "give the consecutive steps of one episode, [T]")
    spans = np.minimum(n, np.arange(len(reward), 0, -1))
    returns = np.zeros_like(reward)
    for i in range(min(n, len(reward))):
        returns[: len(reward) - i] += gamma**i * reward[i:]
    return returns.astype(np.float32), spans


def _check_times(score_times: ArrayLike, T: int) -> NDArray[np.int64]:
    """Return the times as int64 [F]. Raises BadInput unless they are strictly increasing in 0 … T."""
    times = np.asarray(score_times)
    if times.size == 0:
        times = np.zeros(0, np.int64)
    if T < 0 or times.ndim != 1 or not np.issubdtype(times.dtype, np.integer):
        raise BadInput("score_times", score_times, "give whole observation indices [F] of a fragment of T ≥ 0 steps")
    if len(times) and (times[0] < 0 or times[-1] > T or np.any(np.diff(times) <= 0)):
        raise BadInput("score_times", times, f"give strictly increasing observation indices in 0 … {T}")
    return times.astype(np.int64)


def _frames_scored(times: NDArray[np.int64], T: int) -> NDArray[np.int64]:
    """Return the number of frames scored at or before each observation 0 … T."""
    return np.searchsorted(times, np.arange(T + 1), side="right")


def _float32(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return the values rounded to float32, as float64. Refuses NaN, which RLlib would accept silently."""
    with np.errstate(over="ignore"):  # values too large for float32 become infinite and are refused below
        array = np.asarray(values, np.float32).astype(np.float64)
    if not np.all(np.isfinite(array)):
        raise BadInput(name, array, "give finite values")
    return array
