"""Own episodes that join the demonstrations: which are good enough, and the buffer that holds them.

An episode is judged by what its learner is given: the task's reward, and the potential if it has one. A potential that
overvalues failures therefore promotes failures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from dopamine_rl.types import UNSHAPED
from learner.replay import ColumnarReplay
from learner.rows import ReplayColumns

QUARTILE = 0.25


def final_potential(columns: ReplayColumns) -> float:
    """Potential at the end of an episode; before the last step if that terminated it, because the label after is 0."""
    return float(columns["potential" if columns["terminated"][-1] else "next_potential"][-1])


def episode_score(columns: ReplayColumns, gamma: float, bar: float | None) -> float | None:
    """Score of a whole episode; higher is better. None if it must not join the demonstrations.

    An episode whose end was rewarded has 1 + its discounted task return, so that all of them precede the others and the
    quicker ones each other. Any other has its final potential, if that is at least the bar.

    Args:
        bar: lowest final potential, or None: the task's reward alone decides.
    """
    rewards = columns["task_reward"].astype(np.float64)
    if columns["terminated"][-1] and rewards[-1] > 0.0:
        return 1.0 + float(rewards @ gamma ** np.arange(len(rewards)))
    level = final_potential(columns)
    return level if bar is not None and level >= bar else None


def bar_of(demo: ColumnarReplay | None, recorded: Iterable[str]) -> float | None:
    """Lower quartile of the final potentials of recorded demonstrations; None without a potential or any of them."""
    levels = [final_potential(demo.columns(demo.rows(name))) for name in recorded] if demo is not None else []
    if demo is None or demo.mode in UNSHAPED or not levels:
        return None
    return float(np.quantile(levels, QUARTILE))


def joined(replay: ColumnarReplay, sources: Mapping[str, ColumnarReplay]) -> ColumnarReplay:
    """A buffer of exactly these whole episodes, each copied from its source; the settings are those of `replay`."""
    parts = {name: source.columns(source.rows(name)) for name, source in sources.items()}
    capacity = max(1, sum(len(columns["actions"]) for columns in parts.values()))
    copy = replay.empty(capacity)
    for name, columns in parts.items():
        copy.add(columns, name, version=sources[name].episodes[name])
    return copy


def is_whole(replay: ColumnarReplay, episode_id: str) -> bool:
    """Whether every transition of an episode up to its last one is stored."""
    return episode_id in replay.episodes and np.array_equal(times := replay.times(episode_id), np.arange(times[-1] + 1))
