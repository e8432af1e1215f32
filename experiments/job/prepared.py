"""What the phases of the main job hand to one another. No phase is run here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dopamine_rl.evaluation.gate import (
    Source,
)
from dopamine_rl.targets import ProgressMap
from dopamine_rl.types import TaskReference
from experiments.settings import ExperimentConfig


@dataclass(frozen=True)
class Cloned:
    """The cloned policy, the starting point of reinforcement learning.

    Args:
        path: its file.
        version: identifies its content.
        trials: success rate of every network size, on seeds used for nothing else; with success from progress the
            validation loss of every size.
    """

    path: Path
    version: str
    trials: dict[str, Any]


@dataclass(frozen=True)
class RewardModel:
    """A trained reward model.

    Args:
        path: its checkpoint folder.
        version: identifies its content.
        reference: the demonstration that its reference and goal images are taken from.
    """

    path: Path
    version: str
    reference: TaskReference


@dataclass(frozen=True)
class Prepared:
    """The inputs of policy training.

    Args:
        policy_episodes: folders of the policy's demonstrations.
        gate_episodes: folders of the unseen episodes, and what acted in them.
        behaviours: folders of episodes that the gate reports, and that its verdict does not depend on.
        model: the reward model; None if the reward does not use one.
        target: map from geometric progress to the oracle's target; None where the oracle reports it as it is.
        practice: folders of the episodes of practice.
        tries: folders of unseen ones, which success must not be claimed of.
    """

    policy_episodes: list[Path]
    gate_episodes: list[tuple[Path, Source]]
    behaviours: list[Path]
    cloned: Cloned
    model: RewardModel | None
    target: ProgressMap | None = None
    practice: tuple[Path, ...] = ()
    tries: tuple[Path, ...] = ()


def asks_model(config: ExperimentConfig) -> bool:
    """True if the reward is computed by the reward model."""
    return config.reward in ("grm", "naive")


def dense_gamma(config: ExperimentConfig) -> float | None:
    """The discount of the dense reward (actors.dense_reward); None where the task pays success alone."""
    return config.gamma if config.reward == "dense" else None


def claimed(config: ExperimentConfig) -> tuple[object, ...]:
    """What a phase depends on besides, where success is claimed from progress."""
    return ("claims",) if config.success == "progress" else ()


def file_version(path: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
