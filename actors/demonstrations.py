"""Recording scripted experts as demonstrations, with pictures at the scored frames and keyframes at stage changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.tasks import TASKS
from actors.tasks.task import EXPERT, NEAR_MISS, Task
from dopamine_rl.episodes.raw import read_demonstration, write_demonstration
from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import Expert
from dopamine_rl.types import Demonstration

SPARE_SEEDS, ATTEMPTS = 1_000_000, 20
"""A script that ends otherwise than meant is tried again with a seed so much higher, up to so many times in all."""


def task_of(env: gymnasium.Env) -> Task:
    """The task of a simulated environment under any wrappers."""
    return TASKS[env.unwrapped.config.task]  # type: ignore[attr-defined]


def record(
    env: gymnasium.Env,
    expert: Expert,
    seed: int,
    rng: np.random.Generator,
    episode_id: str = "",
    stride: int | None = None,
) -> Demonstration:
    """Run one episode and keep it.

    Args:
        env: a SimulatedEnv that renders views, wrapped or not.
        expert: acts.
        seed: of the environment.
        rng: of the expert.
        episode_id: name; `seed_000012` where left out.
        stride: environment steps from one frame to the next; the environment's own where left out.
    Raises:
        BadInput: the environment renders no views.
    """
    observation, infos = env.reset(seed=seed, options={} if stride is None else {"stride": stride})
    if "scored_views" not in infos:
        raise BadInput("env.views", (), "name at least one view; a demonstration has pictures")
    expert.reset(env, rng)
    observations, actions, rewards = [observation], [], []
    frames, frame_steps, step_stages = [infos["scored_views"]], [0], [expert.stage]
    truths = [infos["oracle_progress"]] if "oracle_progress" in infos else []
    terminated = truncated = False
    while not (terminated or truncated):
        action = expert.act(env)
        observation, reward, terminated, truncated, infos = env.step(action)
        observations.append(observation)
        actions.append(action)
        step_stages.append(expert.stage)
        rewards.append(reward)
        if "scored_views" in infos:
            frames.append(infos["scored_views"])
            frame_steps.append(len(actions))
            truths += [infos["oracle_progress"]] if truths else []
    keyframes, stages = find_keyframes(step_stages, frame_steps, expert.stages)
    task, name = task_of(env), episode_id or f"seed_{seed:06d}"
    return Demonstration(
        episode_id=name,
        instructions=task.instructions,
        frames=np.stack(frames),
        frame_steps=np.array(frame_steps, np.int64),
        keyframes=keyframes,
        stages=stages,
        observations=np.stack(observations).astype(np.float32),
        actions=np.stack(actions).astype(np.float32),
        task_rewards=np.array(rewards, np.float32),
        terminated=bool(terminated),
        success=bool(infos["success"]),
        seed=seed,
        true_progress=np.array(truths, np.float32) if truths else None,
        near_miss=not infos["success"] and (name.startswith(NEAR_MISS) or _ends_near(task, observations[-1])),
    )


def _ends_near(task: Task, observation: NDArray[np.float32]) -> bool:
    return task.near_miss is not None and task.near_miss(observation)


def find_keyframes(
    step_stages: Sequence[int], frame_steps: Sequence[int], names: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Cut an episode at its stage changes.

    Args:
        step_stages: the stage under way at the start and after each step, indices.
        frame_steps: F environment steps at which frames were taken, from 0 to the last.
        names: of the stages.
    Returns:
        keyframes int [N+1], indices of frames: the first, the nearest (of two the later) to every change to a later stage, the
        last; and the N stages' names. Every stage has a frame at least: one that begins too near to the one before is a frame
        late, one that begins with the last frame a frame early, and one that has no room at all is left out.
    """
    last = len(frame_steps) - 1
    between = (np.asarray(frame_steps[1:]) + np.asarray(frame_steps[:-1])) / 2
    starts, current = [(0, step_stages[0])], step_stages[0]
    for step, stage in enumerate(step_stages):
        if stage > current:
            current = stage
            frame = min(max(int(np.searchsorted(between, step, side="right")), starts[-1][0] + 1), last - 1)
            if frame > starts[-1][0]:
                starts.append((frame, stage))
    return np.array([*(frame for frame, _ in starts), last], np.int64), tuple(names[stage] for _, stage in starts)


def episode_folder(name: str, seed: int, out_dir: Path) -> Path:
    """Where `record_missing` puts an episode."""
    return out_dir / f"{name}_{seed:06d}"


def record_missing(
    env: gymnasium.Env, name: str, expert: Expert, seed: int, out_dir: Path, stride: int | None = None
) -> Demonstration:
    """Record one episode into `episode_folder`, unless it is there already; the expert's draws follow from name and seed.

    Args:
        name: what the episode is called after: one of the task's scripts, or another name for whoever acts.
    """
    folder = episode_folder(name, seed, out_dir)
    if folder.exists():
        return read_demonstration(folder)
    episode = record(env, expert, seed, _draws(env, name, seed), folder.name, stride)
    write_demonstration(out_dir, episode)
    return episode


def record_as_meant(env: gymnasium.Env, script: str, seed: int, out_dir: Path) -> Demonstration:
    """Like `record_missing`, but the expert's episode succeeds and every other script's fails.

    Where one ends otherwise, the next of its spare seeds is taken; the episode holds the seed that it really began with.

    Raises:
        BadInput: none of the attempts ended as meant.
    """
    folder = episode_folder(script, seed, out_dir)
    if folder.exists():
        return read_demonstration(folder)
    for attempt in range(ATTEMPTS):
        tried = seed + attempt * SPARE_SEEDS
        expert = task_of(env).scripts[script]()
        episode = record(env, expert, tried, _draws(env, script, tried), folder.name)
        if episode.success == (script == EXPERT):
            write_demonstration(out_dir, episode)
            return episode
    raise BadInput("kind", script, f"choose another: {ATTEMPTS} attempts from seed {seed} did not end as meant")


def _draws(env: gymnasium.Env, name: str, seed: int) -> np.random.Generator:
    """What a script draws from in the episode of a seed; no two scripts of a task draw the same."""
    scripts = list(task_of(env).scripts)
    return np.random.default_rng([seed, scripts.index(name) if name in scripts else len(scripts)])
