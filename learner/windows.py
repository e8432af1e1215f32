"""Windows of consecutive transitions in the replay: which rows they span, and their n-step returns.

n-step returns are not corrected for the behaviour policy: within a window they credit the actions that were taken, by
older policies and demonstrators, not those that the current policy would take. The bias grows with n.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Preference = Literal["uniform", "high_potential", "rising_potential"]
UNIFORM_SHARE = 0.5
"""Share of the online transitions that are sampled uniformly whatever is preferred, so that none is left out."""


@dataclass(frozen=True)
class Sampling:
    """How transitions are sampled. The fields are the settings of the same names in LearnerConfig.

    Args:
        n_step: environment steps of a sampled transition; fewer where its episode ends, or a fragment is missing.
        prefer, prefer_candidates: which online transitions are sampled more often.
        progress_window: environment steps over which a gain of progress is measured.
        gains: whether to add that gain as a column.
    """

    n_step: int = 1
    prefer: Preference = "uniform"
    prefer_candidates: int = 4
    progress_window: int = 8
    gains: bool = False


UNIFORM = Sampling()


def best_of(candidates: Rows, signal: NDArray[np.float32], rng: np.random.Generator) -> Rows:
    """Choose one of k uniform candidates: the first, or in the other 1 − UNIFORM_SHARE of the draws the best one.

    With q the share of transitions that have a lower signal, one is sampled UNIFORM_SHARE + (1 − UNIFORM_SHARE) k
    q^(k − 1) times as often as uniformly: at least half as often and, for k = 4, up to 2.5 times. Only the order of the
    signal matters; where all are equal, sampling is uniform.

    Args:
        candidates: int [k, ...], rows sampled uniformly; signal: float [k, ...], of these rows.
    Returns:
        int [...].
    """
    best = np.take_along_axis(candidates, signal.argmax(0)[None], 0)[0]
    return np.where(rng.random(best.shape) < UNIFORM_SHARE, candidates[0], best)


def link(serial: Rows, time: Rows) -> tuple[Rows, dict[int, int]]:
    """Link each stored transition to the next environment step of its episode.

    Args:
        serial: int [C], number of each row's episode; negative where the row is empty.
        time: int [C], environment step of each row.
    Returns:
        The following row, int [C], −1 where that step is not stored; and each episode's last row, by its number.
    """
    order = np.lexsort((time, serial))
    before, after = order[:-1], order[1:]
    same = serial[before] == serial[after]
    follows = same & (time[after] == time[before] + 1) & (serial[before] >= 0)
    successors = np.full(len(serial), -1, np.int64)
    successors[before[follows]] = after[follows]
    ends = order[np.append(~same, True)] if len(order) else order
    return successors, dict(zip(serial[ends].tolist(), ends.tolist(), strict=True))


def follow(successors: Rows, first: Rows, n: int) -> tuple[Rows, NDArray[np.bool_]]:
    """Follow episodes for up to n environment steps.

    Args:
        successors: int [C], of `link`.
        first: int [...], rows at which the windows start.
        n: length of the windows, at least 1.
    Returns:
        Rows int [n, ...], and whether they lie in the window, bool [n, ...]. A window is cut at the end of its episode
        and before a missing step; from there on its last row is repeated.
    """
    rows, inside = np.empty((n, *first.shape), np.int64), np.ones((n, *first.shape), bool)
    rows[0] = first
    for i in range(1, n):
        following = successors[rows[i - 1]]
        inside[i] = following >= 0
        rows[i] = np.where(inside[i], following, rows[i - 1])
    return rows, inside


def level_after(columns: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Progress after a step, in [0, 1]. The label is 0 after every end, so there it is 1 if the end was rewarded.

    Args:
        columns: task_reward, next_potential and terminated, float [...].
    """
    won = (columns["task_reward"] > 0.0).astype(np.float32)
    return np.where(columns["terminated"] > 0.0, won, columns["next_potential"])


def n_step_returns(
    rewards: NDArray[np.float32], inside: NDArray[np.bool_], gamma: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns of windows, and the discounts of the values to bootstrap from.

    Of shaped rewards Σ_{i<m} γ^i task_i + s(γ^m Φ_m − Φ_0), with m steps in the window; and γ^m.

    Args:
        rewards: float [n, ...], of each step.
        inside: bool [n, ...], of `follow`.
        gamma: discount of one environment step.
    Returns:
        float32 [...] each.
    Source: METHOD.md section 3, rule 2; the sum is that of `shaping.n_step_shaping`.
    """
    returns = np.zeros(inside.shape[1:])
    for i in range(len(inside)):
        returns += np.where(inside[i], gamma**i * rewards[i].astype(np.float64), 0.0)
    return returns.astype(np.float32), (gamma ** inside.sum(0)).astype(np.float32)
