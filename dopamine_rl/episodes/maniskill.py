"""ManiSkill's trajectory files: NAME.h5 with a group `traj_N` per episode, and NAME.json with their metadata.

Source: mani_skill 3.0.1, `RecordEpisode`, which writes them. Their images are not read: frames are rendered again from
the recorded states (`actors.playback`), with the cameras of the reward model.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import EpisodeError
from dopamine_rl.files import read_json

if TYPE_CHECKING:
    import h5py

EnvStates = Mapping[str, Mapping[str, NDArray[np.float32]]]
"""Kind ("actors", "articulations") -> name of the body -> float32 [T + 1, …], its state before each step and at the
end."""


@dataclass(frozen=True, eq=False, slots=True)
class ManiSkillTrajectory:
    """One recorded episode of T environment steps, enough to replay it.

    Args:
        episode_id: `traj_N`.
        task: ManiSkill's name, such as PegInsertionSide-v1.
        control_mode: of the actions, such as pd_ee_delta_pose.
        seed: of the episode, including its geometry.
        actions: float32 [T, A].
        env_states: the simulator's states; None if not recorded.
        success: bool [T], whether the task is solved after each step; None if not recorded.
        terminated, truncated: bool [T].
    """

    episode_id: str
    task: str
    control_mode: str
    seed: int
    actions: NDArray[np.float32]
    env_states: EnvStates | None
    success: NDArray[np.bool_] | None
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


def list_trajectories(path: Path) -> list[int]:
    """The numbers N of the episodes `traj_N` of NAME.h5, in the order of NAME.json. Raises EpisodeError."""
    episodes = _about(path.with_suffix(".json"))["episodes"]
    return [_entry(path, i, about)["episode_id"] for i, about in enumerate(episodes)]


def read_trajectories(path: Path, numbers: Container[int] | None = None) -> Iterator[ManiSkillTrajectory]:
    """Read the episodes of NAME.h5 one at a time.

    Args:
        path: of the .h5 file.
        numbers: of the episodes to read; None reads all.
    Raises:
        EpisodeError: naming file, episode and field, when a malformed episode is reached.
    """
    import h5py

    about = _about(path.with_suffix(".json"))
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise EpisodeError(f"{path}: content", str(error), "give ManiSkill's trajectory file, NAME.h5") from error
    with file:
        for i, content in enumerate(about["episodes"]):
            episode = _entry(path, i, content)
            if numbers is None or episode["episode_id"] in numbers:
                yield _trajectory(path, file, str(about["env_info"]["env_id"]), episode)


def _about(path: Path) -> dict[str, Any]:
    try:
        about = read_json(path)
    except (FileNotFoundError, ValueError) as error:
        fix = "give the JSON file that belongs to the .h5 file"
        value = "missing" if isinstance(error, FileNotFoundError) else str(error)
        raise EpisodeError(f"{path}: content", value, fix) from error
    if not isinstance(about, dict) or not isinstance(about.get("episodes"), list):
        raise EpisodeError(f"{path}: episodes", about, "give a list with one entry per trajectory")
    info = about.get("env_info")
    if not isinstance(info, dict) or not isinstance(info.get("env_id"), str):
        raise EpisodeError(f"{path}: env_info.env_id", info, "name the task")
    return about


def _entry(path: Path, index: int, about: Any) -> dict[str, Any]:
    """Validate the JSON file's entry of a trajectory."""
    if not isinstance(about, dict):
        raise EpisodeError(f"{path.with_suffix('.json')}: episodes[{index}]", about, "give an object")
    for key, kinds in (("episode_id", int), ("episode_seed", int), ("control_mode", str)):
        if not isinstance(about.get(key), kinds):
            fix = f"give {'a number' if kinds is int else 'text'}"
            raise EpisodeError(f"{path.with_suffix('.json')}: episodes[{index}].{key}", about.get(key), fix)
    return about


def _trajectory(path: Path, file: h5py.File, task: str, about: dict[str, Any]) -> ManiSkillTrajectory:
    name = f"traj_{about['episode_id']}"
    if name not in file:
        raise EpisodeError(f"{path}: {name}", list(file)[:5], "give the trajectory that the JSON file names")
    group = file[name]
    arrays: dict[str, NDArray[Any]] = {}
    for field, ndim, kind in (("actions", 2, np.float32), ("terminated", 1, bool), ("truncated", 1, bool)):
        arrays[field] = _array(path, group, field, ndim, kind)
    success = _array(path, group, "success", 1, bool) if "success" in group else None
    lengths = {field: len(values) for field, values in arrays.items()}
    if success is not None:
        lengths["success"] = len(success)
    if len(set(lengths.values())) > 1 or not len(arrays["actions"]):
        raise EpisodeError(f"{path}: {name} lengths", lengths, "give one entry for each of at least one step")
    states = _states(path, group, len(arrays["actions"])) if "env_states" in group else None
    return ManiSkillTrajectory(
        name,
        task,
        about["control_mode"],
        about["episode_seed"],
        arrays["actions"],
        states,
        success,
        arrays["terminated"],
        arrays["truncated"],
    )


def _array(path: Path, group: h5py.Group, field: str, ndim: int, kind: Any) -> NDArray[Any]:
    where = f"{path}: {group.name.lstrip('/')}/{field}"
    values = group.get(field)
    if values is None or not hasattr(values, "ndim") or values.ndim != ndim:
        raise EpisodeError(where, values, f"give an array with {ndim} axes")
    try:
        array = values[()].astype(kind)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        fix = "the file is damaged, or this is no array of numbers: copy or record it again"
        raise EpisodeError(where, str(error), fix) from error
    if not np.isfinite(array).all():
        raise EpisodeError(where, array, "give finite numbers")
    return np.asarray(array)


def _states(path: Path, group: h5py.Group, steps: int) -> EnvStates:
    states: dict[str, dict[str, NDArray[np.float32]]] = {}
    for kind in ("actors", "articulations"):  # controller states are not needed for rendering
        bodies = group["env_states"].get(kind, {})
        states[kind] = {body: _array(path, bodies, body, 2, np.float32) for body in bodies}
        for body, values in states[kind].items():
            if len(values) != steps + 1:
                where = f"{path}: {group.name.lstrip('/')}/env_states/{kind}/{body}"
                fix = f"give one state before each of {steps} steps and one at the end"
                raise EpisodeError(where, values.shape, fix)
    return states
