"""The phases of the main job. Each takes the Run and what the phases before it left, and is kept once it is done."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actors.labeller import Labeller, LabellerConfig
from actors.record_writer import RecordWriter
from actors.workers import Job, PolicySpec
from dopamine_rl.episodes.stored import list_stored
from dopamine_rl.errors import BadInput, DopamineError, ScoringError
from dopamine_rl.evaluation.gate import GateReport, Source, Verdict, decide, judge, report
from dopamine_rl.grm.checkpoint import load_grm
from dopamine_rl.grm.fit import TrainingJob, claim
from dopamine_rl.grm.version import folder_version
from dopamine_rl.policy import save_policy
from dopamine_rl.provenance import provenance
from dopamine_rl.types import Demonstration, LabelColumns, TaskReference
from experiments.job import plans as episodes
from experiments.job.report import plot_gate
from experiments.job.run import Run
from experiments.settings import ExperimentConfig
from learner.algorithms.bc import train_bc
from learner.demonstrations import replay_episode, save_demonstrations
from learner.grm_sft import train_grm


class GateRefused(DopamineError):
    """The reward model failed its gate; the message is the verdict's table."""


def refusal(verdict: Verdict) -> str:
    """What a person is told whose reward model is refused."""
    names = ", ".join(check.name for check in verdict.failed)
    return (
        f"the reward model failed its gate ({names}; see the table above and gate.png). Follow the advice there, or give "
        "--force to train with it all the same, which the result records."
    )


@dataclass(frozen=True)
class Cloned:
    """The policy that reinforcement learning begins with.

    Args:
        path: its file.
        version: names its content.
        trials: success of every size that was tried, on starts of their own.
    """

    path: Path
    version: str
    trials: dict[str, Any]


@dataclass(frozen=True)
class RewardModel:
    """A trained reward model.

    Args:
        path: its checkpoint folder.
        version: names its content.
        reference: the demonstration that its references and goal are taken from.
    """

    path: Path
    version: str
    reference: TaskReference


@dataclass(frozen=True)
class Prepared:
    """What a policy's training needs.

    Args:
        policy_episodes: folders of the policy's demonstrations.
        gate_episodes: folders of the unseen episodes and who acted in them.
        model: the reward model; None where the reward does not come from one.
    """

    policy_episodes: list[Path]
    gate_episodes: list[tuple[Path, Source]]
    cloned: Cloned
    model: RewardModel | None


def prepare(run: Run) -> Prepared:
    """Demonstrations and a cloned policy; where the reward asks a reward model, the policy's rollouts and that model."""
    config, root = run.config, run.path / "demonstrations"
    asks = asks_model(config)
    if asks and config.sft.start_from:
        load_grm(config.sft.start_from)  # What cannot be used is said now, not after the demonstrations.
    scripted = episodes.scripted_plans(config, root)
    if not asks:
        scripted = {"policy": scripted["policy"]}
    _record(run, "demonstrations", "Demonstrations by a scripted expert", scripted)
    cloned = _clone(run, scripted["policy"].paths)
    if not asks:
        return Prepared(scripted["policy"].paths, [], cloned, None)
    acted = episodes.rollout_plans(config, root, cloned.path, cloned.version)
    if any(plan.jobs for plan in acted.values()):
        _record(run, "rollouts", "Rollouts of the cloned policy, for the reward model and its gate", acted)
    model = _train_reward_model(run, scripted["reward_model"].paths, acted["reward_model_rollouts"].paths, cloned)
    unseen: list[tuple[Path, Source]] = []
    for number, path in enumerate(scripted["gate"].paths):
        unseen.append((path, "expert" if number < config.demonstrations.gate_successes else "failure"))
    unseen += [(path, "policy") for path in acted["gate_rollouts"].paths]
    return Prepared(scripted["policy"].paths, unseen, cloned, model)


def reference(run: Run) -> TaskReference:
    """What a reward model is shown of the task. Its demonstrations are recorded where they are missing."""
    plan = episodes.scripted_plans(run.config, run.path / "demonstrations")["reward_model"]
    _record(run, "reference", "Demonstrations for the reward model's references", {"reward_model": plan})
    return TaskReference.of(episodes.first_success(episodes.read_all(plan.paths)))


def _record(run: Run, name: str, title: str, plans: dict[str, episodes.EpisodePlan]) -> None:
    """Record what is missing of the episodes."""
    jobs = [job for plan in plans.values() for job in plan.jobs]
    depends_on = (run.config.env, [(*job.args[:2], *job.args[3:]) for job in jobs])
    run.phase(name, title, depends_on, lambda: len(run.pool.map(jobs, run.console.progress, "episodes recorded")))


def _clone(run: Run, demonstrations: Sequence[Path]) -> Cloned:
    """Clone the demonstrations with every size, and keep the one that succeeds most often on starts of their own."""
    config, path = run.config, run.path / "bc.safetensors"

    def work() -> dict[str, Any]:
        shown = [d for d in episodes.read_all(demonstrations) if d.success]
        if len(shown) < 2:
            raise BadInput("demonstrations.policy", len(shown), "fewer than 2 succeeded: give env.horizon more time")
        data = (
            np.concatenate([d.observations[:-1] for d in shown]),
            np.concatenate([d.actions for d in shown]),
            np.array([len(d.actions) for d in shown]),
        )
        candidates = {}
        for hidden in config.cloning.sizes:
            name = "x".join(map(str, hidden))
            candidates[name] = run.path / f"bc_{name}.safetensors"
            save_policy(candidates[name], train_bc(*data, hidden, config.cloning, config.seed).state)
            run.console.progress(f"cloned with layers {name}")
        seeds = episodes.trial_seeds(config)
        wins = _success(run, [PolicySpec("network", file) for file in candidates.values()], seeds)
        trials = {name: sum(won) / len(seeds) for name, won in zip(candidates, wins, strict=True)}
        best = max(trials, key=lambda name: trials[name])
        run.console.say(f"  success on {len(seeds)} starts: {trials}; {best} is kept")
        candidates[best].replace(path)
        for name, file in candidates.items():
            if name != best:
                file.unlink()
        return {"version": file_version(path), "trials": trials}

    depends_on = (config.env, config.demonstrations, config.cloning, config.seed)
    value = run.phase("clone", "Policy cloned from demonstrations", depends_on, work)
    return Cloned(path, value["version"], value["trials"])


def file_version(path: Path) -> str:
    """12 hexadecimal digits that name a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _train_reward_model(run: Run, shown: Sequence[Path], rollouts: Sequence[Path], cloned: Cloned) -> RewardModel:
    """Fit the reward model to its demonstrations, and to failures where the settings say so."""
    config, path = run.config, run.path / "grm"
    card = {"task": config.env.task, "start": config.env.start, "command": " ".join(sys.argv), "seed": config.seed}
    card["provenance"] = provenance(preset=run.preset, seed=config.seed)

    def work() -> dict[str, Any]:
        failed = [path for path in rollouts if not episodes.read_all([path])[0].success]
        stored = [episode for folder in (*shown, *failed) for episode in list_stored(folder, config.sft.stride)]
        work = run.path.resolve() / "grm.train"
        job = TrainingJob(config.sft, config.grm, tuple(stored), (), work, card)
        try:
            claim(job)
        except BadInput:  # a changed setting does again what depends on it
            claim(job, fresh=True)
        train_grm(job, path, run.console.progress)
        return {"version": folder_version(path)}

    depends_on = (config.env, config.demonstrations, config.grm, config.sft, cloned.version if rollouts else None)
    value = run.phase("reward_model", "Reward model: Ray Train job", depends_on, work)
    reference = TaskReference.of(episodes.first_success(episodes.read_all(shown)))
    return RewardModel(path, value["version"], reference)


def gate(run: Run, prepared: Prepared) -> tuple[GateReport, Verdict]:
    """Judge the reward model on unseen episodes, through the service that will label the training."""
    config, model = run.config, prepared.model
    assert model is not None

    def work() -> dict[str, Any]:
        _, client = run.service(model.path)
        judged = judge(
            client,
            episodes.read_all([path for path, _ in prepared.gate_episodes]),
            model.reference,
            config.fusion,
            sources=[source for _, source in prepared.gate_episodes],
            on_progress=lambda done, total: run.console.progress(f"episodes judged: {done} of {total}"),
        )
        run.console.attempt("gate.png", lambda: plot_gate(run.path / "gate.png", judged), None)
        return asdict(report(judged, config.gate.success_threshold, config.env.stride))

    unseen = [(path.name, source) for path, source in prepared.gate_episodes]
    depends_on = (model.version, config.env, config.fusion, config.gate.success_threshold, unseen)
    figures = GateReport(**run.phase("gate", "Gate: the reward model on unseen episodes", depends_on, work))
    verdict = decide(figures, config.gate)
    run.console.say(verdict.table())
    return figures, verdict


def labeller_config(config: ExperimentConfig, records_dir: Path | None = None) -> LabellerConfig:
    """The labeller's settings; γ is the learner's."""
    return LabellerConfig(
        mode=config.reward,
        gamma=config.gamma,
        stride=config.env.stride,
        fusion=config.fusion,
        deadline_s=config.labels.deadline_s,
        records_dir=records_dir,
        records_mb=config.labels.records_mb,
    )


def label(run: Run, prepared: Prepared) -> Path:
    """Label the policy's demonstrations with what labels online data too; returns the transitions' file."""
    config, path = run.config, run.path / "policy_demonstrations.npz"
    model = prepared.model if asks_model(config) else None

    def work() -> int:
        demonstrations = [d for d in episodes.read_all(prepared.policy_episodes) if d.success]
        records = run.path / "records" if config.labels.keep_frames else None
        patient = replace(labeller_config(config, records), deadline_s=120.0)
        client = run.service(model.path)[1] if model else None
        writer = RecordWriter(records, config.labels.records_mb) if records else None
        room = config.service.max_queued_requests
        labeller, shown = Labeller(patient, client), model.reference if model else None
        columns = label_demonstrations(demonstrations, labeller, shown, room, writer)
        if writer and (removed := writer.take_counts()["removed"]):
            run.console.say(f"  records of {removed} episodes removed: the oldest, to keep labels.records_mb")
        save_demonstrations(path, [replay_episode(d, c) for d, c in zip(demonstrations, columns, strict=True)])
        return len(demonstrations)

    asked = (model.version, config.fusion) if model else None
    depends_on = (config.env, config.demonstrations, config.reward, config.gamma, config.labels, asked)
    run.phase("label", "Labels of the policy's demonstrations", depends_on, work)
    return path


def asks_model(config: ExperimentConfig) -> bool:
    """True if the reward comes from the reward model."""
    return config.reward in ("grm", "naive")


def label_demonstrations(
    demonstrations: Sequence[Demonstration],
    labeller: Labeller,
    reference: TaskReference | None,
    frames_together: int,
    writer: RecordWriter | None = None,
) -> list[LabelColumns]:
    """Columns of recorded episodes from the labeller that labels online data, at its stride.

    Args:
        reference: what the reward model is shown of the task; None where the labeller asks none.
        frames_together: frames that may be asked for at once; the service's queue is bounded.
        writer: of the episodes' records; None keeps none.
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
            if record is not None and writer is not None:
                writer.write(record)
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


def _ask(demonstration: Demonstration, labeller: Labeller, reference: TaskReference | None) -> None:
    name, times = demonstration.episode_id, demonstration.frame_steps[1:]
    labeller.begin(
        name, reference.context(name, demonstration.frames[0]) if reference and labeller.asks_model else None
    )
    if labeller.asks_model:
        for time, views in zip(times, demonstration.frames[1:], strict=True):
            labeller.observe(name, int(time), views)
    elif labeller.config.mode == "oracle":
        if demonstration.true_progress is None:
            raise BadInput("reward", "oracle", f"use another mode: nobody knows the true progress of {name}")
        for time, progress in zip(times, demonstration.true_progress[1:], strict=True):
            labeller.observe_truth(name, int(time), float(progress))


def policies(run: Run, prepared: Prepared) -> dict[str, PolicySpec]:
    """The policies that are compared on unseen seeds."""
    return {
        "expert": PolicySpec("expert"),
        "straight_push": PolicySpec("straight_push"),
        "bc": PolicySpec("network", prepared.cloned.path),
        "policy": PolicySpec("network", run.path / "policy.safetensors"),
    }


def evaluate(run: Run, compared: dict[str, PolicySpec]) -> dict[str, list[bool]]:
    """Success of each policy on each of the same unseen seeds, in their order."""
    config = run.config
    seeds = [config.evaluation.first_seed + i for i in range(config.evaluation.episodes)]
    outcomes = {}

    def success(spec: PolicySpec) -> list[bool]:
        return _success(run, [spec], seeds)[0]

    for name, spec in compared.items():
        depends_on = (spec.kind, file_version(spec.path) if spec.path else None, config.env, config.evaluation)
        outcomes[name] = run.phase(
            f"evaluate_{name}",
            f"Evaluation on {len(seeds)} unseen seeds: {name}",
            depends_on,
            partial(success, spec),
        )
    return outcomes


def _success(run: Run, specs: Sequence[PolicySpec], seeds: Sequence[int]) -> list[list[bool]]:
    """For each policy whether it succeeded from each seed."""
    jobs = [Job("evaluate", (spec, seed)) for spec in specs for seed in seeds]
    won = [bool(outcome["success"]) for outcome in run.pool.map(jobs, run.console.progress, "episodes")]
    return [won[i * len(seeds) : (i + 1) * len(seeds)] for i in range(len(specs))]
