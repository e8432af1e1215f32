"""The search space of a sweep, and its sampling. No ray import."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.settings import ExperimentConfig

Point = dict[str, Any]
"""A trial's values of the searched settings, by dotted name."""


@dataclass(frozen=True)
class Choice:
    """A choice of values."""

    values: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1) of the way through."""
        return self.values[int(share * len(self.values))]


@dataclass(frozen=True)
class Range:
    """A number in an interval, rounded to four decimals."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """The value at a share in [0, 1) of the way through."""
        return round(self.low + share * (self.high - self.low), 4)


def space(config: ExperimentConfig) -> dict[str, Choice | Range]:
    """The search space. Strides are multiples of the preset's, at which its demonstrations were recorded."""
    dimensions: dict[str, Choice | Range] = {
        "fusion.kind": Choice(("mean", "consistency")),
        "env.stride": Choice((config.env.stride, 2 * config.env.stride)),
        "gamma": Range(0.95, 0.99),
    }
    if config.learner.algorithm == "rlpd":
        dimensions["learner.updates_per_step"] = Choice((1.0, 2.0, 4.0))
    return dimensions


def sample(config: ExperimentConfig, trials: int, seed: int) -> list[Point]:
    """The preset's point, then a Latin hypercube of the space, which covers each dimension evenly."""
    dimensions, rng = space(config), np.random.default_rng(seed)
    drawn = trials - 1
    columns = {
        name: [dimension.at(share) for share in (rng.permutation(drawn) + rng.random(drawn)) / max(drawn, 1)]
        for name, dimension in dimensions.items()
    }
    preset = {name: functools.reduce(getattr, name.split("."), config) for name in dimensions}
    return [preset, *({name: column[i] for name, column in columns.items()} for i in range(drawn))]


def at_point(config: ExperimentConfig, point: Point) -> ExperimentConfig:
    """The config of a trial. Scored frames are not stored: they would fill the disk, and trials are not audited."""
    for name, value in {**point, "labels.keep_frames": False}.items():
        config = _replaced(config, name.split("."), value)
    return config


def _replaced(section: Any, names: Sequence[str], value: Any) -> Any:
    name, *rest = names
    return replace(section, **{name: _replaced(getattr(section, name), rest, value) if rest else value})


def flags(point: Point) -> str:
    """A point as command-line flags."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in point.items())


def rungs(config: ExperimentConfig) -> list[int]:
    """Environment steps at which ASHA compares trials; each rung doubles the one before.

    The first is late, because success drops below the cloned policy's while the critics are untrained: after a
    quarter of the budget and at least three times `learning_starts`. None is in the last iteration, where stopping
    saves nothing.
    """
    budget, steps = config.training.environment_steps, []
    rung = max(3 * config.learner.learning_starts, budget // 4)
    while 0 < rung <= budget - config.learner.steps_per_iteration:
        steps.append(rung)
        rung *= 2
    return steps
