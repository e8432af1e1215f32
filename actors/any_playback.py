"""Playback of ManiSkill's recorded trajectories of any task as demonstrations.

The recorded actions are executed, so that observations tell what touches what; after each, every body is put into its
recorded state, where there is one, so that nothing drifts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np

from actors.any_maniskill import AnyManiSkill
from actors.demonstrations import episode_folder, find_keyframes
from actors.foreign import ForeignEnv
from actors.playback import PLAYBACK, moment
from dopamine_rl.episodes.maniskill import ManiSkillTrajectory, read_trajectories
from dopamine_rl.episodes.raw import read_outcome, write_demonstration
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Demonstration

STAGES = ("act",)


def play_back(env: ForeignEnv, trajectory: ManiSkillTrajectory, episode_id: str) -> Demonstration:
    """Play back a trajectory up to its first success, with a frame every `stride` environment steps and at the end.

    Args:
        env: around an AnyManiSkill that observes the state and has the trajectory's control mode; with cameras.
        trajectory: of its task.
        episode_id: name of the demonstration, whose actions are in the environment's units.
    Raises:
        BadInput: another task, control mode or size of actions; a body is unknown; no success was recorded, or the
            actions alone end otherwise than was recorded.
    """
    inner = cast(AnyManiSkill, env.env)
    _check(inner, trajectory)
    assert trajectory.success is not None
    success, states, scene = trajectory.success, trajectory.env_states, inner.scene
    last = int(success.argmax()) + 1 if success.any() else len(success)
    observation, _ = inner.reset(seed=trajectory.seed, options={"pictures": False})
    if states is not None:
        scene.restore(moment(states, 0))
        observation = inner.observe()
    observations: list[Any] = [observation]
    actions, frames, frame_steps = [], [inner.render_views()], [0]
    verdict = False
    for step in range(1, last + 1):
        action = scene.actions.from_simulator(trajectory.actions[step - 1 : step])[0]
        observation, _, verdict, *_ = inner.step(action)
        if states is not None:
            scene.restore(moment(states, step))
            observation = inner.observe()
        observations.append(observation)
        actions.append(action)
        if step % env.config.stride == 0 or step == last:
            frames.append(inner.render_views())
            frame_steps.append(step)
    if states is None and verdict != success[last - 1]:
        fix = "record it with record_env_state=True: here the same actions end otherwise"
        raise BadInput(f"{trajectory.episode_id}/env_states", None, fix)
    keyframes, stages = find_keyframes([0] * (last + 1), frame_steps, STAGES)
    return Demonstration(
        episode_id=episode_id,
        instructions=env.instructions,
        frames=np.stack(frames),
        frame_steps=np.array(frame_steps, np.int64),
        keyframes=keyframes,
        stages=stages,
        observations=np.stack(observations),
        actions=np.stack(actions),
        task_rewards=success[:last].astype(np.float32),
        terminated=bool(success[last - 1]),
        success=bool(success[last - 1]),
        seed=trajectory.seed,
    )


def play_back_missing(env: gymnasium.Env[Any, Any], path: Path, number: int, out_dir: Path) -> bool:
    """Play back trajectory `number` of a file into `episode_folder`, unless it exists; returns its success."""
    folder = episode_folder(PLAYBACK, number, out_dir)
    if not folder.exists():
        for trajectory in read_trajectories(path, {number}):
            write_demonstration(out_dir, play_back(cast(ForeignEnv, env.unwrapped), trajectory, folder.name))
    return bool(read_outcome(folder).success)


def _check(env: AnyManiSkill, trajectory: ManiSkillTrajectory) -> None:
    mode = env.scene.agents[0].control_mode
    size = (env.scene.actions.size,)
    if trajectory.task != env.config.task:
        raise BadInput("trajectory.task", trajectory.task, f"give a trajectory of {env.config.task}")
    if trajectory.control_mode != mode:
        raise BadInput("control_mode", mode, f"make the environment with the trajectory's, {trajectory.control_mode}")
    if trajectory.actions.shape[1:] != size:
        raise BadInput(f"{trajectory.episode_id}/actions", trajectory.actions.shape, f"give [T, {size[0]}]")
    if trajectory.success is None:
        fix = "record it with ManiSkill's RecordEpisode, which says it"
        raise BadInput(f"{trajectory.episode_id}/success", None, fix)
