"""The training phase: builds the algorithm around the labelling callback and trains the policy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium

from actors.callbacks import LabellingCallback, finish_records
from actors.maniskill import EnvConfig
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.monitor import ShadowMonitor
from dopamine_rl.files import fingerprint
from dopamine_rl.policy import load_eyes
from dopamine_rl.provenance import provenance
from dopamine_rl.success import SuccessRule
from dopamine_rl.targets import ProgressMap
from dopamine_rl.types import EpisodeContext, TaskReference, Views
from experiments.job.gate import claim_fit
from experiments.job.labels import labeller_config
from experiments.job.prepared import Prepared, asks_model, dense_gamma
from experiments.job.run import Run
from experiments.runtime.tracking import Tracker
from experiments.settings import ExperimentConfig
from learner.algorithms.common import TrainingSetup
from learner.algorithms.table import ALGORITHMS, Data, make_config
from learner.config import unused
from learner.training import CHECKPOINT, Progress, train
from reward_service.client import ServeRewardClient


def training_env_config(config: ExperimentConfig, against_truth: bool = False) -> EnvConfig:
    """The actors' environment. It renders views and computes true progress only if the reward needs them.

    Raises:
        BadInput: nobody knows the true progress.
    """
    if against_truth and config.env.make:
        raise BadInput("env.make", config.env.make, "choose a simulated task: here nobody knows the truth")
    views = config.env.views if asks_model(config) else ()
    return replace(config.env, views=views, oracle=against_truth or config.reward == "oracle")


def make_training_env(env_config: Mapping[str, Any]) -> Any:
    """RLlib's environment creator."""
    from actors.against_truth import AgainstTruth
    from actors.claims import EndsOnClaim
    from actors.dense_reward import DenseReward
    from actors.envs import make_env
    from actors.eyes import EncodedObservation

    env: gymnasium.Env[Any, Any] = make_env(env_config["env"])
    if env_config.get("dense_gamma") is not None:
        env = DenseReward(env, env_config["dense_gamma"])
    if env_config.get("claims"):
        env = EndsOnClaim(env)
    if (eyes := load_eyes(env_config["cloned"]) if env_config["env"].sees_pictures else None) is not None:
        env = EncodedObservation(env, eyes, env_config["env"].views)
    return AgainstTruth(env) if env_config["against_truth"] else env


def make_task(
    config: ExperimentConfig,
    app_name: str,
    reference: TaskReference | None,
    cloned: Path,
    records: Path,
    sitting: int = 1,
    target: ProgressMap | None = None,
    against_truth: bool = False,
    rule: SuccessRule | None = None,
) -> TrainingSetup:
    """The actors' environment, and the callback that labels their transitions.

    Args:
        cloned: the cloned policy's file, whose eyes the actors use.
        app_name, reference, sitting, target, against_truth, rule: as for `build_algorithm`.
    """
    records_dir = records if config.labels.keep_frames and asks_model(config) else None
    labelling = labeller_config(config, records_dir, target)
    make_client: Callable[[], Any] | None = (
        functools.partial(ServeRewardClient, app_name) if asks_model(config) else None
    )
    context_of = reference.context if reference is not None else _no_context
    hold_back = not ALGORITHMS[config.learner.algorithm].waits_for_labels
    return TrainingSetup(
        env=make_training_env,
        env_config={
            "env": training_env_config(config, against_truth),
            "cloned": cloned,
            "against_truth": against_truth,
            "dense_gamma": dense_gamma(config),
            "claims": rule is not None,
        },
        callbacks=functools.partial(
            LabellingCallback, labelling, make_client, context_of, hold_back, rule, config.name
        ),
        gamma=config.gamma,
        seed=config.seed + 1_000_000 * (sitting - 1),
    )


def _no_context(episode_id: str, views: Views) -> EpisodeContext:
    raise BadInput("reference", None, f"give one: a reward model is to label {episode_id}")


def build_algorithm(
    config: ExperimentConfig,
    app_name: str,
    reference: TaskReference | None,
    demonstrations: Path | None,
    cloned: Path,
    records: Path,
    sitting: int = 1,
    target: ProgressMap | None = None,
    against_truth: bool = False,
    rule: SuccessRule | None = None,
) -> Any:
    """Build the RLlib algorithm of the config; this starts its actors.

    Args:
        app_name: name of the reward service, if the reward uses one.
        reference: the task reference; None without a reward model.
        sitting: how often this training was started; each time the environments use other seeds.
        target: map from geometric progress to the oracle's target (see `Prepared`).
        against_truth: charge for true progress instead of paying the task's reward (actors.against_truth).
        rule: claims success from progress, which then ends episodes; None leaves it to the simulator.
    """
    task = make_task(config, app_name, reference, cloned, records, sitting, target, against_truth, rule)
    demos = None if demonstrations is None else str(demonstrations)
    return make_config(task, config.learner, Data(config.reward, demos, str(cloned), config.shaping)).build_algo()


def train_policy(
    run: Run,
    prepared: Prepared,
    transitions: Path | None,
    on_point: Callable[[dict[str, Any]], object] = lambda point: None,
    against_truth: bool = False,
) -> dict[str, Any]:
    """The training phase: from the cloned policy to `policy.safetensors`; returns the result of `train`.

    Args:
        transitions: file of the labelled demonstrations; None trains without any.
        on_point: also called with every point of the learning curve.
        against_truth: as for `build_algorithm`.
    """
    config, model = run.config, prepared.model if asks_model(run.config) else None
    service = (model.version, config.fusion, config.service) if model else None
    depends_on: tuple[object, ...] = (
        config.env,
        config.reward,
        config.seed,
        config.gamma,
        config.learner,
        config.training,
        config.labels,
        prepared.cloned.version,
        config.demonstrations,
        config.shaping,
        prepared.target,
        service,
    )
    if against_truth:
        depends_on += ("against_truth",)
    rule = claim_fit(run, prepared).rule if config.success == "progress" and not against_truth else None
    if rule is not None:
        depends_on += (rule,)

    def work() -> dict[str, Any]:
        key = fingerprint(depends_on)
        return _train(run, replace(prepared, model=model), transitions, key, on_point, against_truth, rule)

    trained: dict[str, Any] = run.phase("train", f"Policy training, reward {config.reward}", depends_on, work)
    return trained


def _train(
    run: Run,
    prepared: Prepared,
    transitions: Path | None,
    key: str,
    on_point: Callable[[dict[str, Any]], object],
    against_truth: bool,
    rule: SuccessRule | None,
) -> dict[str, Any]:
    """Train, resuming from the checkpoint with this key if there is one."""
    config, checkpoint, model = run.config, run.path / CHECKPOINT, prepared.model
    progress = Progress.load(checkpoint, key)
    app_name = run.service(model.path)[0] if model else ""
    sitting = progress.sittings if progress else 1
    reference, records = model.reference if model else None, run.path / "records"
    algorithm = build_algorithm(
        config,
        app_name,
        reference,
        transitions,
        prepared.cloned.path,
        records,
        sitting,
        prepared.target,
        against_truth,
        rule,
    )
    if memory := algorithm.memory():
        run.console.say(f"  {memory}")
    if idle := unused(config.learner):
        shown = ", ".join(f"learner.{name} = {value}" for name, value in idle.items())
        run.console.say(f"  set, but not used by {config.learner.algorithm}: {shown}")
    tracker = Tracker(run.folder, config)

    def log(point: dict[str, Any]) -> None:
        tracker.log(point["environment_steps"], point)
        on_point(point)

    try:
        if progress is not None:
            run.console.say(f"  resuming at {progress.environment_steps} environment steps")
            algorithm.restore_from_path(str(checkpoint / "algorithm"))
        return train(
            algorithm,
            config.training,
            run.path / "policy.safetensors",
            run.console.progress,
            progress,
            checkpoint,
            key,
            about=provenance(preset=run.preset, seed=config.seed),
            eyes=load_eyes(prepared.cloned.path) if config.env.sees_pictures else None,
            monitor=make_monitor(config),
            on_point=log,
            finish_records=lambda: finish_records(algorithm),
        )
    finally:
        tracker.close()
        algorithm.stop()


def make_monitor(config: ExperimentConfig) -> ShadowMonitor | None:
    """Monitors the reward model during training; None if the reward does not use it."""
    return ShadowMonitor(success_threshold=config.gate.success_threshold) if asks_model(config) else None
