"""Builds the policy's algorithm around the labelling callback and runs it, adding up what the actors report.

An interrupted training goes on from its last checkpoint, which holds the networks, the replay and the counts.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.callbacks import LabellingCallback
from actors.maniskill import EnvConfig
from dopamine_rl.evaluation.monitor import ShadowMonitor
from dopamine_rl.files import fingerprint, write_folder_atomically
from dopamine_rl.policy import save_policy
from dopamine_rl.types import TaskReference
from experiments.job.phases import Prepared, asks_model, labeller_config
from experiments.job.run import Run
from experiments.runtime.console import Console
from experiments.runtime.tracking import Tracker
from experiments.settings import ExperimentConfig
from learner.algorithms.common import Task
from reward_service.client import ServeRewardClient

OUTCOMES = ("asked", "answered", "invalid", "late", "rejected", "retried", "errors")
CHECKPOINT, PROGRESS = "checkpoint", "progress.json"
RECENT = 50
"""Episodes behind the success rate that is shown while training."""


class LabelLedger:
    """Adds up what became of every frame that the actors asked for."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self.latencies_ms: list[float] = []

    def add(self, labels: Mapping[str, Any]) -> None:
        """Take one iteration's `env_runners/labels`."""
        for name in OUTCOMES:
            self.counts[name] += int(np.nan_to_num(labels.get(name, 0)))
        self.latencies_ms += _series(labels.get("latencies_ms"))

    def summary(self) -> dict[str, float | int | None]:
        """Counts and the service's latency; None where nothing was asked."""
        quantiles = np.percentile(self.latencies_ms, [50, 99]) if self.latencies_ms else (None, None)
        p50, p99 = (None if q is None else round(float(q), 2) for q in quantiles)
        outcomes = sum(self.counts[name] for name in ("answered", "invalid", "late", "rejected"))
        return {**self.counts, "closed": self.counts["asked"] == outcomes, "p50_ms": p50, "p99_ms": p99}


@dataclass
class Progress:
    """How far a training has come; kept with its checkpoint.

    Args:
        environment_steps: over all actors.
        seconds: of training, all sittings together.
        sittings: how often it was started.
        curve: one point an iteration.
        episodes: success of every finished episode, in order.
        ledger: the labels' accounts.
        shadow: what the shadow monitor remembers.
    """

    environment_steps: int = 0
    seconds: float = 0.0
    sittings: int = 1
    curve: list[dict[str, Any]] = field(default_factory=list)
    episodes: list[bool] = field(default_factory=list)
    ledger: LabelLedger = field(default_factory=LabelLedger)
    shadow: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path, key: str) -> None:
        """Write to a JSON file that also names what the training depends on."""
        state = {
            name: getattr(self, name)
            for name in ("environment_steps", "seconds", "sittings", "curve", "episodes", "shadow")
        }
        labels = {"counts": self.ledger.counts, "latencies_ms": self.ledger.latencies_ms}
        path.write_text(json.dumps({"key": key, **state, "labels": labels}), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, key: str) -> Progress | None:
        """Read what `save` wrote; None where there is no checkpoint of the same training."""
        try:
            stored = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if stored.pop("key") != key:
            return None
        labels, ledger = stored.pop("labels"), LabelLedger()
        ledger.counts, ledger.latencies_ms = labels["counts"], labels["latencies_ms"]
        return cls(**{**stored, "sittings": stored["sittings"] + 1}, ledger=ledger)


def training_env_config(config: ExperimentConfig) -> EnvConfig:
    """The environment of the actors: nothing is rendered, or told of the truth, that the reward mode does not ask for."""
    return replace(config.env, views=config.env.views if asks_model(config) else (), oracle=config.reward == "oracle")


def make_training_env(env_config: Mapping[str, Any]) -> Any:
    """RLlib's environment creator."""
    from actors.envs import make_env

    return make_env(env_config["env"])


def make_task(
    config: ExperimentConfig, app_name: str, reference: TaskReference, records: Path, sitting: int = 1
) -> Task:
    """What the actors do: the environment and the callback that labels what they act.

    Args:
        app_name, sitting: as for `build_algorithm`.
    """
    labelling = labeller_config(config, records if config.labels.keep_frames and asks_model(config) else None)
    make_client: Callable[[], Any] | None = (
        functools.partial(ServeRewardClient, app_name) if asks_model(config) else None
    )
    hold_back = config.learner.algorithm != "ppo"  # PPO learns from what its present policy did: its actors wait
    return Task(
        env=make_training_env,
        env_config={"env": training_env_config(config)},
        callbacks=functools.partial(LabellingCallback, labelling, make_client, reference.context, hold_back),
        gamma=config.gamma,
        seed=config.seed + 1_000_000 * (sitting - 1),
    )


def build_algorithm(
    config: ExperimentConfig,
    app_name: str,
    reference: TaskReference,
    demonstrations: Path,
    cloned: Path,
    records: Path,
    sitting: int = 1,
) -> Any:
    """The RLlib algorithm of the config, with its actors started.

    Args:
        app_name: the reward service's, where the reward asks it.
        sitting: how often this training was started; the environments of a later one begin with other seeds.
    """
    task = make_task(config, app_name, reference, records, sitting)
    if config.learner.algorithm == "ppo":
        from learner.algorithms.ppo import make_ppo_config

        return make_ppo_config(task, config.learner, initial_policy=str(cloned)).build_algo()
    from learner.algorithms.rlpd import make_rlpd_config

    return make_rlpd_config(task, config.learner, config.reward, str(demonstrations), str(cloned)).build_algo()


def train_policy(run: Run, prepared: Prepared, transitions: Path) -> dict[str, Any]:
    """The training phase: from the cloned policy to `policy.safetensors`.

    Returns:
        environment_steps, seconds, updates, sittings, labels (LabelLedger.summary), shadow (ShadowMonitor.summary) and the
        learning curve.
    """
    config, model = run.config, prepared.model
    service = (model.version, config.fusion, config.service) if asks_model(config) else None
    depends_on = (
        config.env, config.reward, config.seed, config.gamma, config.learner, config.training, config.labels,
        prepared.cloned.version, config.demonstrations, service,
    )  # fmt: skip

    def work() -> dict[str, Any]:
        key, checkpoint = fingerprint(depends_on), run.path / CHECKPOINT
        progress = Progress.load(checkpoint, key)
        app_name = run.service(model.path)[0] if asks_model(config) else ""
        sitting = progress.sittings if progress else 1
        records = run.path / "records"
        algorithm = build_algorithm(
            config, app_name, model.reference, transitions, prepared.cloned.path, records, sitting
        )
        tracker = Tracker(run.folder, config)
        try:
            if progress is not None:
                run.console.say(f"  going on from {progress.environment_steps} environment steps")
                algorithm.restore_from_path(str(checkpoint / "algorithm"))
            return train(
                algorithm, config, run.path / "policy.safetensors", run.console, progress, checkpoint, key, tracker
            )
        finally:
            tracker.close()
            algorithm.stop()

    trained: dict[str, Any] = run.phase("train", f"Policy training, reward {config.reward}", depends_on, work)
    return trained


def train(
    algorithm: Any,
    config: ExperimentConfig,
    out: Path,
    console: Console,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    key: str = "",
    tracker: Tracker | None = None,
    on_point: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train for the configured environment steps and save the policy; see `train_policy` for what it returns.

    Args:
        progress: how far an earlier sitting came; None begins.
        checkpoint: folder to go on from after an interruption; None keeps none.
        key: what the training depends on; a checkpoint of another training is not gone on from.
        tracker: where to log.
        on_point: is given every point of the learning curve.
    """
    progress = progress or Progress()
    monitor = ShadowMonitor(success_threshold=config.gate.success_threshold)
    if progress.shadow:
        monitor.load_state_dict(progress.shadow)
    began, saved = time.monotonic() - progress.seconds, time.monotonic()
    while progress.environment_steps < config.training.environment_steps:
        result = algorithm.train()
        progress.seconds = time.monotonic() - began
        point = _take(result, progress, monitor, config)
        console.say("  " + _line(point, progress))
        warning = monitor.warning()
        if warning:
            console.say(f"  WARNING: {warning}")
        if tracker is not None:
            tracker.log(progress.environment_steps, point)
        if on_point is not None:
            on_point(point)
        if checkpoint is not None and time.monotonic() - saved >= config.training.checkpoint_s:
            progress.shadow = monitor.state_dict()
            save_checkpoint(checkpoint, algorithm, progress, key)
            saved = time.monotonic()
    save_policy(out, algorithm.policy_state())
    updates = progress.curve[-1]["updates"] if progress.curve else None
    return {
        "environment_steps": progress.environment_steps,
        "seconds": progress.seconds,
        "sittings": progress.sittings,
        "updates": None if updates is None else int(updates),
        "labels": progress.ledger.summary(),
        "shadow": monitor.summary(),
        "curve": progress.curve,
    }


def save_checkpoint(folder: Path, algorithm: Any, progress: Progress, key: str) -> None:
    """Write everything a training needs to go on; the old checkpoint stays until the new one is whole."""

    def fill(partial: Path) -> None:
        algorithm.save_to_path(str(partial / "algorithm"))
        progress.save(partial / PROGRESS, key)

    write_folder_atomically(folder, fill)


def _take(
    result: Mapping[str, Any], progress: Progress, monitor: ShadowMonitor, config: ExperimentConfig
) -> dict[str, Any]:
    """Add one iteration's report to the progress; returns its point of the learning curve."""
    acted = result.get("env_runners", {})
    learned = result.get("learners", {}).get("default_policy", {})
    lifetime = result.get("num_env_steps_sampled_lifetime") or acted.get("num_env_steps_sampled_lifetime") or 0
    labels = acted.get("labels", {})
    progress.environment_steps = int(lifetime)
    progress.ledger.add(labels)
    finished = {name: _series(acted.get("finished", {}).get(name)) for name in ("success", "potential")}
    progress.episodes += [bool(success) for success in finished["success"]]
    if config.reward != "sparse":
        for potential, success in zip(finished["potential"], finished["success"], strict=True):
            monitor.add(potential, bool(success))
    recent = progress.episodes[-RECENT:]
    latencies = _series(labels.get("latencies_ms"))
    values = {
        "success": np.mean(recent) if recent else None,
        "task_return_mean": acted.get("task_return_mean"),
        "return_mean": acted.get("shaped_return_mean"),
        "episode_len_mean": acted.get("episode_len_mean"),
        "final_potential_mean": acted.get("final_potential_mean"),
        "critic_loss": learned.get("critic_loss"),
        "q_mean": learned.get("q_mean"),
        "entropy": learned.get("entropy"),
        "alpha": learned.get("alpha"),
        "updates": learned.get("updates"),
        "label_p50_ms": np.median(latencies) if latencies else None,
    }
    finite = {k: float(v) if v is not None and np.isfinite(v) else None for k, v in values.items()}
    last = progress.curve[-1] if progress.curve else {"environment_steps": 0, "seconds": 0.0, "updates": 0.0}
    seconds = max(progress.seconds - last["seconds"], 1e-9)
    point = {
        "environment_steps": progress.environment_steps,
        "seconds": round(progress.seconds, 2),
        "episodes": len(progress.episodes),
        "successes": sum(progress.episodes),
        **finite,
        "environment_steps_per_s": (progress.environment_steps - last["environment_steps"]) / seconds,
        "updates_per_s": ((finite["updates"] or 0.0) - (last["updates"] or 0.0)) / seconds,
        **{name: progress.ledger.counts[name] for name in ("asked", "answered", "invalid", "late", "rejected")},
    }
    progress.curve.append(point)
    return point


def _series(values: Any) -> list[float]:
    """The items of RLlib's item series, which is a lone NaN where nothing was logged."""
    return [float(value) for value in values] if isinstance(values, (list, tuple, np.ndarray)) else []


def _line(point: Mapping[str, Any], progress: Progress) -> str:
    def shown(name: str, form: str) -> str:
        return "–" if point[name] is None else format(point[name], form)

    shaping = None
    if point["return_mean"] is not None and point["task_return_mean"] is not None:
        shaping = point["return_mean"] - point["task_return_mean"]
    return (
        f"{point['environment_steps']:>6} environment steps | success {shown('success', '.2f')} of the last "
        f"{min(RECENT, point['episodes'])} | return: task {shown('task_return_mean', '.2f')}, shaping "
        f"{'–' if shaping is None else format(shaping, '+.2f')} | final Φ {shown('final_potential_mean', '.2f')} | "
        f"{point['environment_steps_per_s']:.0f} environment steps/s, {point['updates_per_s']:.0f} updates/s | labels "
        f"{point['answered']}/{point['asked']}, {shown('label_p50_ms', '.0f')} ms, invalid {point['invalid']}, late "
        f"{point['late']}, rejected {point['rejected']}"
    )
