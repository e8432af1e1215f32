"""Episodes as replay columns, recorded or sampled; demonstrations on disk as one .npz of columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.encoders.packing import Packing
from dopamine_rl.errors import BadInput
from dopamine_rl.files import read_npz, write_atomically, write_npz
from dopamine_rl.types import Demonstration, LabelColumns, RewardMode
from learner.replay import ColumnarReplay
from learner.rows import LABELS, ReplayColumns


@dataclass(frozen=True, eq=False)
class ReplayEpisode:
    """One whole episode of T transitions in replay columns.

    Args:
        episode_id: unique name.
        columns: obs, next_obs, actions, task_reward, potential, next_potential, valid, phase, next_phase, terminated;
            T rows each.
        version: model version of the labels; "" without a reward model.
        practice: it is no demonstration, but a try that fills the replay before training.
    """

    episode_id: str
    columns: ReplayColumns
    version: str
    practice: bool = False


def transition_columns(
    observations: NDArray[Any],
    actions: NDArray[Any],
    rewards: NDArray[Any],
    terminated: bool,
    labels: LabelColumns | None,
) -> ReplayColumns:
    """Replay columns of T consecutive transitions.

    Args:
        observations: float [T+1, D], or packed uint8 [T+1, N]; actions: float [T, A]; rewards: float [T].
        terminated: whether the last transition ended the task (truncation does not).
        labels: label columns; if None, `rewards` is the task reward and the potential is 0.
    Raises:
        BadInput: the labels have another number of transitions.
    """
    count = len(actions)
    if labels is not None and len(labels.task_reward) != count:
        raise BadInput("labels", len(labels.task_reward), f"give labels for all {count} transitions")
    ends = np.zeros(count, np.float32)
    ends[-1:] = terminated
    columns: ReplayColumns = {
        "obs": observations[:-1],
        "next_obs": observations[1:],
        "actions": actions,
        "terminated": ends,
    }
    if labels is None:
        return {**columns, "task_reward": np.asarray(rewards, np.float32)}
    return {**columns, **{name: getattr(labels, name) for name in LABELS}}


def replay_episode(demonstration: Demonstration, labels: LabelColumns | None, practice: bool = False) -> ReplayEpisode:
    """Replay columns of a recorded episode, labelled by the scorer that also labels the online data."""
    columns = transition_columns(
        demonstration.observations,
        demonstration.actions,
        demonstration.task_rewards,
        demonstration.terminated,
        labels,
    )
    return ReplayEpisode(demonstration.episode_id, columns, labels.model_version if labels else "", practice)


def save_demonstrations(path: Path, episodes: Sequence[ReplayEpisode]) -> None:
    """Write episodes as one .npz, atomically. Each observation is written once: those after a step follow from them.

    Raises:
        BadInput: there are no episodes.
    """
    if not episodes:
        raise BadInput("episodes", episodes, "give at least one demonstration")
    joined: dict[str, NDArray[Any]] = {
        name: np.concatenate([episode.columns[name] for episode in episodes])
        for name in episodes[0].columns
        if name != "next_obs"
    }
    joined["last_obs"] = np.stack([episode.columns["next_obs"][-1] for episode in episodes])
    joined["episode_ids"] = np.array([episode.episode_id for episode in episodes], np.str_)
    joined["episode_versions"] = np.array([episode.version for episode in episodes], np.str_)
    if any(episode.practice for episode in episodes):
        joined["episode_practice"] = np.array([episode.practice for episode in episodes], np.bool_)
    joined["episode_lengths"] = np.array([len(episode.columns["actions"]) for episode in episodes], np.int64)
    write_atomically(path, lambda temporary: write_npz(temporary, joined))


def load_demonstrations(
    path: Path, gamma: float, mode: RewardMode, packing: Packing | None = None
) -> tuple[ColumnarReplay, ColumnarReplay | None]:
    """Load the episodes of a `save_demonstrations` file into replay buffers of exactly their size.

    Args:
        packing: how the buffers store observations; None as float32.
    Returns:
        The demonstrations; and the practice, None where there is none.
    Raises:
        BadInput: the file is missing, lacks a column or holds no demonstration.
    """
    if not path.is_file():
        raise BadInput("demonstrations", str(path), "give an .npz file written by save_demonstrations")
    try:
        joined = read_npz(path)
    except ValueError as error:
        raise BadInput("demonstrations", str(path), f"write it again with save_demonstrations: {error}") from error
    required = {"obs", "actions", "episode_ids", "episode_versions", "episode_lengths"}
    if "potential" in joined:  # A labelled file must have all labels: none may be filled with a default.
        required |= set(LABELS)
    missing = required - set(joined)
    if missing:
        raise BadInput("demonstrations", str(path), f"write it with save_demonstrations; it lacks {sorted(missing)}")
    ids, versions, lengths = (joined.pop(f"episode_{name}") for name in ("ids", "versions", "lengths"))
    practice = joined.pop("episode_practice", np.zeros(len(ids), bool)).astype(bool)
    if practice.all():
        raise BadInput("demonstrations", str(path), "write it with at least one demonstration")
    sizes = joined["obs"].shape[1], joined["actions"].shape[1]
    counts = [int(lengths[kind].sum()) for kind in (~practice, practice)]
    kinds = [ColumnarReplay(count, *sizes, gamma, mode, packing=packing) for count in counts]
    last, ends = joined.pop("last_obs", None), np.cumsum(lengths)
    for index, (start, end) in enumerate(zip(ends - lengths, ends, strict=True)):
        columns = {key: values[start:end] for key, values in joined.items()}
        if last is not None:  # files of older versions hold next_obs
            columns["next_obs"] = np.concatenate((columns["obs"][1:], last[index : index + 1]))
        kinds[int(practice[index])].add(columns, str(ids[index]), version=str(versions[index]))
    return kinds[0], kinds[1] if practice.any() else None
