"""Recorded ManiSkill trajectories to pictures: the simulator is put into each recorded state and rendered."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from actors.maniskill import PegInsertionEnv
from dopamine_rl.episodes.maniskill import ManiSkillTrajectory
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Views


def render_trajectory(
    env: PegInsertionEnv, trajectory: ManiSkillTrajectory, environment_steps: NDArray[np.int64]
) -> Iterator[Views]:
    """Render some moments of a trajectory, uint8 [V, H, W, 3] each; physics is not run, so nothing can drift.

    Args:
        env: with the standard start, which draws the geometry from the episode's seed, and at least one view.
        trajectory: of its task, with recorded states.
        environment_steps: int [F], 0 … T.
    Raises:
        BadInput: another task, no states, a moment that was not recorded, or an environment that cannot show it.
    """
    if env.config.start != "standard" or not env.config.views:
        raise BadInput("env", env.config, "give the standard start and at least one view")
    if trajectory.task != env.config.task:
        raise BadInput("trajectory.task", trajectory.task, f"give a trajectory of {env.config.task}")
    states, last = trajectory.env_states, len(trajectory.actions)
    if states is None:
        raise BadInput("trajectory.env_states", None, "record it with record_env_state=True")
    if np.any((environment_steps < 0) | (environment_steps > last)):
        raise BadInput("environment_steps", environment_steps, f"give environment steps from 0 to {last}")
    env.reset(seed=trajectory.seed, options={"pictures": False})
    for step in environment_steps:
        moment = {kind: {body: values[step] for body, values in bodies.items()} for kind, bodies in states.items()}
        env.restore(moment)
        yield env.render_views()
