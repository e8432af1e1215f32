"""Windows of consecutive transitions in the replay: which rows they span, and their n-step returns.

n-step returns are not corrected for the behaviour policy: within a window they credit the actions that were taken, by
older policies and demonstrators, not those that the current policy would take. The bias grows with n.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.shaping import shaped_reward
from dopamine_rl.types import RewardMode

Rows = NDArray[np.int64]


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


def n_step_returns(
    columns: Mapping[str, NDArray[np.float32]], inside: NDArray[np.bool_], gamma: float, mode: RewardMode
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Shaped returns of windows, and the discounts of the values to bootstrap from.

    In modes grm and oracle, with m steps in the window: Σ_{i<m} γ^i task_i + γ^m Φ_m − Φ_0, and γ^m.

    Args:
        columns: task_reward, potential and next_potential, float [n, ...].
        inside: bool [n, ...], of `follow`.
        gamma: discount of one environment step.
    Returns:
        float32 [...] each.
    Source: METHOD.md section 3, rule 2; the sum is that of `shaping.n_step_shaping`.
    """
    task, before, after = (columns[name] for name in ("task_reward", "potential", "next_potential"))
    rewards = shaped_reward(task, before, after, gamma, mode).astype(np.float64)
    returns = np.zeros(inside.shape[1:])
    for i in range(len(inside)):
        returns += np.where(inside[i], gamma**i * rewards[i], 0.0)
    return returns.astype(np.float32), (gamma ** inside.sum(0)).astype(np.float32)
