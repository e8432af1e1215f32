"""The phases of the main job. Each takes the Run and the results of earlier phases; completed phases are reused."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actors.label_record_writer import LabelRecordWriter
from actors.labeller import Labeller, LabellerConfig
from actors.tasks import TASKS
from actors.workers import Job, PolicySpec
from dopamine_rl.episodes.raw import read_demonstration, read_outcome
from dopamine_rl.episodes.stored import failed_end, list_stored
from dopamine_rl.episodes.stride import at_stride
from dopamine_rl.errors import BadInput, DopamineError, ScoringError
from dopamine_rl.evaluation.behaviours import wrong_instructions
from dopamine_rl.evaluation.gate import (
    GateReport,
    Source,
    Verdict,
    behaviours,
    decide,
    judge,
    judge_misled,
    report,
    with_probe,
)
from dopamine_rl.evaluation.probe import ProbeFigures, ask, probe_figures
from dopamine_rl.grm.checkpoint import load_grm
from dopamine_rl.grm.fit import TrainingJob, claim
from dopamine_rl.grm.labels import keyframe_map
from dopamine_rl.grm.version import folder_version
from dopamine_rl.interfaces import RewardClient
from dopamine_rl.policy import save_policy
from dopamine_rl.provenance import provenance
from dopamine_rl.targets import ProgressMap
from dopamine_rl.types import Demonstration, EpisodeInfo, LabelColumns, TaskReference
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
    """The message for a reward model that failed its gate."""
    names = ", ".join(check.name for check in verdict.failed)
    return (
        f"the reward model failed its gate ({names}; see the table above and gate.png). Follow the advice there, "
        "or use --force to train with it anyway; the result records this."
    )


@dataclass(frozen=True)
class Cloned:
    """The cloned policy, the starting point of reinforcement learning.

    Args:
        path: its file.
        version: identifies its content.
        trials: success rate of every network size, on seeds used for nothing else.
    """

    path: Path
    version: str
    trials: dict[str, Any]


@dataclass(frozen=True)
class RewardModel:
    """A trained reward model.

    Args:
        path: its checkpoint folder.
        version: identifies its content.
        reference: the demonstration that its reference and goal images are taken from.
    """

    path: Path
    version: str
    reference: TaskReference


@dataclass(frozen=True)
class Prepared:
    """The inputs of policy training.

    Args:
        policy_episodes: folders of the policy's demonstrations.
        gate_episodes: folders of the unseen episodes, and what acted in them.
        behaviours: folders of episodes that the gate reports, and that its verdict does not depend on.
        model: the reward model; None if the reward does not use one.
        target: map from geometric progress to the oracle's target; None where the oracle reports it as it is.
        practice: folders of the episodes of practice.
    """

    policy_episodes: list[Path]
    gate_episodes: list[tuple[Path, Source]]
    behaviours: list[Path]
    cloned: Cloned
    model: RewardModel | None
    target: ProgressMap | None = None
    practice: tuple[Path, ...] = ()


def prepare(run: Run) -> Prepared:
    """Demonstrations and a cloned policy; if the reward uses a reward model, also rollouts and that model."""
    config, root = run.config, run.path / "demonstrations"
    uses_model = asks_model(config)
    if uses_model and config.sft.start_from:
        load_grm(config.sft.start_from)  # An unusable model must be reported before the demonstrations are recorded.
    scripted = episodes.scripted_plans(config, root)
    if not uses_model:
        scripted = {"policy": scripted["policy"]}
    _record(run, "demonstrations", "Demonstrations of the scripted expert", scripted)
    cloned = _clone(run, scripted["policy"].paths)
    if not uses_model:
        return Prepared(scripted["policy"].paths, [], [], cloned, None, oracle_target(config, scripted["policy"].paths))
    acted = episodes.rollout_plans(config, root, cloned.path, cloned.version)
    if any(plan.jobs for plan in acted.values()):
        _record(run, "rollouts", "Rollouts of the cloned policy, for the reward model and its gate", acted)
    practice = _practise(run, scripted["reward_model"].paths)
    tries = [*acted["reward_model_rollouts"].paths, *practice]
    model = _train_reward_model(run, scripted["reward_model"].paths, tries, cloned)
    unseen: list[tuple[Path, Source]] = []
    for number, path in enumerate(scripted["gate"].paths):
        unseen.append((path, "expert" if number < config.demonstrations.gate_successes else "failure"))
    unseen += [(path, "policy") for path in acted["gate_rollouts"].paths]
    behaviours = scripted["gate_behaviours"].paths
    return Prepared(scripted["policy"].paths, unseen, behaviours, cloned, model, practice=tuple(practice))


def oracle_target(config: ExperimentConfig, demonstrations: Sequence[Path]) -> ProgressMap | None:
    """The map to the oracle's target, fitted to the policy's demonstrations."""
    if config.reward != "oracle" or config.oracle_target == "geometric":
        return None
    successes = [d for d in episodes.read_all(demonstrations) if d.success]
    return keyframe_map([EpisodeInfo.of(demonstration) for demonstration in successes])


def policy_demonstrations(run: Run, root: Path) -> list[Path]:
    """Record the policy's demonstrations with frames at the stride of the run's config; returns their folders.

    Args:
        root: folder of the run that prepared the other inputs, at another stride.
    """
    plan = episodes.scripted_plans(run.config, root / "demonstrations")["policy"]
    _record(run, "policy_demonstrations", "The policy's demonstrations at another stride", {"policy": plan})
    return plan.paths


def _record(run: Run, name: str, title: str, plans: dict[str, episodes.EpisodePlan]) -> None:
    """Record the episodes that do not exist yet."""
    jobs = [job for plan in plans.values() for job in plan.jobs]
    depends_on = (run.config.env, [(*job.args[:2], *job.args[3:]) for job in jobs])
    run.phase(name, title, depends_on, lambda: len(run.pool.map(jobs, run.console.progress, "episodes recorded")))


def _clone(run: Run, demonstrations: Sequence[Path]) -> Cloned:
    """Clone the demonstrations with every network size; keep the one with the highest success on the trial seeds."""
    config, path = run.config, run.path / "bc.safetensors"

    def work() -> dict[str, Any]:
        successes = [d for d in episodes.read_all(demonstrations) if d.success]
        if not successes:
            raise BadInput(
                "demonstrations.policy", config.demonstrations.policy, "none succeeded: increase env.horizon"
            )
        data = (
            np.concatenate([d.observations[:-1] for d in successes]),
            np.concatenate([d.actions for d in successes]),
            np.array([len(d.actions) for d in successes]),
        )
        candidates = {}
        for hidden in config.cloning.sizes:
            name = "x".join(map(str, hidden))
            candidates[name] = run.path / f"bc_{name}.safetensors"
            state = train_bc(*data, hidden, config.cloning, config.seed).state
            save_policy(candidates[name], state, provenance(preset=run.preset, seed=config.seed))
            run.console.progress(f"cloned with hidden layers {name}")
        seeds = episodes.trial_seeds(config)
        wins = outcomes_of(run, [PolicySpec("network", file) for file in candidates.values()], seeds)
        trials = {name: sum(won) / len(seeds) for name, won in zip(candidates, wins, strict=True)}
        best = max(trials, key=lambda name: trials[name])
        run.console.say(f"  success rate on {len(seeds)} trial seeds: {trials}; using {best}")
        candidates[best].replace(path)
        for name, file in candidates.items():
            if name != best:
                file.unlink()
        return {"version": file_version(path), "trials": trials}

    depends_on = (config.env, config.demonstrations, config.cloning, config.seed)
    value = run.phase("clone", "Behaviour cloning from demonstrations", depends_on, work)
    return Cloned(path, value["version"], value["trials"])


def file_version(path: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _practise(run: Run, demonstrations: Sequence[Path]) -> list[Path]:
    """Let the robot wander about the first demonstration's path, if the config asks for it; returns the episodes."""
    if not run.config.demonstrations.practice:
        return []
    plan = episodes.practice_plan(run.config, run.path / "demonstrations", episodes.first_success(demonstrations))
    _record(run, "practice", "Practice about the demonstration's path, for the reward model", {"practice": plan})
    return plan.paths


def _train_reward_model(run: Run, demonstrations: Sequence[Path], tries: Sequence[Path], cloned: Cloned) -> RewardModel:
    """Train the reward model on its demonstrations, and on the tries that failed if the config asks for some."""
    config, path = run.config, run.path / "grm"
    card = {"task": config.env.task, "start": config.env.start, "command": " ".join(sys.argv), "seed": config.seed}
    card["provenance"] = provenance(preset=run.preset, seed=config.seed)
    others = [task for name, task in TASKS.items() if name != config.env.task]
    # The gate asks in a task's first words: the model is not to know them by heart.
    sft = config.sft.with_other_instructions(words for task in others for words in task.instructions[1:])

    def work() -> dict[str, Any]:
        failed = [path for path in tries if not read_outcome(path).success]
        stored = [
            episode for folder in (*demonstrations, *failed) for episode in list_stored(folder, config.sft.stride)
        ]
        if config.sft.failures == "outcome":
            stored = [failed_end(episode) if episode.info.success is False else episode for episode in stored]
        work = run.path.resolve() / "grm.train"
        job = TrainingJob(sft, config.grm, tuple(stored), (), work, card)
        try:
            claim(job)
        except BadInput:  # settings changed: train from the start
            claim(job, fresh=True)
        train_grm(job, path, run.console.progress)
        return {"version": folder_version(path)}

    depends_on = (config.env, config.demonstrations, config.grm, config.sft, cloned.version if tries else None)
    value = run.phase("reward_model", "Reward model: Ray Train job", depends_on, work)
    reference = TaskReference.of(read_demonstration(episodes.first_success(demonstrations)))
    return RewardModel(path, value["version"], reference)


def gate(run: Run, prepared: Prepared) -> tuple[GateReport, Verdict]:
    """Evaluate the reward model on unseen episodes, through the service that will label the training."""
    config, model = run.config, prepared.model
    assert model is not None

    threshold = config.gate.success_threshold

    def work() -> dict[str, Any]:
        _, client = run.service(model.path)
        folders = [path for path, _ in prepared.gate_episodes] + prepared.behaviours
        all_judged = judge(
            client,
            episodes.read_all(folders),
            model.reference,
            config.fusion,
            sources=[source for _, source in prepared.gate_episodes] + ["failure"] * len(prepared.behaviours),
            on_progress=run.console.progress,
        )
        judged = all_judged[: len(prepared.gate_episodes)]
        run.console.attempt("gate.png", lambda: plot_gate(run.path / "gate.png", judged, threshold), None)
        told = TASKS[config.env.task].instructions
        wrong = wrong_instructions(told, [task.instructions for task in TASKS.values()])
        figures = replace(
            report(judged, threshold, config.env.stride),
            behaviours=behaviours(all_judged, threshold),
            instruction=judge_misled(client, judged, model.reference, wrong, config.fusion, threshold),
        )
        if config.gate.probe == "required":
            figures = with_probe(figures, _probe(run, client, model.reference))
        elif config.gate.probe == "shown" and TASKS[config.env.task].place is not None:
            found = run.console.attempt("precision probe", lambda: _probe(run, client, model.reference), None)
            figures = figures if found is None else with_probe(figures, found)
        return asdict(figures)

    unseen: list[tuple[str, ...]] = [(path.name, source) for path, source in prepared.gate_episodes]
    unseen += [(path.name,) for path in prepared.behaviours]
    depends_on: tuple[object, ...] = (model.version, config.env, config.fusion, threshold, unseen)
    if config.gate.probe == "required":  # else a stored report without it is as good
        depends_on += ("probe",)
    figures = GateReport(**run.phase("gate", "Gate: the reward model on unseen episodes", depends_on, work))
    verdict = decide(figures, config.gate)
    run.console.say(*verdict.table().splitlines())
    return figures, verdict


def _probe(run: Run, client: RewardClient, reference: TaskReference) -> ProbeFigures:
    """The precision probe of the reward model."""
    [pictures] = run.pool.map([Job("probe", (episodes.probe_seed(run.config),))], run.console.progress, "probes")
    return probe_figures(pictures.gaps_m, pictures.offsets_m, ask(client, reference, pictures))


def labeller_config(
    config: ExperimentConfig, records_dir: Path | None = None, target: ProgressMap | None = None
) -> LabellerConfig:
    """The labeller's config, with the learner's γ.

    Args:
        records_dir: folder of the label records; None writes none.
        target: see `Prepared`.
    """
    return LabellerConfig(
        mode=config.reward,
        gamma=config.gamma,
        stride=config.env.stride,
        fusion=config.fusion,
        deadline_s=config.labels.deadline_s,
        records_dir=records_dir,
        records_mb=config.labels.records_mb,
        shaping=config.shaping,
        target=target,
    )


def label(run: Run, prepared: Prepared) -> Path:
    """Label the policy's demonstrations as online data is labelled; returns the file of transitions."""
    config, path = run.config, run.path / "policy_demonstrations.npz"
    model = prepared.model if asks_model(config) else None

    def work() -> int:
        demonstrations = [d for d in episodes.read_all(prepared.policy_episodes) if d.success]
        count = len(demonstrations)
        if config.learner.practice:
            demonstrations += [at_stride(d, config.env.stride) for d in episodes.read_all(prepared.practice)]
        records = run.path / "records" if config.labels.keep_frames else None
        patient = replace(labeller_config(config, records, prepared.target), deadline_s=120.0)
        client = run.service(model.path)[1] if model else None
        writer = LabelRecordWriter(records, config.labels.records_mb) if records else None
        room = config.service.max_queued_requests
        labeller, task = Labeller(patient, client), model.reference if model else None
        columns = label_demonstrations(demonstrations, labeller, task, room, writer)
        if writer and (removed := writer.take_counts()["removed"]):
            run.console.say(f"  removed the {removed} oldest records to stay within labels.records_mb")
        labelled = enumerate(zip(demonstrations, columns, strict=True))
        save_demonstrations(path, [replay_episode(d, c, practice=i >= count) for i, (d, c) in labelled])
        return len(demonstrations)

    labels_from = (model.version, config.fusion) if model else prepared.target
    depends_on: tuple[object, ...] = (
        config.env,
        config.demonstrations,
        config.reward,
        config.gamma,
        config.labels,
        labels_from,
        config.learner.practice,
    )
    run.phase("label", "Labels of the policy's demonstrations", depends_on, work)
    return path


def asks_model(config: ExperimentConfig) -> bool:
    """True if the reward is computed by the reward model."""
    return config.reward in ("grm", "naive")


def label_demonstrations(
    demonstrations: Sequence[Demonstration],
    labeller: Labeller,
    reference: TaskReference | None,
    frames_together: int,
    writer: LabelRecordWriter | None = None,
) -> list[LabelColumns]:
    """Label recorded episodes with the labeller of online data, at its stride.

    Args:
        reference: the task reference; None if the labeller uses no reward model.
        frames_together: frames that may be requested at once; the service's queue is bounded.
        writer: writes the episodes' records; None writes none.
    Raises:
        ScoringError: a frame could not be scored.
    """
    columns = []
    for group in _groups(demonstrations, frames_together):
        for demonstration in group:
            _request_labels(demonstration, labeller, reference)
        for demonstration in group:
            name = demonstration.episode_id
            columns.append(labeller.collect(name, 0, demonstration.task_rewards, demonstration.terminated)[1])
            record = labeller.finish(name)
            if record is not None and writer is not None:
                writer.write(record)
    counts = labeller.take_counts()
    if counts.answered != counts.asked:
        raise ScoringError(f"some of the policy's demonstrations could not be labelled: {counts}")
    return columns


def _groups(demonstrations: Sequence[Demonstration], frames: int) -> Iterator[list[Demonstration]]:
    """Consecutive episodes with at most `frames` frames in all; a longer episode forms a group of its own."""
    group: list[Demonstration] = []
    for demonstration in demonstrations:
        if group and sum(len(d.frames) for d in group) + len(demonstration.frames) > frames:
            yield group
            group = []
        group.append(demonstration)
    if group:
        yield group


def _request_labels(demonstration: Demonstration, labeller: Labeller, reference: TaskReference | None) -> None:
    name, times = demonstration.episode_id, demonstration.frame_steps[1:]
    labeller.begin(
        name, reference.context(name, demonstration.frames[0]) if reference and labeller.asks_model else None
    )
    if labeller.asks_model:
        for time, views in zip(times, demonstration.frames[1:], strict=True):
            labeller.observe(name, int(time), views)
    elif labeller.config.mode == "oracle":
        if demonstration.true_progress is None:
            raise BadInput("reward", "oracle", f"use another reward: the true progress of {name} was not recorded")
        for time, progress in zip(times, demonstration.true_progress[1:], strict=True):
            labeller.observe_truth(name, int(time), float(progress))


def policies(run: Run, prepared: Prepared) -> dict[str, PolicySpec]:
    """The policies to compare on unseen seeds."""
    return {
        "expert": PolicySpec("expert"),
        "straight_push": PolicySpec("straight_push"),
        "bc": PolicySpec("network", prepared.cloned.path),
        "policy": PolicySpec("network", run.path / "policy.safetensors"),
    }


def evaluate(run: Run, compared: dict[str, PolicySpec]) -> dict[str, list[bool]]:
    """Success of each policy on the same unseen seeds, in the order of the seeds."""
    config = run.config
    seeds = [config.evaluation.first_seed + i for i in range(config.evaluation.episodes)]
    outcomes = {}

    def success(spec: PolicySpec) -> list[bool]:
        return outcomes_of(run, [spec], seeds)[0]

    for name, spec in compared.items():
        depends_on = (spec.kind, file_version(spec.path) if spec.path else None, config.env, config.evaluation)
        outcomes[name] = run.phase(
            f"evaluate_{name}",
            f"Evaluation on {len(seeds)} unseen seeds: {name}",
            depends_on,
            partial(success, spec),
        )
    return outcomes


def outcomes_of(run: Run, specs: Sequence[PolicySpec], seeds: Sequence[int]) -> list[list[bool]]:
    """Whether each policy succeeded on each seed."""
    jobs = [Job("evaluate", (spec, seed)) for spec in specs for seed in seeds]
    won = [bool(outcome["success"]) for outcome in run.pool.map(jobs, run.console.progress, "episodes")]
    return [won[i * len(seeds) : (i + 1) * len(seeds)] for i in range(len(specs))]
