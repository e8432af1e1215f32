"""Records scripted experts as demonstrations, with pictures at the scored frames and keyframes at stage changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np

from actors.claims import EndsOnClaim
from actors.envs import scripts_of
from actors.experts.disturbed import simulated
from actors.foreign import ForeignEnv
from actors.maniskill import SimulatedEnv
from actors.tasks.task import EXPERT, NEAR_MISS, SUCCEEDING
from dopamine_rl.encoders.eyes import PROPRIOCEPTION
from dopamine_rl.episodes.raw import read_demonstration, write_demonstration
from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import Demonstrator, Expert
from dopamine_rl.types import Demonstration

SPARE_SEEDS, ATTEMPTS = 1_000_000, 20
"""A script with the wrong outcome is retried with its seed raised by the first number, up to this many attempts."""


def record(
    env: gymnasium.Env,
    expert: Expert,
    seed: int,
    rng: np.random.Generator,
    episode_id: str = "",
    stride: int | None = None,
    looks: bool = False,
) -> Demonstration:
    """Run and record one episode. Of an observation with pictures, proprioception alone is recorded.

    In an EndsOnClaim the simulator's verdict is not recorded: the episode is a success if the expert, a Demonstrator,
    says that the task is done; the next step is then the last, and has a frame. Others go on until time runs out.

    Args:
        env: a SimulatedEnv or ForeignEnv that shows views, wrapped or not.
        expert: acts.
        seed: of the environment.
        rng: of the expert.
        episode_id: name; `seed_000012` where left out.
        stride: environment steps from one frame to the next; the environment's own where left out.
        looks: the expert sees the observation's pictures, so that they must be rendered at every step.
    Raises:
        BadInput: the environment renders no views.
    """
    place = _recorded(env)
    options = {"blind": not looks} | ({} if stride is None else {"stride": stride})
    observation, infos = env.reset(seed=seed, options=options)
    if "scored_views" not in infos:
        raise BadInput("env.views", (), "name at least one view; a demonstration has pictures")
    expert.reset(env, rng)
    observations, actions, rewards = [_vector(observation)], [], []
    frames, frame_steps, step_stages = [infos["scored_views"]], [0], [expert.stage]
    truths = [infos["oracle_progress"]] if "oracle_progress" in infos else []
    poses = [place.tool_pose()]
    terminated = truncated = False
    while not (terminated or truncated):
        action = expert.act(env)
        observation, reward, terminated, truncated, infos = env.step(action)
        if isinstance(env, EndsOnClaim):
            infos = _claim(env, expert, infos, terminated)
        observations.append(_vector(observation))
        actions.append(action)
        step_stages.append(expert.stage)
        rewards.append(reward)
        if "scored_views" in infos:
            frames.append(infos["scored_views"])
            frame_steps.append(len(actions))
            truths += [infos["oracle_progress"]] if truths else []
            poses.append(place.tool_pose())
    keyframes, stages = find_keyframes(step_stages, frame_steps, expert.stages)
    name, success = episode_id or f"seed_{seed:06d}", bool(infos["success"])
    return Demonstration(
        episode_id=name,
        instructions=place.instructions,
        frames=np.stack(frames),
        frame_steps=np.array(frame_steps, np.int64),
        keyframes=keyframes,
        stages=stages,
        observations=np.stack(observations).astype(np.float32),
        actions=np.stack(actions).astype(np.float32),
        task_rewards=np.array(rewards, np.float32),
        terminated=bool(terminated),
        success=success,
        seed=seed,
        true_progress=np.array(truths, np.float32) if truths else None,
        near_miss=False if success else name.startswith(NEAR_MISS) or _ends_near(env),
        tool_poses=None if poses[0] is None else np.stack([pose for pose in poses if pose is not None]),
    )


def _recorded(env: gymnasium.Env) -> SimulatedEnv | ForeignEnv:
    """The environment under any wrappers."""
    return cast("SimulatedEnv | ForeignEnv", env.unwrapped)


def _vector(observation: Any) -> Any:
    """An observation without its pictures."""
    return observation[PROPRIOCEPTION] if isinstance(observation, Mapping) else observation


def _ends_near(env: gymnasium.Env) -> bool | None:
    """Whether a failure came close to success; with claims nobody may ask the simulator."""
    return False if isinstance(env, EndsOnClaim) else _recorded(env).ends_near()


def _claim(env: EndsOnClaim, expert: Expert, infos: dict[str, Any], terminated: bool) -> dict[str, Any]:
    """Let the demonstrator claim success; returns the infos with their verdict, and the last frame of a success."""
    if isinstance(expert, Demonstrator) and expert.finished(env):
        env.claim()
    shown = {"scored_views": simulated(env).render_views()} if terminated else {}
    return {**shown, **infos, "success": terminated}


def find_keyframes(
    step_stages: Sequence[int], frame_steps: Sequence[int], names: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Cut an episode at its stage changes.

    Args:
        step_stages: the stage under way at the start and after each step, indices.
        frame_steps: F environment steps at which frames were taken, from 0 to the last.
        names: of the stages.
    Returns:
        keyframes int [N+1], indices of frames: the first one, the nearest one to every change to a later stage (the
        later of two), and the last one; and the names of the N stages. Every stage has at least one frame: a stage that
        starts too close to the previous one is moved a frame later, one that starts with the last frame a frame
        earlier, and one without any room is left out.
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
    """The folder of an episode of `record_missing`."""
    return out_dir / f"{name}_{seed:06d}"


def record_missing(
    env: gymnasium.Env,
    name: str,
    expert: Expert,
    seed: int,
    out_dir: Path,
    stride: int | None = None,
    looks: bool = False,
) -> Demonstration:
    """Record one episode into `episode_folder`, unless it exists. Name and seed determine the expert's randomness.

    Args:
        name: of the episode: one of the task's scripts, or another name of the policy.
        stride, looks: as for `record`.
    """
    folder = episode_folder(name, seed, out_dir)
    if folder.exists():
        return read_demonstration(folder)
    episode = record(env, expert, seed, _generator(env, name, seed), folder.name, stride, looks)
    write_demonstration(out_dir, episode)
    return episode


def record_as_meant(env: gymnasium.Env, script: str, seed: int, out_dir: Path) -> Demonstration:
    """Like `record_missing`, but scripts in SUCCEEDING must succeed and all others must fail.

    An episode with the wrong outcome is retried with a spare seed; the recording holds the seed that was used.

    Raises:
        BadInput: no attempt had the right outcome.
    """
    folder = episode_folder(script, seed, out_dir)
    if folder.exists():
        return read_demonstration(folder)
    for attempt in range(ATTEMPTS):
        attempt_seed = seed + attempt * SPARE_SEEDS
        expert = simulated(env).task.scripts[script]()
        episode = record(env, expert, attempt_seed, _generator(env, script, attempt_seed), folder.name)
        if episode.success == (script in SUCCEEDING):
            write_demonstration(out_dir, episode)
            return episode
    raise BadInput("kind", script, f"choose another one: {ATTEMPTS} attempts from seed {seed} had the wrong outcome")


def _generator(env: gymnasium.Env, name: str, seed: int) -> np.random.Generator:
    """The random generator of a script in an episode; different for all scripts of a task."""
    scripts = list(scripts_of(_recorded(env).config, EXPERT))
    return np.random.default_rng([seed, scripts.index(name) if name in scripts else len(scripts)])
