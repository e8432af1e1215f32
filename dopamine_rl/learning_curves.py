"""Learning curves of policies on unseen episodes, and how two sets of them are compared.

A curve is evaluated without exploration noise, on the same unseen episodes at every point. Arms of a study are paired:
seed i of one arm and seed i of another share demonstrations, cloned policy and unseen episodes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput
from dopamine_rl.metrics import Interval


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Success of a policy during its training.

    Args:
        environment_steps: increasing, from 0 (the initial policy), P ≥ 2 points.
        outcomes: bool [P, N], whether each of the N unseen episodes succeeded.
    Raises:
        BadInput: fewer than two points, times that do not increase from 0, or another shape.
    """

    environment_steps: tuple[int, ...]
    outcomes: NDArray[np.bool_]

    def __post_init__(self) -> None:
        steps = self.environment_steps
        if len(steps) < 2 or steps[0] != 0 or any(b <= a for a, b in itertools.pairwise(steps)):
            raise BadInput("curve.environment_steps", steps, "give at least two increasing numbers, the first 0")
        if self.outcomes.ndim != 2 or self.outcomes.shape[0] != len(steps) or not self.outcomes.shape[1]:
            raise BadInput("curve.outcomes", self.outcomes.shape, f"give [{len(steps)}, N] with N ≥ 1")

    @property
    def success(self) -> NDArray[np.float64]:
        """Success rate at each point, float64 [P]."""
        return self.outcomes.mean(axis=1)

    def delayed(self, environment_steps: int) -> LearningCurve:
        """The curve with so many environment steps spent before training, while the policy is the initial one."""
        if not environment_steps:
            return self
        later = tuple(environment_steps + steps for steps in self.environment_steps)
        return LearningCurve((0, *later), np.vstack([self.outcomes[:1], self.outcomes]))

    def areas(self, budget: int) -> NDArray[np.float64]:
        """Area under each episode's curve up to `budget` environment steps, divided by the budget; float64 [N].

        Trapezoids; their mean is the area under the success rate, in [0, 1].

        Raises:
            BadInput: the curve ends before the budget.
        """
        if budget > self.environment_steps[-1] or budget < 1:
            raise BadInput("budget", budget, f"give 1 to {self.environment_steps[-1]}, the curve's last point")
        steps = np.asarray(self.environment_steps, np.float64)
        inside = steps < budget
        at_budget = [np.interp(budget, steps, episode) for episode in self.outcomes.T]
        points = np.append(steps[inside], budget)
        values = np.vstack([self.outcomes[inside], at_budget])
        return np.asarray(np.trapezoid(values, points, axis=0) / budget)

    def steps_to(self, level: float) -> float:
        """Environment steps at the first of two consecutive points with at least this success rate; inf if none."""
        reached = self.success >= level
        both = np.flatnonzero(reached[:-1] & reached[1:])
        return float(self.environment_steps[both[0]]) if len(both) else math.inf

    def longest_below_start(self) -> int:
        """Length in environment steps of the longest stretch of points below the initial policy's success rate.

        A stretch lasts from its first point below to the next point that is not below, or to the end.
        """
        longest, since = 0, None
        for steps, rate in zip(self.environment_steps, self.success, strict=True):
            if rate >= self.success[0]:
                since = None
            elif since is None:
                since = steps
            if since is not None:
                following = [other for other in self.environment_steps if other > steps]
                longest = max(longest, (following[0] if following else steps) - since)
        return longest


def area(curves: Sequence[LearningCurve], budget: int, samples: int = 10_000) -> Interval:
    """Mean area under the curves of several seeds, with a 95 % bootstrap interval over seeds, then episodes."""
    return _bootstrap([curve.areas(budget) for curve in curves], samples)


def area_difference(
    arm: Sequence[LearningCurve], baseline: Sequence[LearningCurve], budget: int, samples: int = 10_000
) -> Interval:
    """Paired difference of the areas, arm minus baseline, with a 95 % bootstrap interval over seeds, then episodes.

    Args:
        arm, baseline: one curve per seed, in the same order, on the same unseen episodes.
        budget: environment steps up to which both are integrated.
    Raises:
        BadInput: other numbers of seeds or of episodes, or a curve that ends before the budget.
    """
    if len(arm) != len(baseline) or not arm:
        raise BadInput("baseline", len(baseline), f"give one curve for each of the arm's {len(arm)} seeds, at least 1")
    pairs = [(a.areas(budget), b.areas(budget)) for a, b in zip(arm, baseline, strict=True)]
    if any(len(a) != len(b) for a, b in pairs):
        raise BadInput("baseline", "other episodes", "evaluate both arms on the same unseen episodes")
    return _bootstrap([a - b for a, b in pairs], samples)


def _bootstrap(values: Sequence[NDArray[np.float64]], samples: int) -> Interval:
    """Mean over seeds of the mean over episodes; seeds are resampled first, then episodes within each."""
    if len({len(episodes) for episodes in values}) != 1:
        raise BadInput("curves", [len(episodes) for episodes in values], "evaluate every seed on as many episodes")
    rng, table = np.random.default_rng(0), np.stack(values)
    seeds, episodes = table.shape
    means = np.zeros(samples)
    for _ in range(seeds):
        drawn = rng.integers(seeds, size=(samples, 1))
        means += table[drawn, rng.integers(episodes, size=(samples, episodes))].mean(axis=1) / seeds
    low, high = np.quantile(means, [0.025, 0.975])
    value = float(table.mean())
    return Interval(value, min(float(low), value), max(float(high), value))


@dataclass(frozen=True)
class StepsRatio:
    """Ratio of the median environment steps to a level.

    Args:
        value: arm / baseline; NaN if the arm's median never reached the level.
        at_most: True if the baseline's median never reached it, so that `value` is an upper bound: its budget stands
            in for the steps it would have needed.
    """

    value: float
    at_most: bool


def steps_ratio(arm: Sequence[LearningCurve], baseline: Sequence[LearningCurve], level: float) -> StepsRatio:
    """The arm's median steps to the level, relative to the baseline's. A level never reached is not a number."""
    ours, theirs = (float(np.median([curve.steps_to(level) for curve in curves])) for curves in (arm, baseline))
    budget = float(np.median([curve.environment_steps[-1] for curve in baseline]))
    at_most = not math.isfinite(theirs)
    divisor = max(budget if at_most else theirs, 1.0)
    return StepsRatio(ours / divisor if math.isfinite(ours) else math.nan, at_most)
