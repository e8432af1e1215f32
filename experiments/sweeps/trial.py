"""One trial of a sweep, in its own process: label the demonstrations, train, evaluate, report to Tune."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dopamine_rl.process_log import identify
from experiments.job.capacity import simulators
from experiments.runtime.console import Console
from experiments.settings import ExperimentConfig
from experiments.sweeps.report import LOST
from experiments.sweeps.space import at_point

if TYPE_CHECKING:
    from dopamine_rl.types import TaskReference
    from experiments.job.prepared import Prepared


@dataclass(frozen=True)
class Shared:
    """Inputs shared by all trials of a search.

    Args:
        config: the config that a point modifies.
        prepared: results of the preparation; every trial reads its paths, on any node.
        application: name of the reward service.
        folder: parent of the trials' folders.
    """

    config: ExperimentConfig
    prepared: Prepared
    application: str
    folder: Path

    @property
    def reference(self) -> TaskReference:
        """The reward model's task reference."""
        assert self.prepared.model is not None
        return self.prepared.model.reference


def trial_name(number: int) -> str:
    """Folder name of a trial."""
    return f"trial_{number:03d}"


def train_point(trial_config: dict[str, Any], shared: Shared) -> None:
    """Tune's trainable: label the demonstrations, train, evaluate, and report progress."""
    from ray import tune

    from actors.callbacks import finish_records
    from dopamine_rl.provenance import provenance
    from experiments.job.training import build_algorithm, make_monitor
    from experiments.runtime.tracking import record_point
    from learner.training import train

    trial, prepared = trial_config["trial"], shared.prepared
    config, folder = at_point(shared.config, trial["point"]), shared.folder / trial_name(trial["number"])
    config = replace(config, name=f"{config.name}-{folder.name}")
    identify(run=config.name, role="trial")
    folder.mkdir(parents=True, exist_ok=True)
    transitions, policy = folder / "policy_demonstrations.npz", folder / "policy.safetensors"
    labelled = label(config, shared, transitions)
    curve: list[dict[str, Any]] = []

    def on_point(latest: dict[str, Any]) -> None:
        curve.append(latest)
        record_point(config.name, latest)
        tune.report(figures(curve, labelled))

    algorithm = build_algorithm(
        config, shared.application, shared.reference, transitions, prepared.cloned.path, folder / "records"
    )
    try:
        train(
            algorithm,
            config.training,
            policy,
            Console().progress,
            about=provenance(seed=config.seed),
            monitor=make_monitor(config),
            on_point=on_point,
            finish_records=lambda: finish_records(algorithm),
        )
    finally:
        algorithm.stop()
    tune.report({**figures(curve, labelled), "success_final": held_out_success(config, policy)})


def label(config: ExperimentConfig, shared: Shared, out: Path) -> int:
    """Label the policy's demonstrations as this trial labels its rollouts; returns the number of scored frames."""
    from actors.labeller import Labeller
    from dopamine_rl.episodes.stride import at_stride
    from experiments.job import plans as episodes
    from experiments.job.labels import label_demonstrations, labeller_config
    from learner.demonstrations import replay_episode, save_demonstrations
    from reward_service.client import ServeRewardClient

    recorded = episodes.read_all(shared.prepared.policy_episodes)
    demonstrations = [at_stride(d, config.env.stride) for d in recorded if d.success]
    patient = replace(labeller_config(config), deadline_s=120.0)
    labeller = Labeller(patient, ServeRewardClient(shared.application))
    room = config.service.max_queued_requests
    columns = label_demonstrations(demonstrations, labeller, shared.reference, room)
    save_demonstrations(out, [replay_episode(d, c) for d, c in zip(demonstrations, columns, strict=True)])
    return sum(len(d.frames) - 1 for d in demonstrations)


def figures(curve: Sequence[dict[str, Any]], labelled: int) -> dict[str, Any]:
    """The metrics of a trial at the latest point of its curve.

    Tune fails if a metric is missing, so success is 0 until the first episode has ended.
    """
    from experiments.job.report import recent_success

    latest, rate = curve[-1], recent_success(curve, len(curve) - 1)
    return {
        "success": rate.mean if rate else 0.0,
        "success_episodes": rate.n if rate else 0,
        "demonstration_frames": labelled,
        **{name: latest[name] for name in ("environment_steps", "updates", "asked", "answered", *LOST)},
    }


def held_out_success(config: ExperimentConfig, policy: Path) -> float:
    """Success rate on the development seeds; simulators use the resources of the env runners."""
    from actors.workers import Job, PolicySpec, WorkerPool
    from experiments.job.plans import trial_seeds

    jobs = [Job("evaluate", (PolicySpec("network", policy), seed)) for seed in trial_seeds(config)]
    env, learner = replace(config.env, views=(), oracle=False), config.learner
    pool = WorkerPool(env, simulators(learner), learner.num_cpus_per_env_runner)
    try:
        successes = [bool(outcome["success"]) for outcome in pool.map(jobs, Console().progress, "episodes")]
    finally:
        pool.close()
    return sum(successes) / len(successes)
