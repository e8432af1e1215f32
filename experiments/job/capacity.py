"""The resources of trainings that run side by side under Ray Tune. No ray import."""

from __future__ import annotations

from collections.abc import Mapping

from dopamine_rl.errors import BadInput
from experiments.settings import ExperimentConfig
from learner.config import LearnerConfig


def bundles(learner: LearnerConfig) -> list[dict[str, float]]:
    """Resource bundles of a trial: one for its own process, as RLlib reserves for a driver, one per env runner.

    In the evaluation a simulator uses the bundle of each env runner.
    """
    driver_cpus = max(learner.num_cpus_per_learner, learner.num_cpus_for_driver)
    actor = {"CPU": learner.num_cpus_per_env_runner}
    if learner.actor_resource:
        actor[learner.actor_resource] = 1.0
    return [{"CPU": driver_cpus, "GPU": learner.num_gpus_per_learner}, *([actor] * simulators(learner))]


def simulators(learner: LearnerConfig) -> int:
    """Number of a trial's simulator processes."""
    return max(1, learner.num_env_runners)


def concurrency(config: ExperimentConfig, cluster: Mapping[str, float], wanted: int | None, services: int = 1) -> int:
    """Number of concurrent trials.

    Args:
        cluster: the cluster's total resources.
        wanted: upper limit; None for as many as fit.
        services: number of reward services that run beside the trials.
    Raises:
        BadInput: not even one fits. Tune would wait without a message.
    """
    needed: dict[str, float] = {}
    for bundle in bundles(config.learner):
        for name, amount in bundle.items():
            needed[name] = needed.get(name, 0.0) + amount
    taken = {"CPU": config.service.num_cpus, "GPU": config.service.num_gpus}
    replicas = services * config.service.replicas
    free = {name: cluster.get(name, 0.0) - replicas * taken.get(name, 0.0) for name in needed}
    room = min(int(free[name] / amount + 1e-6) for name, amount in needed.items() if amount > 0)
    if room < 1:
        raise BadInput(
            "cluster resources", free, f"a trial needs {needed} besides the service: add resources or ask for less"
        )
    return min(room, wanted or room)
