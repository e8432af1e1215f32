"""What a sweep searches, where it looks, and how many trials a cluster holds at once. No ray import."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dopamine_rl.errors import BadInput
from experiments.settings import ExperimentConfig
from learner.config import LearnerConfig

Point = dict[str, Any]
"""What a trial is: a value for each setting that is searched, by its dotted name."""


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1) of the way through."""
        return self.values[int(share * len(self.values))]


@dataclass(frozen=True)
class Range:
    """A number between two, to four decimals."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """The value at a share in [0, 1) of the way through."""
        return round(self.low + share * (self.high - self.low), 4)


def space(config: ExperimentConfig) -> dict[str, Choice | Range]:
    """What is searched. Strides are multiples of the preset's, because its demonstrations were recorded at that."""
    dimensions: dict[str, Choice | Range] = {
        "fusion.kind": Choice(("mean", "consistency")),
        "env.stride": Choice((config.env.stride, 2 * config.env.stride)),
        "gamma": Range(0.95, 0.99),
    }
    if config.learner.algorithm == "rlpd":
        dimensions["learner.updates_per_step"] = Choice((1.0, 2.0, 4.0))
    return dimensions


def sample(config: ExperimentConfig, trials: int, seed: int) -> list[Point]:
    """The preset's own point, then a Latin hypercube of the space: however few, they cover each dimension evenly."""
    dimensions, rng = space(config), np.random.default_rng(seed)
    drawn = trials - 1
    columns = {
        name: [dimension.at(share) for share in (rng.permutation(drawn) + rng.random(drawn)) / max(drawn, 1)]
        for name, dimension in dimensions.items()
    }
    preset = {name: functools.reduce(getattr, name.split("."), config) for name in dimensions}
    return [preset, *({name: column[i] for name, column in columns.items()} for i in range(drawn))]


def at_point(config: ExperimentConfig, point: Point) -> ExperimentConfig:
    """The settings of a trial. Scored frames are not kept: they would fill the disk, and audits are for single runs."""
    for name, value in {**point, "labels.keep_frames": False}.items():
        config = _replaced(config, name.split("."), value)
    return config


def _replaced(section: Any, names: Sequence[str], value: Any) -> Any:
    name, *rest = names
    return replace(section, **{name: _replaced(getattr(section, name), rest, value) if rest else value})


def flags(point: Point) -> str:
    """A point as flags of a command line."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in point.items())


def rungs(config: ExperimentConfig) -> list[int]:
    """Environment steps at which ASHA compares trials, each twice as late as the one before.

    The first is late, because a policy falls below its clone while its critics are young: after a quarter of the budget,
    and thrice the steps that are acted before learning starts. None is in the last iteration, where nothing is saved.
    """
    budget, steps = config.training.environment_steps, []
    rung = max(3 * config.learner.learning_starts, budget // 4)
    while 0 < rung <= budget - config.learner.steps_per_iteration:
        steps.append(rung)
        rung *= 2
    return steps


def bundles(learner: LearnerConfig) -> list[dict[str, float]]:
    """What a trial reserves: for its own process what RLlib reserves for a driver that learns, and for each env runner,
    whose place a simulator takes for the evaluation."""
    driver_cpus = max(learner.num_cpus_per_learner, learner.num_cpus_for_driver)
    actor = {"CPU": learner.num_cpus_per_env_runner}
    if learner.actor_resource:
        actor[learner.actor_resource] = 1.0
    return [{"CPU": driver_cpus, "GPU": learner.num_gpus_per_learner}, *([actor] * simulators(learner))]


def simulators(learner: LearnerConfig) -> int:
    """Processes that a trial has for simulators."""
    return max(1, learner.num_env_runners)


def concurrency(config: ExperimentConfig, cluster: Mapping[str, float], wanted: int | None) -> int:
    """How many trials run at once.

    Args:
        cluster: all resources that there are.
        wanted: at most so many; None for as many as there is room for.
    Raises:
        BadInput: there is no room for one, which Tune would wait for in silence.
    """
    needed: dict[str, float] = {}
    for bundle in bundles(config.learner):
        for name, amount in bundle.items():
            needed[name] = needed.get(name, 0.0) + amount
    taken = {"CPU": config.service.num_cpus, "GPU": config.service.num_gpus}
    free = {name: cluster.get(name, 0.0) - config.service.replicas * taken.get(name, 0.0) for name in needed}
    room = min(int(free[name] / amount + 1e-6) for name, amount in needed.items() if amount > 0)
    if room < 1:
        raise BadInput(
            "cluster resources", free, f"give beside the service what a trial needs, {needed}, or ask for less"
        )
    return min(room, wanted or room)
