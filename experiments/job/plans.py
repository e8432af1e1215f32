"""Which episodes a run records, and what acts in them. No two sets share a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from actors.demonstrations import episode_folder
from dopamine_rl.episodes.raw import read_demonstration, read_outcome
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Demonstration
from experiments.job.demonstrations import environment_folder
from experiments.settings import ExperimentConfig

if TYPE_CHECKING:
    from actors.workers import Job, PolicySpec

FAILURES = ("near_miss", "stall", "near_miss", "retreat", "near_miss")
"""Kinds of scripted failures, taken in turn. More than half are near misses, because few failures of the cloned policy,
which are evaluated together with them, are: it hesitates before the hole."""
BEHAVIOURS = ("pause", "retry", "oscillate", "beside")
"""Kinds of behaviour that fools rewards, for the gate's report."""
SETS = (
    "reward_model",
    "policy",
    "gate",
    "trial",
    "reward_model_rollouts",
    "gate_rollouts",
    "probe",
    "gate_behaviours",
    "practice",
    "tries",
)
"""Sets of episodes; their seeds start 1000 apart, in this order. Episodes of "trial" and "probe" are not recorded."""


CLAIMED = ("reward_model", "policy", "practice", "tries")
"""Sets of which, with success from progress, nothing of the simulator's truth is recorded. The gate's are an exam in
the simulator, which is shown beside the verdict."""


@dataclass(frozen=True)
class EpisodePlan:
    """Episodes to record into one folder.

    Args:
        folder: the output folder.
        actors: one per episode: the name of a script, or a policy.
        seeds: one per episode.
        stride: environment steps between frames; None uses the environment's.
        as_meant: try other seeds until an episode ends as its script is meant to; the actors are scripts.
        about: demonstration whose path the episodes wander about; None for any other.
        claims: the demonstrator says whether an episode is a success, and the simulator's truth is not recorded.
    """

    folder: Path
    actors: tuple[str | PolicySpec, ...]
    seeds: range
    stride: int | None = None
    as_meant: bool = False
    about: Path | None = None
    claims: bool = False

    @property
    def paths(self) -> list[Path]:
        """The episodes' folders."""
        return [episode_folder(str(a), seed, self.folder) for a, seed in zip(self.actors, self.seeds, strict=True)]

    @property
    def jobs(self) -> list[Job]:
        """The simulators' jobs that record them; existing episodes are reused."""
        from actors.workers import Job  # imports Ray

        acted = zip(self.actors, self.seeds, strict=True)
        how = (self.stride, *((True,) if self.claims else ()))
        if self.about:
            return [Job("practise", (self.about, seed, self.folder, *how)) for seed in self.seeds]
        if self.as_meant:
            return [Job("record_as_meant", (actor, seed, self.folder)) for actor, seed in acted]
        return [Job("record", (actor, seed, self.folder, *how)) for actor, seed in acted]


def scripted_plans(config: ExperimentConfig, root: Path) -> dict[str, EpisodePlan]:
    """Scripted episodes: for the reward model, for the policy, and unseen ones for the gate and its report."""
    counts = config.demonstrations
    actors = {
        "reward_model": ("expert",) * counts.reward_model + _failures(counts.reward_model_failures),
        "policy": ("expert",) * counts.policy,
        "gate": ("expert",) * counts.gate_successes + _failures(counts.gate_failures),
    }
    plans = {name: _plan(config, root, name, acted) for name, acted in actors.items()}
    behaviours = _plan(config, root, "gate_behaviours", BEHAVIOURS * counts.gate_behaviours)
    return plans | {"gate_behaviours": replace(behaviours, as_meant=True)}


def rollout_plans(config: ExperimentConfig, root: Path, cloned: Path, version: str) -> dict[str, EpisodePlan]:
    """Rollouts of the cloned policy: some to train the reward model, unseen ones for the gate."""
    from actors.workers import PolicySpec  # imports Ray

    policy = PolicySpec("network", cloned, f"clone_{version}")
    counts = {
        "reward_model_rollouts": config.demonstrations.reward_model_rollouts,
        "gate_rollouts": config.demonstrations.gate_rollouts,
    }
    return {name: _plan(config, root, name, (policy,) * count) for name, count in counts.items()}


def practice_plan(config: ExperimentConfig, root: Path, demonstration: Path) -> EpisodePlan:
    """Tries about the path of a demonstration, as many frames a second as it has."""
    return _practice(config, root, "practice", config.demonstrations.practice, demonstration)


def tries_plan(config: ExperimentConfig, root: Path, demonstration: Path) -> EpisodePlan:
    """The same, unseen by the reward model: failures that success must not be claimed of."""
    return _practice(config, root, "tries", config.claims.tries, demonstration)


def _practice(config: ExperimentConfig, root: Path, name: str, count: int, demonstration: Path) -> EpisodePlan:
    from actors.experts.practice import PRACTICE

    return replace(_plan(config, root, name, (PRACTICE,) * count), about=demonstration)


def largest_set(config: ExperimentConfig) -> int:
    """Number of episodes of a run's largest set, in whole tens."""
    counts = config.demonstrations
    sizes = (
        counts.reward_model + counts.reward_model_failures,
        counts.policy,
        counts.gate_successes + counts.gate_failures,
        config.cloning.trials,
        counts.reward_model_rollouts,
        counts.practice,
        counts.gate_rollouts,
        len(BEHAVIOURS) * counts.gate_behaviours,
        config.claims.tries if config.success == "progress" else 0,
    )
    return 10 * math.ceil(max(sizes) / 10)


def trial_seeds(config: ExperimentConfig) -> list[int]:
    """Seeds on which cloned policies of different sizes are compared."""
    first = _first_seed(config, "trial")
    return list(range(first, first + config.cloning.trials))


def probe_seed(config: ExperimentConfig) -> int:
    """Seed of the scene of the precision probe."""
    return _first_seed(config, "probe")


def read_all(folders: Sequence[Path]) -> list[Demonstration]:
    """Read recorded episodes."""
    return [read_demonstration(path) for path in folders]


def first_success(folders: Sequence[Path]) -> Path:
    """The first episode that did not fail: it provides reference and goal images. Raises BadInput if all did."""
    for folder in folders:
        if read_outcome(folder).success is not False:
            return folder
    raise BadInput("demonstrations", len(folders), "no expert episode succeeded: increase env.horizon")


def _plan(config: ExperimentConfig, root: Path, name: str, actors: tuple[str | PolicySpec, ...]) -> EpisodePlan:
    first, stride = _first_seed(config, name), frame_stride(config, name)
    claims = config.success == "progress" and name in CLAIMED
    label = name + (f"_stride_{stride}" if stride else "") + ("_claimed" if claims else "")
    folder = root / environment_folder(config.env) / label
    return EpisodePlan(folder, actors, range(first, first + len(actors)), stride or None, claims=claims)


def frame_stride(config: ExperimentConfig, name: str) -> int:
    """Environment steps between the frames of a set's episodes; 0 is the environment's."""
    if name == "policy" and config.env.sees_pictures:
        return 1  # the policy sees every step
    return config.demonstrations.reward_model_stride if name in ("reward_model", "practice") else 0


def _first_seed(config: ExperimentConfig, name: str) -> int:
    return config.demonstrations.first_seed + 1000 * SETS.index(name)


def _failures(count: int) -> tuple[str, ...]:
    return tuple(FAILURES[i % len(FAILURES)] for i in range(count))
