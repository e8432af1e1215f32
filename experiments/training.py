"""Builds the policy's algorithm around the labelling callback and runs it, adding up what the actors report."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.callbacks import LabellingCallback
from actors.maniskill import EnvConfig
from dopamine_rl.types import TaskReference
from experiments.console import Console
from experiments.phases import labeller_config
from experiments.settings import ExperimentConfig
from learner.algorithms.common import Task
from learner.policy import save_policy
from reward_service.client import ServeRewardClient

OUTCOMES = ("asked", "answered", "invalid", "late", "rejected", "retried", "errors")


class LabelLedger:
    """Adds up what became of every frame that the actors asked for."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self.latencies_ms: list[float] = []

    def add(self, labels: Mapping[str, Any]) -> None:
        """Take one iteration's `env_runners/labels`."""
        for name in OUTCOMES:
            self.counts[name] += int(np.nan_to_num(labels.get(name, 0)))
        self.latencies_ms += [float(value) for value in labels.get("latencies_ms", ())]

    def summary(self) -> dict[str, float | int | None]:
        """Counts and the service's latency; None where nothing was asked."""
        quantiles = np.percentile(self.latencies_ms, [50, 99]) if self.latencies_ms else (None, None)
        p50, p99 = (None if q is None else round(float(q), 2) for q in quantiles)
        outcomes = sum(self.counts[name] for name in ("answered", "invalid", "late", "rejected"))
        return {**self.counts, "closed": self.counts["asked"] == outcomes, "p50_ms": p50, "p99_ms": p99}


def training_env_config(config: ExperimentConfig) -> EnvConfig:
    """The environment of the actors: nothing is rendered, or told of the truth, that the reward mode does not ask for."""
    asks_model = config.reward in ("grm", "naive")
    return replace(config.env, views=config.env.views if asks_model else (), oracle=config.reward == "oracle")


def make_training_env(env_config: Mapping[str, Any]) -> Any:
    """RLlib's environment creator."""
    from actors.maniskill import make_env

    return make_env(env_config["env"])


def build_algorithm(
    config: ExperimentConfig, app_name: str, reference: TaskReference, demonstrations: Path, cloned: Path, records: Path
) -> Any:
    """The RLlib algorithm of the config, with its actors started."""
    asks_model = config.reward in ("grm", "naive")
    labelling = labeller_config(config, records if config.labels.keep_frames and asks_model else None)
    make_client: Callable[[], Any] | None = functools.partial(ServeRewardClient, app_name) if asks_model else None
    task = Task(
        env=make_training_env,
        env_config={"env": training_env_config(config)},
        callbacks=functools.partial(LabellingCallback, labelling, make_client, reference.context),
        gamma=config.gamma,
        seed=config.seed,
    )
    if config.learner.algorithm == "ppo":
        from learner.algorithms.ppo import make_ppo_config

        return make_ppo_config(task, config.learner, initial_policy=str(cloned)).build_algo()
    from learner.algorithms.rlpd import make_rlpd_config

    return make_rlpd_config(task, config.learner, config.reward, str(demonstrations), str(cloned)).build_algo()


def train(algorithm: Any, config: ExperimentConfig, out: Path, console: Console) -> dict[str, Any]:
    """Train for the configured environment steps and save the policy.

    Returns:
        environment_steps, seconds, updates, labels (LabelLedger.summary) and the learning curve.
    """
    ledger, curve = LabelLedger(), []
    began, steps = time.monotonic(), 0
    while steps < config.training.environment_steps:
        result = algorithm.train()
        acted = result.get("env_runners", {})
        steps = int(result.get("num_env_steps_sampled_lifetime") or acted.get("num_env_steps_sampled_lifetime") or 0)
        ledger.add(acted.get("labels", {}))
        point = _point(result, steps, time.monotonic() - began)
        curve.append(point)
        console.say("  " + _line(point, ledger))
    save_policy(out, algorithm.policy_state())
    seconds = time.monotonic() - began
    return {
        "environment_steps": steps,
        "seconds": seconds,
        "updates": None if curve[-1]["updates"] is None else int(curve[-1]["updates"]),
        "labels": ledger.summary(),
        "curve": curve,
    }


def _point(result: Mapping[str, Any], steps: int, seconds: float) -> dict[str, Any]:
    acted = result.get("env_runners", {})
    learned = result.get("learners", {}).get("default_policy", {})
    values = {
        "task_success_rate": acted.get("task_success_rate"),
        "task_return_mean": acted.get("task_return_mean"),
        "return_mean": acted.get("episode_return_mean"),
        "final_potential_mean": acted.get("final_potential_mean"),
        "critic_loss": learned.get("critic_loss"),
        "updates": learned.get("updates"),
    }
    finite = {k: float(v) if v is not None and np.isfinite(v) else None for k, v in values.items()}
    return {"environment_steps": steps, "seconds": round(seconds, 1), **finite}


def _line(point: Mapping[str, Any], ledger: LabelLedger) -> str:
    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    counts = ledger.counts
    return (
        f"{point['environment_steps']} environment steps | success {shown(point['task_success_rate'], '.2f')} | "
        f"task return {shown(point['task_return_mean'], '.2f')} | return {shown(point['return_mean'], '.2f')} | "
        f"final Φ {shown(point['final_potential_mean'], '.2f')} | updates {shown(point['updates'], '.0f')} | "
        f"{point['environment_steps'] / max(point['seconds'], 1e-9):.1f} steps/s | "
        f"labels {counts['answered']}/{counts['asked']}, invalid {counts['invalid']}, late {counts['late']}, "
        f"rejected {counts['rejected']}"
    )
