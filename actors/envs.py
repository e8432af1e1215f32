"""Builds the environment that a config describes: the one place that knows every task."""

from __future__ import annotations

from actors.maniskill import EnvConfig, ObjectEnv, PegInsertionEnv, SimulatedEnv
from actors.tasks import TASKS
from actors.tasks.task import ObjectTask
from dopamine_rl.errors import BadInput


def check_task(config: EnvConfig) -> None:
    """Raise BadInput, naming the tasks there are, where a config names another."""
    if config.task not in TASKS:
        raise BadInput("env.task", config.task, f"choose from {', '.join(TASKS)}")


def make_env(config: EnvConfig) -> SimulatedEnv:
    """Build the environment that a config describes. Raises BadInput where there is no such task."""
    check_task(config)
    task = TASKS[config.task]
    return ObjectEnv(config, task) if isinstance(task, ObjectTask) else PegInsertionEnv(config, task)
