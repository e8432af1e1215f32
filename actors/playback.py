"""ManiSkill's recorded trajectories as demonstrations: the simulator is put into each recorded state, and rendered.

No action is replayed, so nothing can drift, and a trajectory of any control mode will do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from actors.demonstrations import episode_folder, find_keyframes, task_of
from actors.maniskill import PEG_INSERTION, SimulatedEnv
from actors.tasks.task import EXPERT, Task
from dopamine_rl.episodes.maniskill import EnvStates, ManiSkillTrajectory, read_trajectories
from dopamine_rl.episodes.raw import read_outcome, write_demonstration
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Demonstration

PLAYBACK = "trajectory"
"""What replayed episodes are called after."""
SAME_M = 1e-3
"""A recorded start within this of the start that the seed names is the same one."""


def check_trajectory(task: Task, trajectory: ManiSkillTrajectory) -> None:
    """Raise BadInput where a trajectory cannot be replayed: of another task, or without states or successes."""
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
    """Show a trajectory again, up to its first success; a frame at every `stride`-th environment step and at the last.

    Its stages are told by true progress: the expert's first until progress says that the object is held (`Task.held`), then
    all later ones as one. Actions are kept as they were recorded, in the trajectory's control mode.

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
    task = task_of(env)
    check_trajectory(task, trajectory)
    states, success = trajectory.env_states, trajectory.success
    assert states is not None
    assert success is not None
    last = int(success.argmax()) + 1 if success.any() else len(success)
    env.reset(seed=trajectory.seed)
    _same_start(env, states)
    observations, frames, frame_steps, truths, stages = [], [], [], [], [0]
    for step in range(last + 1):
        observations.append(env.restore(moment(states, step), first=step == 0))
        truth = 1.0 if success[step - 1] and step else env.true_progress()
        stages.append(int(stages[-1] or truth >= task.held))
        if step % env.config.stride == 0 or step == last:
            frames.append(env.render_views())
            frame_steps.append(step)
            truths.append(truth)
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
    )


def play_back_missing(env: SimulatedEnv, path: Path, number: int, out_dir: Path) -> bool:
    """Replay trajectory `number` of a file into `episode_folder`, unless it is there already; return its success."""
    folder = episode_folder(PLAYBACK, number, out_dir)
    if not folder.exists():
        for trajectory in read_trajectories(path, {number}):
            write_demonstration(out_dir, play_back(env, trajectory, folder.name))
    return bool(read_outcome(folder).success)


def moment(states: EnvStates, step: int) -> EnvStates:
    """The state of every body before a step."""
    return {kind: {body: values[step] for body, values in bodies.items()} for kind, bodies in states.items()}


def _same_start(env: SimulatedEnv, states: EnvStates) -> None:
    """Refuse the peg insertion of another geometry: sizes are no part of a state, they follow from the seed."""
    if env.config.task != PEG_INSERTION:
        return
    drawn, recorded = env.state().peg[:3, 3], states["actors"].get("peg", np.full((1, 3), np.inf))[0, :3]
    if np.abs(drawn - recorded).max() > SAME_M:
        raise BadInput("env_states/actors/peg", recorded, f"give one recorded on the CPU by ManiSkill 3.0: its seed begins at {drawn}")  # fmt: skip
