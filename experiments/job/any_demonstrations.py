"""Records demonstrations of any ManiSkill task, by a policy or from ManiSkill's trajectories, for `dopamine demos`."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from actors.demonstrations import SPARE_SEEDS, episode_folder
from actors.maniskill import EnvConfig
from actors.playback import PLAYBACK
from dopamine_rl.episodes.maniskill import ManiSkillTrajectory, list_trajectories
from dopamine_rl.errors import BadInput
from dopamine_rl.files import write_text
from dopamine_rl.policy import load_policy, policy_provenance
from experiments.job.demonstrations import (
    KNOWN,
    DemosArguments,
    first_trajectory,
    identity,
    played_back,
    record_episodes,
)
from experiments.runtime.storage import lasting_path

MAKE = "actors.any_maniskill:make"
"""What makes the environment, as `dopamine train --env.make` takes it."""
POLICY = "policy"
"""Name prefix of a policy's episodes."""
ACTOR = "actor.json"
"""File in the folder of a policy's episode that says who acted."""
STRIDE, VIEWS = 4, "front"


def is_any(arguments: DemosArguments) -> bool:
    """Whether a task without a scripted expert is meant."""
    return arguments.task not in KNOWN and bool(arguments.policy or arguments.trajectories)


def record_any(arguments: DemosArguments) -> dict[str, Any]:
    """Record the requested episodes that do not exist yet; returns the summary that is printed last.

    Raises:
        BadInput: an argument is invalid, or the folder's episodes were recorded with other settings.
        CheckpointError: the policy's file is none.
    """
    for name, given in (("--failures", arguments.failures), ("--kind", arguments.kind), ("--env", arguments.env)):
        if given:
            raise BadInput(name, given, "leave it out: only tasks with a scripted expert have it")
    if arguments.look != "plain":
        raise BadInput("--look", arguments.look, "leave it out: only tasks with a scripted expert have it")
    if arguments.n is not None and arguments.n < 1:
        raise BadInput("-n", arguments.n, "give at least 1")
    if arguments.policy and arguments.trajectories:
        raise BadInput("--policy", str(arguments.policy), "give this or --trajectories, not both")
    if arguments.policy:
        load_policy(arguments.policy)
        if arguments.n is None:
            raise BadInput("-n", None, "say how many episodes to record")
        if not 0 <= arguments.seed < SPARE_SEEDS:
            raise BadInput("--seed", arguments.seed, f"choose 0 to {SPARE_SEEDS - 1}")
    from actors.any_scene import find_task  # imports the simulator

    name = arguments.task if re.search(r"-v\d+$", arguments.task) else f"{arguments.task}-v1"
    try:
        horizon = find_task(name).max_episode_steps
    except BadInput as error:
        raise BadInput("TASK", arguments.task, error.fix) from None
    trajectory = _first(arguments, name)
    env = environment(arguments, name, horizon or 100, trajectory.control_mode if trajectory else None)
    out = lasting_path(arguments.out or Path("demos") / name.rpartition("-")[0]).resolve()
    if trajectory is not None and arguments.trajectories is not None:
        numbers = list_trajectories(arguments.trajectories)[: arguments.n]
        episodes = [(PLAYBACK, number) for number in numbers]
        origin = {"trajectories": identity(arguments.trajectories, trajectory.control_mode)}
        make_job = played_back(arguments.trajectories, out)
        return record_episodes(name, episodes, make_job, env, out, arguments, origin)
    return _record_policy(arguments, name, env, out)


def _record_policy(arguments: DemosArguments, name: str, env: EnvConfig, out: Path) -> dict[str, Any]:
    from actors.workers import Job, PolicySpec

    def make_job(_: str, seed: int) -> Job:
        return Job("record", (spec, seed, out))

    path = arguments.policy
    assert path is not None
    assert arguments.n is not None
    actor = who(path)
    spec, seeds = PolicySpec("network", path.resolve(), POLICY), range(arguments.seed, arguments.seed + arguments.n)
    episodes = [(POLICY, seed) for seed in seeds]
    summary = record_episodes(name, episodes, make_job, env, out, arguments, {"policy": actor})
    for seed in seeds:
        write_text(episode_folder(POLICY, seed, out) / ACTOR, json.dumps(actor, indent=2))
    return summary | {"actor": actor}


def who(path: Path) -> dict[str, Any]:
    """What is known of a policy that acts: its file, and what it was trained on."""
    about = policy_provenance(path) or {}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return {"policy": path.name, "sha256": digest, "trained_on": about.get("trained_on", "unknown"), "about": about}


def environment(arguments: DemosArguments, task: str, horizon: int, control_mode: str | None) -> EnvConfig:
    """The environment that the episodes are recorded in, as `dopamine train` takes it.

    Args:
        control_mode: of the trajectories, if there are any.
    Raises:
        BadInput: an option is out of range, or another control mode is asked for than the trajectories have.
    """
    if control_mode and arguments.control_mode not in (None, control_mode):
        raise BadInput("--control-mode", arguments.control_mode, f"leave it out: the trajectories have {control_mode}")
    views = tuple((arguments.views or VIEWS).split(","))
    settings: dict[str, Any] = {"task": task, "cameras": views, "image_size": arguments.size or 112}
    if mode := control_mode or arguments.control_mode:
        settings["control_mode"] = mode
    return EnvConfig(
        make=MAKE,
        kwargs=json.dumps(settings),
        instruction=arguments.instruction or in_words(task),
        horizon=horizon,
        stride=arguments.stride or STRIDE,
        image_size=arguments.size or 112,
        views=views,
    )


def in_words(task: str) -> str:
    """A task's name as an instruction: lift peg upright."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", task.rpartition("-")[0]).lower()


def _first(arguments: DemosArguments, task: str) -> ManiSkillTrajectory | None:
    """The first trajectory of the file. Raises BadInput if there is none of the task."""
    if arguments.trajectories is None:
        return None
    first = first_trajectory(arguments.trajectories)
    if first.task != task:
        raise BadInput("trajectory.task", first.task, f"give a trajectory of {task}, or name its own task")
    return first
