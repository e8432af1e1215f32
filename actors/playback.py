"""Playback of ManiSkill's recorded trajectories as demonstrations: each recorded state is restored and rendered.

No actions are executed, so there is no drift, and trajectories of any control mode work.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from actors.demonstrations import episode_folder, find_keyframes
from actors.geometry import position_and_quaternion
from actors.maniskill import PEG_INSERTION, SimulatedEnv
from actors.tasks.task import EXPERT, Task
from dopamine_rl.episodes.maniskill import EnvStates, ManiSkillTrajectory, read_trajectories
from dopamine_rl.episodes.raw import read_outcome, write_demonstration
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Demonstration

PLAYBACK = "trajectory"
"""Name prefix of played-back episodes."""
SAME_M = 1e-3
"""Tolerance between the recorded start and the start of the episode's seed."""


def check_trajectory(task: Task, trajectory: ManiSkillTrajectory) -> None:
    """Raise BadInput if a trajectory cannot be played back: wrong task, or no states or success flags."""
    if trajectory.task != task.name:
        raise BadInput("trajectory.task", trajectory.task, f"give a trajectory of {task.name}, or name its own task")
    if trajectory.env_states is None:
        raise BadInput(
            f"{trajectory.episode_id}/env_states",
            None,
            "record it with record_env_state=True, or let mani_skill.trajectory.replay_trajectory write the states",
        )
    if trajectory.success is None:
        raise BadInput(
            f"{trajectory.episode_id}/success", None, "record it with ManiSkill's RecordEpisode, which says it"
        )


def play_back(env: SimulatedEnv, trajectory: ManiSkillTrajectory, episode_id: str) -> Demonstration:
    """Play back a trajectory up to its first success, with a frame every `stride` environment steps and at the end.

    Stages follow from true progress: the expert's first stage until the object is held (`Task.held`), then all later
    stages as one. Actions are the recorded ones, in the trajectory's control mode.

    Args:
        env: with the standard start, whose geometry the episode's seed draws, and at least one view.
        trajectory: of its task, with recorded states.
        episode_id: name of the demonstration.
    Raises:
        BadInput: it cannot be replayed (`check_trajectory`), it began otherwise than its seed does, or the environment
            cannot show it.
    """
    if env.config.start != "standard" or not env.config.views:
        raise BadInput("env", env.config, "give the standard start and at least one view")
    task = env.task
    check_trajectory(task, trajectory)
    states, success = trajectory.env_states, trajectory.success
    assert states is not None
    assert success is not None
    last = int(success.argmax()) + 1 if success.any() else len(success)
    env.reset(seed=trajectory.seed)
    _same_start(env, states)
    observations, frames, frame_steps, truths, poses, stages = [], [], [], [], [], [0]
    for step in range(last + 1):
        observations.append(env.restore(moment(states, step), first=step == 0))
        truth = 1.0 if success[step - 1] and step else env.true_progress()
        stages.append(int(stages[-1] or truth >= task.held))
        if step % env.config.stride == 0 or step == last:
            frames.append(env.render_views())
            frame_steps.append(step)
            truths.append(truth)
            poses.append(position_and_quaternion(env.state().tool))
    first, *later = task.scripts[EXPERT]().stages
    keyframes, names = find_keyframes(stages[1:], frame_steps, (first, " and ".join(later)))
    return Demonstration(
        episode_id=episode_id,
        instructions=task.instructions,
        frames=np.stack(frames),
        frame_steps=np.array(frame_steps, np.int64),
        keyframes=keyframes,
        stages=names,
        observations=np.stack(observations),
        actions=trajectory.actions[:last],
        task_rewards=success[:last].astype(np.float32),
        terminated=bool(success[last - 1]),
        success=bool(success[last - 1]),
        seed=trajectory.seed,
        true_progress=np.array(truths, np.float32),
        tool_poses=np.stack(poses),
    )


def play_back_missing(env: SimulatedEnv, path: Path, number: int, out_dir: Path) -> bool:
    """Play back trajectory `number` of a file into `episode_folder`, unless it exists; returns its success."""
    folder = episode_folder(PLAYBACK, number, out_dir)
    if not folder.exists():
        for trajectory in read_trajectories(path, {number}):
            write_demonstration(out_dir, play_back(env, trajectory, folder.name))
    return bool(read_outcome(folder).success)


def moment(states: EnvStates, step: int) -> EnvStates:
    """The state of every body before a step."""
    return {kind: {body: values[step] for body, values in bodies.items()} for kind, bodies in states.items()}


def _same_start(env: SimulatedEnv, states: EnvStates) -> None:
    """Raise BadInput for a peg insertion with another geometry: a state holds no sizes, they follow from the seed."""
    if env.config.task != PEG_INSERTION:
        return
    drawn, recorded = env.state().peg[:3, 3], states["actors"].get("peg", np.full((1, 3), np.inf))[0, :3]
    if np.abs(drawn - recorded).max() > SAME_M:
        raise BadInput(
            "env_states/actors/peg",
            recorded,
            f"give one recorded on the CPU by ManiSkill 3.0: its seed begins at {drawn}",
        )
