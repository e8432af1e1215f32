"""One unit of a study: what its seed's arms share is prepared by the driver, the training runs in its own process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dopamine_rl.files import fingerprint
from dopamine_rl.types import RewardMode
from experiments.comparison.study import CurveConfig, Unit
from experiments.job.capacity import simulators
from experiments.runtime.console import Console
from experiments.runtime.storage import RunFolder
from experiments.settings import ExperimentConfig

if TYPE_CHECKING:
    from experiments.job.prepared import Prepared
    from experiments.job.run import Run


@dataclass(frozen=True)
class UnitInputs:
    """What the process of a unit needs.

    Args:
        unit: the unit.
        prepared: the inputs of its training.
        application: name of the reward service; "" without a reward model.
        transitions: file of the labelled demonstrations.
        folder: its working folder.
        preset: recorded as provenance.
        curve: evaluation during training.
    """

    unit: Unit
    prepared: Prepared
    application: str
    transitions: Path
    folder: Path
    preset: str
    curve: CurveConfig


@dataclass(frozen=True)
class SharedInputs:
    """What arms of a seed share: the run that prepared it, its results, and what they are worth.

    Args:
        run: keeps the reward service alive.
        prepared: demonstrations, cloned policy and, if the arms use one, the reward model.
        clone: outcomes of the cloned policy on the curve's episodes.
        gates: figures of the reward model and whether it passed, by `gate_key`: they depend on how progress is fused.
    """

    run: Run
    prepared: Prepared
    clone: list[bool]
    gates: Mapping[str, dict[str, Any]]

    def gate(self, config: ExperimentConfig) -> dict[str, Any] | None:
        """The gate's figures for an arm's settings; None if the arm uses no reward model."""
        return self.gates[gate_key(config)] if self.prepared.model else None


def shared_config(config: ExperimentConfig, stride: int) -> ExperimentConfig:
    """The settings that shared inputs are prepared with: those of a unit, but at the study's stride."""
    from experiments.job.prepared import asks_model

    reward: RewardMode = "grm" if asks_model(config) else "sparse"
    return replace(config, reward=reward, env=replace(config.env, stride=stride))


def shared_key(config: ExperimentConfig) -> str:
    """Identifies what can be shared: equal for units whose shared inputs are the same. Their gates may differ."""
    from experiments.job.prepared import asks_model

    model = (config.grm, config.sft) if asks_model(config) else None
    key = (asks_model(config), config.env, config.demonstrations, config.cloning, config.seed, model)
    return f"{config.seed}-{fingerprint(key)[:8]}"


def gate_key(config: ExperimentConfig) -> str:
    """Identifies a gate of one reward model: equal where the answers are fused and judged alike."""
    return fingerprint((config.fusion, config.gate))[:8]


def prepare_shared(run: Run, curve: CurveConfig, configs: Sequence[ExperimentConfig]) -> SharedInputs:
    """Record, clone, adapt and judge. A reward model that fails its gate is used all the same: studies report it.

    Args:
        configs: the `shared_config` of every arm; each way of fusing and judging among them has a gate.
    """
    from experiments.job import phases

    prepared = phases.prepare(run)
    gates = {gate_key(config): config for config in configs} if prepared.model else {}
    judged = {key: _judge(run, prepared, config, run.path / "gates" / key) for key, config in gates.items()}
    depends_on = (run.config.env, prepared.cloned.version, curve)
    clone: list[bool] = run.phase(
        "curve_0",
        f"Evaluation of the cloned policy on {curve.episodes} curve episodes",
        depends_on,
        lambda: _outcomes(run, phases.policies(run, prepared)["bc"], curve),
    )
    return SharedInputs(run, prepared, clone, judged)


def _judge(run: Run, prepared: Prepared, config: ExperimentConfig, folder: Path) -> dict[str, Any]:
    """The gate of a run's reward model with an arm's fusion and bounds, in a folder of its own."""
    from experiments.job.gate import gate

    assert prepared.model is not None
    folder.mkdir(parents=True, exist_ok=True)
    figures, verdict = gate(run.sibling(config, RunFolder(folder), run.pool), prepared)
    return {**asdict(figures), "passed": verdict.passed, "model_version": prepared.model.version}


def prepare_unit(unit: Unit, shared: SharedInputs, folder: Path, preset: str, curve: CurveConfig) -> UnitInputs:
    """Label the policy's demonstrations as this unit labels its episodes."""
    from experiments.job import phases
    from experiments.job.labels import label
    from experiments.job.prepared import asks_model

    folder.mkdir(parents=True, exist_ok=True)
    training = replace(unit.config.training, snapshot_steps=curve.every)
    config = replace(unit.config, training=training, labels=replace(unit.config.labels, keep_frames=False))
    run = shared.run.sibling(config, RunFolder(folder))
    prepared = shared.prepared
    if config.env.stride != shared.run.config.env.stride:
        prepared = replace(prepared, policy_episodes=phases.policy_demonstrations(run, shared.run.path))
    prepared = replace(prepared, target=phases.oracle_target(config, prepared.policy_episodes))
    run.close_pool()  # its memory and CPUs are for the service and the trainings
    transitions = label(run, prepared)
    run.close_pool()
    model = prepared.model if asks_model(config) else None
    application = run.service(model.path)[0] if model else ""
    return UnitInputs(replace(unit, config=config), prepared, application, transitions, folder, preset, curve)


def run_unit(trial_config: dict[str, Any], inputs: Mapping[str, UnitInputs]) -> None:
    """Tune's trainable: train, evaluate, report. The last report holds the unit's `result`."""
    from ray import tune

    from experiments.job.run import Run
    from experiments.job.training import train_policy

    this = inputs[trial_config["unit"]]
    config, prepared = this.unit.config, this.prepared
    with Run(config, RunFolder(this.folder), Console(), this.preset) as run:
        if prepared.model and this.application:
            run.use_service(prepared.model.path, this.application)
        trained = train_policy(run, prepared, this.transitions, lambda point: tune.report(_progress(point)))
        curve, final = _evaluate(run, this, trained["environment_steps"])
    tune.report({**_progress(trained["curve"][-1]), "result": _result(trained, curve, final)})


def _progress(point: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "environment_steps": point["environment_steps"],
        "recent_success": point["success"],
        "environment_steps_per_s": round(point["environment_steps_per_s"], 1),
    }


def _evaluate(run: Run, this: UnitInputs, last: int) -> tuple[dict[int, list[bool]], list[bool]]:
    """Outcomes of every snapshot on the curve's episodes, and of the trained policy on the final ones."""
    from actors.workers import PolicySpec, WorkerPool
    from experiments.job import phases
    from experiments.job.prepared import file_version
    from learner.training import snapshots

    config, policy = run.config, this.folder / "policy.safetensors"
    saved = {steps: path for steps, path in snapshots(policy).items() if steps < last} | {last: policy}
    pool = WorkerPool(
        replace(config.env, views=(), oracle=False),
        simulators(config.learner),
        config.learner.num_cpus_per_env_runner,
    )
    quiet = run.sibling(config, run.folder, pool)
    try:
        curve: dict[int, list[bool]] = {}
        for steps, path in saved.items():
            curve[steps] = run.phase(
                f"curve_{steps}",
                f"Evaluation after {steps} environment steps",
                (file_version(path), config.env, this.curve),
                partial(_outcomes, quiet, PolicySpec("network", path), this.curve),
            )
        return curve, phases.evaluate(quiet, {"policy": PolicySpec("network", policy)})["policy"]
    finally:
        pool.close()


def _outcomes(run: Run, policy: Any, curve: CurveConfig) -> list[bool]:
    from experiments.job import phases

    return phases.outcomes_of(run, [policy], curve.seeds)[0]


def _result(trained: Mapping[str, Any], curve: Mapping[int, list[bool]], final: Sequence[bool]) -> dict[str, Any]:
    names = ("environment_steps", "success", "final_potential_mean", "q_mean", "critic_loss")
    points = [{name: _rounded(point[name]) for name in names} for point in trained["curve"]]
    return {
        "curve": [{"environment_steps": steps, "outcomes": digits(outcomes)} for steps, outcomes in curve.items()],
        "final": digits(final),
        "training": points[:: max(1, len(points) // 20)],
        **{name: trained[name] for name in ("environment_steps", "updates", "labels", "sittings")},
        "seconds": round(trained["seconds"], 1),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def digits(outcomes: Sequence[bool]) -> str:
    """Outcomes as text: 1 for each success, 0 for each failure."""
    return "".join("1" if won else "0" for won in outcomes)
