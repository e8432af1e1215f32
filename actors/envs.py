"""Builds the environment that a config describes: the one place that knows every task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium

from actors.foreign import make_expert, make_foreign
from actors.maniskill import PEG_INSERTION, EnvConfig, ObjectEnv, PegInsertionEnv
from actors.tasks import TASKS
from actors.tasks.task import EXPERT, ObjectTask
from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import Expert
from dopamine_rl.spelling import one_of


def check_task(config: EnvConfig) -> None:
    """Raise BadInput if there is no such simulated task, or if it has no such start."""
    if config.make:
        return
    if config.task not in TASKS:
        raise BadInput("env.task", config.task, one_of(config.task, list(TASKS)))
    if config.start != "standard" and config.task != PEG_INSERTION:
        raise BadInput("env.start", config.start, "write standard for this task")


def make_env(config: EnvConfig) -> gymnasium.Env[Any, Any]:
    """Build the environment that a config describes: a SimulatedEnv, or a ForeignEnv around the user's own.

    Raises:
        BadInput: as `check_task` and `make_foreign` do.
    """
    check_task(config)
    if config.make:
        return make_foreign(config)
    task = TASKS[config.task]
    return ObjectEnv(config, task) if isinstance(task, ObjectTask) else PegInsertionEnv(config, task)


def scripts_of(config: EnvConfig, expert: str = "") -> Mapping[str, Callable[[], Expert]]:
    """Constructors of an environment's scripts by name.

    Args:
        expert: MODULE:CALLABLE that makes the expert of a user's own environment; "" where there is none.
    """
    if not config.make:
        return TASKS[config.task].scripts
    return {EXPERT: lambda: make_expert(expert)} if expert else {}


def instructions_of(config: EnvConfig) -> tuple[str, ...]:
    """Wordings of an environment's task; the first is the canonical one."""
    return (config.instruction,) if config.make else TASKS[config.task].instructions


def has_place(config: EnvConfig) -> bool:
    """Whether it is known where the environment's task asks for precision."""
    return not config.make and TASKS[config.task].place is not None
