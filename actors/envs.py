"""Builds the environment that a config describes: the one place that knows every task."""

from __future__ import annotations

from actors.maniskill import PEG_INSERTION, EnvConfig, ObjectEnv, PegInsertionEnv, SimulatedEnv
from actors.tasks import TASKS
from actors.tasks.task import ObjectTask
from dopamine_rl.errors import BadInput
from dopamine_rl.spelling import one_of


def check_task(config: EnvConfig) -> None:
    """Raise BadInput if there is no such task, or if it has no such start."""
    if config.task not in TASKS:
        raise BadInput("env.task", config.task, one_of(config.task, list(TASKS)))
    if config.start != "standard" and config.task != PEG_INSERTION:
        raise BadInput("env.start", config.start, "write standard for this task")


def make_env(config: EnvConfig) -> SimulatedEnv:
    """Build the environment that a config describes. Raises BadInput as `check_task` does."""
    check_task(config)
    task = TASKS[config.task]
    return ObjectEnv(config, task) if isinstance(task, ObjectTask) else PegInsertionEnv(config, task)
