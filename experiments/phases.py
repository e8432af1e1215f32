"""The phases of the main job, each a function from what the phases before it left on disk."""

from __future__ import annotations

import hashlib
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.demonstrations import episode_folder
from actors.labeller import Labeller, LabellerConfig
from dopamine_rl.episodes.raw import read_demonstration
from dopamine_rl.errors import BadInput, ScoringError
from dopamine_rl.grm.train import TrainProgress
from dopamine_rl.interfaces import RewardClient
from dopamine_rl.metrics import wilson
from dopamine_rl.types import Demonstration, LabelColumns, Rate, TaskReference
from experiments.console import Console
from experiments.gate import GateReport, JudgedEpisode, judge, report
from experiments.settings import ExperimentConfig
from experiments.storage import RunFolder
from experiments.video import Curves, Film, write_film
from experiments.workers import Job, PolicySpec, WorkerPool
from learner.algorithms.bc import train_bc
from learner.demonstrations import replay_episode, save_demonstrations
from learner.grm_sft import train_grm
from learner.policy import save_policy
from reward_service.client import ServeRewardClient
from reward_service.deployment import deploy, shutdown

FAILURES = ("near_miss", "stall", "near_miss", "retreat")
"""Kinds of failed episodes, in turn: half of them near misses."""


@dataclass(frozen=True)
class DemonstrationSets:
    """Folders of recorded episodes, by what they are for."""

    reward_model: list[Path]
    policy: list[Path]
    gate: list[Path]


def record_demonstrations(
    config: ExperimentConfig, folder: RunFolder, pool: WorkerPool, console: Console
) -> DemonstrationSets:
    """Record what is missing of the three sets; what is on disk from the same environment is kept."""
    wanted = config.demonstrations
    plans = {
        "reward_model": ["expert"] * wanted.reward_model + _failures(wanted.reward_model_failures),
        "policy": ["expert"] * wanted.policy,
        "gate": ["expert"] * wanted.gate_successes + [FAILURES[i % len(FAILURES)] for i in range(wanted.gate_failures)],
    }
    fingerprint = hashlib.sha256(repr(config.env).encode()).hexdigest()[:8]
    jobs, paths = [], {name: [] for name in plans}
    for number, (name, kinds) in enumerate(plans.items()):
        for i, kind in enumerate(kinds):
            seed = wanted.first_seed + 1000 * number + i
            out_dir = folder.path / "demonstrations" / fingerprint / name
            jobs.append(Job("record", (kind, seed, out_dir)))
            paths[name].append(episode_folder(kind, seed, out_dir))
    pool.map(jobs, console, "episodes recorded")
    return DemonstrationSets(**paths)


def _failures(count: int) -> list[str]:
    return [FAILURES[i % len(FAILURES)] for i in range(count)]


def train_reward_model(config: ExperimentConfig, folder: RunFolder, sets: DemonstrationSets, console: Console) -> Path:
    """Fit the reward model to its demonstrations; returns the checkpoint folder."""
    card = {"task": config.env.task, "start": config.env.start, "command": " ".join(sys.argv), "seed": config.seed}

    def on_progress(progress: TrainProgress) -> None:
        console.progress(
            f"update {progress.update}, loss {progress.loss:.2f}, hop error {progress.hop_error:.3f}, "
            f"{progress.pairs_per_s:.0f} pairs/s, {progress.eta_s:.0f} s to go"
        )

    work = folder.path / "train"
    try:
        return train_grm(config.sft, config.grm, sets.reward_model, folder.path / "grm", work, card, on_progress)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def read_all(folders: Sequence[Path]) -> list[Demonstration]:
    """Read recorded episodes."""
    return [read_demonstration(path) for path in folders]


def gate(
    client: RewardClient, demonstrations: Sequence[Demonstration], reference: TaskReference, config: ExperimentConfig
) -> tuple[GateReport, list[JudgedEpisode]]:
    """Judge the reward model on unseen episodes through the service that will label the training."""
    judged = judge(client, demonstrations, reference, config.fusion)
    return report(judged, config.evaluation.success_threshold, config.env.stride), judged


def labeller_config(config: ExperimentConfig, records_dir: Path | None = None) -> LabellerConfig:
    """The labeller's settings; γ is the learner's."""
    return LabellerConfig(
        mode=config.reward,
        gamma=config.gamma,
        stride=config.env.stride,
        fusion=config.fusion,
        deadline_s=config.labels.deadline_s,
        records_dir=records_dir,
    )


def first_success(demonstrations: Sequence[Demonstration]) -> Demonstration:
    """The first episode that succeeded: references and goal are taken from it. Raises BadInput where none did."""
    for demonstration in demonstrations:
        if demonstration.success:
            return demonstration
    raise BadInput("demonstrations", len(demonstrations), "no expert episode succeeded: give env.horizon more time")


def label_demonstrations(
    demonstrations: Sequence[Demonstration], labeller: Labeller, reference: TaskReference, frames_together: int
) -> list[LabelColumns]:
    """Columns of recorded episodes from the labeller that labels online data, at its stride.

    Args:
        frames_together: frames that may be asked for at once; the service's queue is bounded.
    Raises:
        ScoringError: a frame went without a value.
    """
    columns = []
    for group in _groups(demonstrations, frames_together):
        for demonstration in group:
            _ask(demonstration, labeller, reference)
        for demonstration in group:
            name = demonstration.episode_id
            columns.append(labeller.collect(name, 0, demonstration.task_rewards, demonstration.terminated)[1])
            record = labeller.finish(name)
            if record is not None and labeller.config.records_dir is not None:
                record.save(labeller.config.records_dir)
    counts = labeller.take_counts()
    if counts.answered != counts.asked:
        raise ScoringError(f"the policy's demonstrations could not all be labelled: {counts}")
    return columns


def _groups(demonstrations: Sequence[Demonstration], frames: int) -> Iterator[list[Demonstration]]:
    """Neighbours that have at most so many frames together; a longer episode stands alone."""
    group: list[Demonstration] = []
    for demonstration in demonstrations:
        if group and sum(len(d.frames) for d in group) + len(demonstration.frames) > frames:
            yield group
            group = []
        group.append(demonstration)
    if group:
        yield group


def _ask(demonstration: Demonstration, labeller: Labeller, reference: TaskReference) -> None:
    name, times = demonstration.episode_id, demonstration.frame_steps[1:]
    labeller.begin(name, reference.context(name, demonstration.frames[0]) if labeller.asks_model else None)
    if labeller.asks_model:
        for time, views in zip(times, demonstration.frames[1:], strict=True):
            labeller.observe(name, int(time), views)
    elif labeller.config.mode == "oracle":
        if demonstration.true_progress is None:
            raise BadInput("reward", "oracle", f"use another mode: nobody knows the true progress of {name}")
        for time, progress in zip(times, demonstration.true_progress[1:], strict=True):
            labeller.observe_truth(name, int(time), float(progress))


def film_curves(film: Film, client: RewardClient, reference: TaskReference, config: ExperimentConfig) -> Curves:
    """Progress of a filmed episode and the reward that this run's labeller pays for it.

    The curves always show the reward model's progress; in the modes that do not ask it, the reward is the task's alone
    or comes from the simulator, as the title says.
    """
    name = f"film_{film.seed}"
    scored = [t for t in film.score_times if t > 0]
    asking = replace(labeller_config(config), mode=config.reward if config.reward in ("grm", "naive") else "grm")
    labeller = Labeller(replace(asking, records_dir=Path("kept in memory")), client)
    labeller.begin(name, reference.context(name, film.views[0]))
    for time in scored:
        labeller.observe(name, time, film.views[time])
    rewards, _ = labeller.collect(name, 0, film.task_rewards, film.terminated)
    record = labeller.finish(name)
    assert record is not None
    if config.reward in ("sparse", "oracle"):
        rewards = film.task_rewards
    perspectives = np.array([np.zeros(3)] + [frame.perspectives for frame in record.frames], np.float32)
    progress = np.array([0.0] + [frame.progress for frame in record.frames], np.float32)
    return Curves(np.array([0, *scored]), progress, perspectives, rewards)


def make_films(
    config: ExperimentConfig,
    folder: RunFolder,
    pool: WorkerPool,
    client: RewardClient,
    reference: TaskReference,
    console: Console,
) -> list[str]:
    """Film the first unseen episode of each policy and draw progress and reward under the pictures; file names."""
    seed = config.evaluation.first_seed
    specs = policies(folder)
    films = pool.map([Job("film", (spec, seed)) for spec in specs.values()], console, "films")
    names = []
    for name, film in zip(specs, films, strict=True):
        curves = film_curves(film, client, reference, config)
        verdict = "success" if film.success else "failure"
        title = f"{TITLES[name]}, unseen seed {seed}: {verdict}. Reward: {config.reward}"
        names.append(write_film(folder.path / f"{name}.mp4", film, curves, title).name)
    return names


TITLES = {"expert": "Scripted expert", "bc": "Cloned policy", "policy": "Trained policy"}


def policies(folder: RunFolder) -> dict[str, PolicySpec]:
    """The policies that are evaluated and filmed."""
    return {
        "expert": PolicySpec("expert"),
        "bc": PolicySpec("network", folder.path / "bc.safetensors"),
        "policy": PolicySpec("network", folder.path / "policy.safetensors"),
    }


def evaluate_policies(
    config: ExperimentConfig, folder: RunFolder, pool: WorkerPool, console: Console
) -> dict[str, Rate]:
    """Success of expert, cloned and trained policy on the same unseen seeds."""
    seeds = [config.evaluation.first_seed + i for i in range(config.evaluation.episodes)]
    specs = policies(folder)
    jobs = [Job("evaluate", (spec, seed)) for spec in specs.values() for seed in seeds]
    wins = [bool(outcome["success"]) for outcome in pool.map(jobs, console, "evaluation episodes")]
    n = len(seeds)
    return {name: wilson(sum(wins[i * n : (i + 1) * n]), n) for i, name in enumerate(specs)}


@contextmanager
def reward_service(
    config: ExperimentConfig, checkpoint: Path, console: Console
) -> Iterator[tuple[str, ServeRewardClient]]:
    """The reward model deployed under a name of this run's own, and a client; deleted at the end."""
    app_name = f"grm-{config.name}-{uuid.uuid4().hex[:8]}"
    try:
        with console.phase("service", f"Reward service: {config.service.replicas} replica(s), application {app_name}"):
            deploy(checkpoint, app_name, config.service)
        yield app_name, ServeRewardClient(app_name)
    finally:
        shutdown(app_name)


def clone(
    config: ExperimentConfig,
    folder: RunFolder,
    sets: DemonstrationSets,
    client: RewardClient,
    reference: TaskReference,
) -> tuple[Path, Path]:
    """Label the policy's demonstrations and clone them.

    Returns:
        the cloned policy's file and the labelled transitions' file.
    """
    demonstrations = [d for d in read_all(sets.policy) if d.success]
    if len(demonstrations) < 2:
        raise BadInput(
            "demonstrations.policy", len(demonstrations), "fewer than 2 succeeded: give env.horizon more time"
        )
    records = folder.path / "records" if config.labels.keep_frames else None
    patient = replace(labeller_config(config, records), deadline_s=120.0)
    room = config.service.max_queued_requests
    columns = label_demonstrations(demonstrations, Labeller(patient, client), reference, room)
    episodes = [replay_episode(d, c) for d, c in zip(demonstrations, columns, strict=True)]
    transitions = folder.path / "policy_demonstrations.npz"
    save_demonstrations(transitions, episodes)
    cloned = train_bc(
        np.concatenate([d.observations[:-1] for d in demonstrations]),
        np.concatenate([d.actions for d in demonstrations]),
        np.array([len(d.actions) for d in demonstrations]),
        replace(config.cloning, hidden=config.learner.hidden),
        config.seed,
    )
    path = folder.path / "bc.safetensors"
    save_policy(path, cloned.state)
    return path, transitions


def result(
    config: ExperimentConfig,
    version: str,
    gate_report: GateReport,
    training: Mapping[str, Any],
    success: Mapping[str, Rate],
    console: Console,
) -> dict[str, Any]:
    """What result.json holds."""
    return {
        "name": config.name,
        "reward": config.reward,
        "seed": config.seed,
        "model_version": version,
        "reward_model_failures": config.demonstrations.reward_model_failures,
        **{f"{name}_success": asdict(rate) for name, rate in success.items()},
        "gate": asdict(gate_report),
        "environment_steps": training["environment_steps"],
        "environment_steps_per_s": training["environment_steps"] / training["seconds"],
        "updates": training["updates"],
        "labels": training["labels"],
        "curve": training["curve"],
        "phase_seconds": console.phase_seconds,
        "wall_s": console.elapsed_s,
    }
