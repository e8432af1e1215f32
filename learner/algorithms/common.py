"""What all algorithms share: configuration of environment, env runners, learner and fault tolerance; sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS
from ray.tune.registry import register_env

from dopamine_rl.encoders.eyes import Eyes
from learner.algorithms.acting import Acting
from learner.algorithms.env_runner import ActingEnvRunner
from learner.config import LearnerConfig

REPORTED = ("episode_return_mean", "episode_len_mean", "task_success_rate", "task_return_mean")
"""Keys of `env_runners` in every report (NaN before the first episode ends): Tune fails if one is missing."""

EnvCreator = Callable[[Mapping[str, Any]], gymnasium.Env]


@dataclass(frozen=True)
class TrainingSetup:
    """Environment, callbacks, discount and seed of a training.

    Args:
        env: name of a registered environment, or a function that makes one from an env_config.
        env_config: passed to the environment.
        callbacks: an RLlibCallback class, or a function without arguments that makes one; None for none.
        gamma: discount of learner and shaping.
        seed: of networks, sampling and environments.
    """

    env: str | EnvCreator
    env_config: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], Any] | None = None
    gamma: float = 0.99
    seed: int = 0


class ActingAlgorithm:
    """A mixin for RLlib algorithms: samples through `Acting`, and completes every report with the keys of REPORTED."""

    config: Any
    env_runner_group: Any
    learner_group: Any
    acting: Acting

    def setup(self, config: Any) -> None:
        """Set up RLlib's algorithm and take control of its env runners."""
        super().setup(config)  # type: ignore[misc]
        settings: LearnerConfig = self.config.learner
        self.acting = Acting(self.env_runner_group, self.learner_group, settings.sample_timeout_s, settings.patience_s)

    def cleanup(self) -> None:
        """End the processes. RLlib alone would wait for ever for a hung env runner."""
        if hasattr(self, "acting"):
            self.acting.stop()
        super().cleanup()  # type: ignore[misc]

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Do nothing: RLlib's version blocks all env runners while it restores lost ones; `Acting` restores them."""
        return []

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state from `get_state`; samples in flight are discarded."""
        super().set_state(state)  # type: ignore[misc]
        self.acting.forget()

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Restore a checkpoint; samples in flight are discarded."""
        super().restore_from_path(path, *args, **kwargs)  # type: ignore[misc]
        self.acting.forget()

    def memory(self) -> str:
        """What the transitions in memory take, in words; "" where few are kept."""
        return ""

    def sees_with(self, eyes: Eyes | None) -> Eyes | None:
        """What the policy sees with by now.

        Args:
            eyes: what the cloned policy saw with; None without pictures.
        """
        return eyes

    def step(self) -> dict[str, Any]:
        """Run one iteration and return its report."""
        results = super().step()  # type: ignore[misc]
        sampling = results.setdefault(ENV_RUNNER_RESULTS, {})
        for key in REPORTED:
            sampling.setdefault(key, math.nan)
        late = {str(runner): round(seconds, 1) for runner, seconds in self.acting.late().items()}
        steps = {str(runner): self.acting.steps.pop(runner) for runner in sorted(self.acting.steps)}
        staleness = {str(runner): updates for runner, updates in self.acting.staleness.items()}
        results["acting"] = {
            "late_s": late,
            "replaced": self.acting.replaced,
            "steps": steps,
            "staleness_updates": staleness,
        }
        return results


def configure(config: Any, setup: TrainingSetup, learner: LearnerConfig) -> None:
    """Set the options shared by all algorithms on an AlgorithmConfig, in place."""
    config.environment(_registered(setup.env), env_config=dict(setup.env_config), disable_env_checking=True)
    config.training(gamma=setup.gamma)
    config.debugging(seed=setup.seed, log_level="ERROR")
    if setup.callbacks is not None:
        config.callbacks(setup.callbacks)
    _configure_processes(config, learner)


def _registered(env: str | EnvCreator) -> str:
    if isinstance(env, str):
        return env
    name = f"dopamine-{getattr(env, '__name__', type(env).__name__)}"
    register_env(name, env)
    return name


def _configure_processes(config: Any, learner: LearnerConfig) -> None:
    resource = {learner.actor_resource: 1} if learner.actor_resource else {}
    config.env_runners(
        env_runner_cls=ActingEnvRunner,
        custom_resources_per_env_runner=resource,
        num_env_runners=learner.num_env_runners,
        num_envs_per_env_runner=learner.num_envs_per_env_runner,
        num_cpus_per_env_runner=learner.num_cpus_per_env_runner,
        rollout_fragment_length=learner.rollout_fragment_length,
        sample_timeout_s=learner.sample_timeout_s,
        # Our connectors have no state; without these RLlib would wait for every env runner's state after each report.
        merge_env_runner_states=False,
        broadcast_env_runner_states=False,
    )
    config.learners(
        num_learners=0,
        num_cpus_per_learner=learner.num_cpus_per_learner,
        num_gpus_per_learner=learner.num_gpus_per_learner,
    )
    config.resources(num_cpus_for_main_process=learner.num_cpus_for_driver)
    config.reporting(min_sample_timesteps_per_iteration=learner.steps_per_iteration, min_time_s_per_iteration=0)
    config.fault_tolerance(
        restart_failed_env_runners=True,
        delay_between_env_runner_restarts_s=learner.restart_delay_s,
        restart_failed_sub_environments=True,
    )
