"""Demonstrations that a user recorded in an environment of their own: raw episodes, or a LeRobotDataset v3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from actors.workers import Job
from dopamine_rl.episodes.lerobot import LeRobotSource, is_dataset
from dopamine_rl.episodes.lerobot_transitions import EnvironmentSpaces, read_transitions
from dopamine_rl.episodes.raw import (
    has_transitions,
    list_episodes,
    read_demonstration,
    read_outcome,
    write_demonstration,
)
from dopamine_rl.errors import BadInput
from dopamine_rl.files import fingerprint
from experiments.job.plans import frame_stride

if TYPE_CHECKING:
    from experiments.job.run import Run
    from experiments.settings import ExperimentConfig

FIELD = "demonstrations.folder"
Episode = TypeVar("Episode")


@dataclass(frozen=True)
class RecordedPlan:
    """Episodes that exist: there is nothing to record.

    Args:
        paths: the episodes' folders.
    """

    paths: list[Path]

    @property
    def jobs(self) -> list[Job]:
        """None."""
        return []


def recorded_plans(run: Run) -> dict[str, RecordedPlan]:
    """The episodes of `demonstrations.folder`, shared out as by `share_out`. Those of a LeRobotDataset are written into
    the run's folder as raw episodes, with the frames that each use needs.

    Raises:
        BadInput: there are too few, or they were recorded in another environment.
        EpisodeError: one of them cannot be read.
    """
    config = run.config
    folder = Path(config.demonstrations.folder).resolve()
    [spaces] = run.pool.map([Job("spaces", ())], run.console.progress, "environments made")
    if is_dataset(folder):
        return _from_dataset(run, folder, spaces)
    plans = raw_plans(config, folder)
    demonstration = read_demonstration(plans["policy"].paths[0])
    recorded = demonstration.observations.shape[1], demonstration.actions.shape[1]
    if recorded != spaces.sizes:
        fix = f"record in this environment: its observations and actions have {spaces.sizes} numbers, not {recorded}"
        raise BadInput(FIELD, str(plans["policy"].paths[0]), fix)
    return plans


def raw_plans(config: ExperimentConfig, folder: Path) -> dict[str, RecordedPlan]:
    """The episodes of a folder of raw episodes, shared out. Raises BadInput if there are too few."""
    successes = [path for path in list_episodes(folder) if read_outcome(path).success is not False]
    acted = [path for path in successes if has_transitions(path)]
    return {name: RecordedPlan(paths) for name, paths in share_out(config, acted, successes).items()}


def share_out(
    config: ExperimentConfig, acted: Sequence[Episode], successes: Sequence[Episode]
) -> dict[str, list[Episode]]:
    """Share out successes in their order: for the policy, unseen ones for the gate, and for the reward model.

    Args:
        acted: those with actions, which the policy and the gate need.
        successes: all of them.
    Raises:
        BadInput: there are too few.
    """
    counts, learned = config.demonstrations, config.reward != "sparse"
    wanted = counts.policy + counts.gate_successes * learned
    if len(acted) < wanted:
        fix = f"record {wanted} successes with actions, or lower demonstrations.policy and gate_successes"
        raise BadInput(FIELD, f"{counts.folder}: {len(acted)} with actions", fix)
    policy, gate = acted[: counts.policy], acted[counts.policy : wanted]
    left = [episode for episode in successes if episode not in (*policy, *gate)]
    if learned and len(left) < counts.reward_model:
        fix = f"record {counts.reward_model - len(left)} more, or lower demonstrations.reward_model"
        raise BadInput(FIELD, f"{counts.folder}: {len(successes)} successes", fix)
    sets = {"policy": policy, "gate": gate, "reward_model": left[: counts.reward_model]}
    return {name: list(episodes) for name, episodes in sets.items()} | {"gate_behaviours": []}


def _from_dataset(run: Run, root: Path, spaces: EnvironmentSpaces) -> dict[str, RecordedPlan]:
    config = run.config
    source = LeRobotSource(root, config.env.views or None)
    successes = [info.episode_id for info in source.episodes() if info.success is not False]
    plans: dict[str, RecordedPlan] = {}
    missing: list[tuple[Path, int]] = []
    for name, episodes in share_out(config, successes, successes).items():
        stride = frame_stride(config, name) or config.env.stride
        folder = run.path / "demonstrations" / f"lerobot_{fingerprint((_files(root), spaces, stride))}"
        plans[name] = RecordedPlan([folder / episode for episode in episodes])
        missing += [(path, stride) for path in plans[name].paths if not path.exists()]
    if missing:
        with run.console.phase("recorded", f"Demonstrations of {root.name}"):
            for done, (path, stride) in enumerate(missing, 1):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_demonstration(path.parent, read_transitions(source, path.name, spaces, stride))
                run.console.progress(f"episodes read: {done} of {len(missing)}", done == len(missing))
    return plans


def _files(root: Path) -> list[tuple[str, int, int]]:
    """Changes with a dataset's files."""
    stats = {path: path.stat() for path in sorted(root.rglob("*")) if path.is_file()}
    return [(str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()]
