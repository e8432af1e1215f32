"""Builds the environment that a config describes: the one place that knows every task."""

from __future__ import annotations

from actors.maniskill import EnvConfig, ObjectEnv, PegInsertionEnv, SimulatedEnv
from actors.tasks import TASKS
from actors.tasks.task import ObjectTask


def make_env(config: EnvConfig) -> SimulatedEnv:
    """Build the environment that a config describes."""
    task = TASKS[config.task]
    return ObjectEnv(config, task) if isinstance(task, ObjectTask) else PegInsertionEnv(config, task)
