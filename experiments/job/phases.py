"""The phases of the main job. Each takes the Run and the results of earlier phases; completed phases are reused."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actors.envs import has_place, instructions_of, scripts_of
from actors.label_record_writer import LabelRecordWriter
from actors.labeller import Labeller, LabellerConfig
from actors.tasks import TASKS
from actors.workers import Job, PolicySpec
from dopamine_rl.encoders.eyes import Eyes, Sight
from dopamine_rl.encoders.loading import encoder_source, load_encoder
from dopamine_rl.encoders.recorded import encoded, shifted
from dopamine_rl.episodes.raw import read_demonstration, read_outcome, read_raw_episode
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
from dopamine_rl.grm.hub import model_folder
from dopamine_rl.grm.labels import keyframe_map
from dopamine_rl.grm.version import folder_version
from dopamine_rl.interfaces import RewardClient
from dopamine_rl.policy import load_eyes, save_policy
from dopamine_rl.provenance import provenance
from dopamine_rl.targets import ProgressMap
from dopamine_rl.types import UNSHAPED, Demonstration, EpisodeInfo, LabelColumns, TaskReference
from experiments.job import plans as episodes
from experiments.job.claims import ClaimFit, claiming_by, evaluate_claims, fitted, summary
from experiments.job.report import plot_gate
from experiments.job.run import Run
from experiments.settings import ExperimentConfig
from learner.algorithms.bc import train_bc
from learner.demonstrations import replay_episode, save_demonstrations
from learner.grm_sft import train_grm

Recordable = episodes.EpisodePlan | episodes.RecordedPlan
"""Episodes to record, or recorded ones."""


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
        trials: success rate of every network size, on seeds used for nothing else; with success from progress the
            validation loss of every size.
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
        tries: folders of unseen ones, which success must not be claimed of.
    """

    policy_episodes: list[Path]
    gate_episodes: list[tuple[Path, Source]]
    behaviours: list[Path]
    cloned: Cloned
    model: RewardModel | None
    target: ProgressMap | None = None
    practice: tuple[Path, ...] = ()
    tries: tuple[Path, ...] = ()


def prepare(run: Run) -> Prepared:
    """Demonstrations and a cloned policy; if the reward uses a reward model, also rollouts and that model."""
    config, root = run.config, run.path / "demonstrations"
    uses_model = asks_model(config)
    if uses_model and config.sft.start_from:
        load_grm(config.sft.start_from)  # An unusable model must be reported before the demonstrations are recorded.
    scripted = episodes.scripted_plans(config, root)
    if not uses_model:
        scripted = {"policy": scripted["policy"]}
    policy_episodes, teachers = scripted["policy"].paths, scripted["reward_model"].paths if uses_model else []
    if config.demonstrations.folder:
        _check_sizes(run, policy_episodes[0])
    else:
        _record(run, "demonstrations", "Demonstrations of the scripted expert", scripted)
    if not uses_model:
        cloned = _clone(run, policy_episodes, config.sft.start_from)
        return Prepared(policy_episodes, [], [], cloned, None, oracle_target(config, policy_episodes))
    practice = _practise(run, teachers)
    if config.clones_last:
        model = _train_reward_model(run, teachers, practice, None)
        cloned = _clone(run, policy_episodes, model.path)
    else:
        cloned = _clone(run, policy_episodes, None)
    acted = episodes.rollout_plans(config, root, cloned.path, cloned.version)
    if any(plan.jobs for plan in acted.values()):
        _record(run, "rollouts", "Rollouts of the cloned policy, for the reward model and its gate", acted)
    unclaimed = _try(run, teachers) if config.success == "progress" else []
    if not config.clones_last:
        model = _train_reward_model(run, teachers, [*acted["reward_model_rollouts"].paths, *practice], cloned)
    unseen: list[tuple[Path, Source]] = []
    for number, path in enumerate(scripted["gate"].paths):
        unseen.append((path, "expert" if number < config.demonstrations.gate_successes else "failure"))
    unseen += [(path, "policy") for path in acted["gate_rollouts"].paths]
    behaviours = scripted["gate_behaviours"].paths
    tries = tuple(unclaimed)
    return Prepared(policy_episodes, unseen, behaviours, cloned, model, practice=tuple(practice), tries=tries)


def _check_sizes(run: Run, episode: Path) -> None:
    """Raise BadInput if an episode was recorded in another environment, by the lengths of observations and actions."""
    demonstration = read_demonstration(episode)
    recorded = (demonstration.observations.shape[1], demonstration.actions.shape[1])
    [sizes] = run.pool.map([Job("sizes", ())], run.console.progress, "environments made")
    if recorded != tuple(sizes):
        fix = f"record in this environment: its observations and actions have {sizes} numbers, those there {recorded}"
        raise BadInput("demonstrations.folder", str(episode), fix)


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


def _record(run: Run, name: str, title: str, plans: Mapping[str, Recordable]) -> None:
    """Record the episodes that do not exist yet."""
    jobs = [job for plan in plans.values() for job in plan.jobs]
    depends_on: tuple[object, ...] = (run.config.env, [(*job.args[:2], *job.args[3:]) for job in jobs])
    if expert := run.config.demonstrations.expert:
        depends_on += (expert,)
    run.phase(name, title, depends_on, lambda: len(run.pool.map(jobs, run.console.progress, "episodes recorded")))


def _clone(run: Run, demonstrations: Sequence[Path], own: str | Path | None) -> Cloned:
    """Clone the demonstrations with every network size; keep the one with the highest success on the trial seeds.

    Args:
        own: the reward model that encoder `grm` names.
    """
    config, path = run.config, run.path / "bc.safetensors"

    def work() -> dict[str, Any]:
        successes = [d for d in episodes.read_all(demonstrations) if d.success]
        if not successes:
            raise BadInput(
                "demonstrations.policy", config.demonstrations.policy, "none succeeded: increase env.horizon"
            )
        eyes = None
        if config.env.sees_pictures:
            sight = Sight.of(successes[0], config.env.policy_views)
            eyes = Eyes(sight, load_encoder(config.encoder, own).saved())
        copies = [_copies(run, demonstration, eyes) for demonstration in successes]
        data = (
            np.concatenate([d.observations[:-1] for episode in copies for d in episode]),
            np.concatenate([d.actions for episode in copies for d in episode]),
            np.array([sum(len(d.actions) for d in episode) for episode in copies]),
        )
        candidates, losses = {}, {}
        for hidden in config.cloning.sizes:
            name = "x".join(map(str, hidden))
            candidates[name] = run.path / f"bc_{name}.safetensors"
            result = train_bc(*data, hidden, config.cloning, config.seed)
            losses[name] = result.validation_loss
            save_policy(candidates[name], result.state, provenance(preset=run.preset, seed=config.seed), eyes)
            run.console.progress(f"cloned with hidden layers {name}")
        if config.success == "progress":  # Only the simulator could say how often a clone succeeds.
            trials, best = losses, min(losses, key=lambda name: losses[name])
            run.console.say(f"  validation loss: {trials}; using {best}")
        else:
            trials = _try_clones(run, candidates)
            best = max(trials, key=lambda name: trials[name])
            run.console.say(f"  success rate on {config.cloning.trials} trial seeds: {trials}; using {best}")
        candidates[best].replace(path)
        for name, file in candidates.items():
            if name != best:
                file.unlink()
        return {"version": file_version(path), "trials": trials}

    depends_on: tuple[object, ...] = (config.env, config.demonstrations, config.cloning, config.seed)
    if config.env.sees_pictures:
        kind, source = encoder_source(config.encoder, own)
        depends_on += (kind, folder_version(model_folder(source)) if kind == "grm" else source)
    depends_on += _claimed(config)
    value = run.phase("clone", "Behaviour cloning from demonstrations", depends_on, work)
    return Cloned(path, value["version"], value["trials"])


def _copies(run: Run, demonstration: Demonstration, eyes: Eyes | None) -> list[Demonstration]:
    """A demonstration as the policy would have seen it; with pictures, also with shifted ones."""
    if eyes is None:
        return [demonstration]
    views, count = run.config.env.views, run.config.cloning.shifted
    seeds = [run.config.seed * 1000 + number for number in range(count)]
    return [encoded(demonstration, eyes, views), *(shifted(demonstration, eyes, views, seed) for seed in seeds)]


def _try_clones(run: Run, candidates: Mapping[str, Path]) -> dict[str, float]:
    """Success rate of each cloned policy on the trial seeds, by the simulator's verdict."""
    seeds = episodes.trial_seeds(run.config)
    wins = outcomes_of(run, [PolicySpec("network", file) for file in candidates.values()], seeds)
    return {name: sum(won) / len(seeds) for name, won in zip(candidates, wins, strict=True)}


def _claimed(config: ExperimentConfig) -> tuple[object, ...]:
    """What a phase depends on besides, where success is claimed from progress."""
    return ("claims",) if config.success == "progress" else ()


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


def _try(run: Run, demonstrations: Sequence[Path]) -> list[Path]:
    """Practise again, unseen by the reward model; returns the episodes."""
    plan = episodes.tries_plan(run.config, run.path / "demonstrations", episodes.first_success(demonstrations))
    _record(run, "tries", "Tries that success must not be claimed of", {"tries": plan})
    return plan.paths


def _train_reward_model(
    run: Run, demonstrations: Sequence[Path], tries: Sequence[Path], cloned: Cloned | None
) -> RewardModel:
    """Train the reward model on its demonstrations, and on the tries that failed if the config asks for some.

    Args:
        cloned: the policy that made some of the tries; None if none did.
    """
    config, path = run.config, run.path / "grm"
    card: dict[str, Any] = {"task": config.env.make or config.env.task, "start": config.env.start}
    card |= {"command": " ".join(sys.argv), "seed": config.seed}
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

    depends_on: tuple[object, ...] = (config.env, config.demonstrations, config.grm, config.sft)
    depends_on += (cloned.version if cloned and tries else None, *_claimed(config))
    value = run.phase("reward_model", "Reward model: Ray Train job", depends_on, work)
    reference = task_reference(episodes.first_success(demonstrations))
    return RewardModel(path, value["version"], reference)


def task_reference(episode: Path) -> TaskReference:
    """The references that a recorded episode gives, with or without actions."""
    raw = read_raw_episode(episode)
    return TaskReference(raw.instructions[0], raw.frames[0, 0], raw.frames[-1, 0], raw.frames[-1])


def gate(run: Run, prepared: Prepared) -> tuple[GateReport, Verdict]:
    """Evaluate the reward model on unseen episodes, through the service that will label the training.

    With success from progress the verdict is about the user's own episodes, and the simulator's figures stand beside.
    """
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
        wrong = wrong_instructions(instructions_of(config.env), [task.instructions for task in TASKS.values()])
        figures = replace(
            report(judged, threshold, config.env.stride),
            behaviours=behaviours(all_judged, threshold),
            instruction=judge_misled(client, judged, model.reference, wrong, config.fusion, threshold),
        )
        if config.gate.probe == "required":
            figures = with_probe(figures, _probe(run, client, model.reference))
        elif config.gate.probe == "shown" and has_place(config.env):
            found = run.console.attempt("precision probe", lambda: _probe(run, client, model.reference), None)
            figures = figures if found is None else with_probe(figures, found)
        return asdict(figures)

    unseen: list[tuple[str, ...]] = [(path.name, source) for path, source in prepared.gate_episodes]
    unseen += [(path.name,) for path in prepared.behaviours]
    depends_on: tuple[object, ...] = (model.version, config.env, config.fusion, threshold, unseen)
    if config.gate.probe == "required":  # else a stored report without it is as good
        depends_on += ("probe",)

    def judged_in_simulation() -> dict[str, Any]:
        value: dict[str, Any] = run.phase("gate", "Gate: the reward model on unseen episodes", depends_on, work)
        return value

    if config.success == "progress":  # What the simulator says of its episodes must not even end the run.
        beside = run.console.attempt("figures in simulation", judged_in_simulation, None)
        figures = replace(claim_fit(run, prepared).figures, simulator=beside)
    else:
        figures = GateReport(**judged_in_simulation())
    verdict = decide(figures, config.gate)
    run.console.say(*verdict.table().splitlines())
    return figures, verdict


def claim_fit(run: Run, prepared: Prepared) -> ClaimFit:
    """When success is claimed, and what the user's own episodes say of the reward model."""
    model = prepared.model
    assert model is not None
    return fitted(run, model.path, model.version, prepared.policy_episodes, prepared.tries, model.reference)


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
        demonstrations = _paid(run, prepared.policy_episodes)
        count = len(demonstrations)
        if config.learner.practice:
            demonstrations += episodes.read_all(prepared.practice)
        if config.env.sees_pictures and (eyes := load_eyes(prepared.cloned.path)) is not None:
            demonstrations = [encoded(d, eyes, config.env.views) for d in demonstrations]
        if config.reward not in UNSHAPED:
            demonstrations = [at_stride(d, config.env.stride) for d in demonstrations]
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
        prepared.cloned.version if config.env.sees_pictures else None,
        *_claimed(config),
    )
    run.phase("label", "Labels of the policy's demonstrations", depends_on, work)
    return path


def _paid(run: Run, folders: Sequence[Path]) -> list[Demonstration]:
    """The successes among recorded episodes, with the task rewards that the run's environment pays."""
    successes = {folder: d for folder, d in zip(folders, episodes.read_all(folders), strict=True) if d.success}
    gamma = dense_gamma(run.config)
    if gamma is None:
        return list(successes.values())
    jobs = [Job("dense_rewards", (folder, gamma)) for folder in successes]
    rewards = run.pool.map(jobs, run.console.progress, "demonstrations replayed")
    return [replace(d, task_rewards=paid) for d, paid in zip(successes.values(), rewards, strict=True)]


def asks_model(config: ExperimentConfig) -> bool:
    """True if the reward is computed by the reward model."""
    return config.reward in ("grm", "naive")


def dense_gamma(config: ExperimentConfig) -> float | None:
    """The discount of the dense reward (actors.dense_reward); None where the task pays success alone."""
    return config.gamma if config.reward == "dense" else None


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
    scripts = scripts_of(run.config.env, run.config.demonstrations.expert)
    return {
        **{name: PolicySpec(name) for name in ("expert", "straight_push") if name in scripts},
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


def claims_of(run: Run, prepared: Prepared, success: Mapping[str, list[bool]]) -> dict[str, Any]:
    """False claims, missed successes and true success of the cloned and the trained policy: `claims` of result.json.

    Args:
        success: of each policy within the horizon, with nobody claiming.
    """
    model, fit = prepared.model, claim_fit(run, prepared)
    assert model is not None
    application = run.service(model.path)[0]
    claiming = claiming_by(application, labeller_config(run.config), model.reference, fit.rule)
    specs = {name: spec for name, spec in policies(run, prepared).items() if name in ("bc", "policy")}
    versions = [file_version(spec.path) for spec in specs.values() if spec.path]
    outcomes = evaluate_claims(run, specs, claiming, application, (model.version, run.config.fusion, versions))
    return summary(outcomes, success, fit)


def outcomes_of(run: Run, specs: Sequence[PolicySpec], seeds: Sequence[int]) -> list[list[bool]]:
    """Whether each policy succeeded on each seed."""
    jobs = [Job("evaluate", (spec, seed)) for spec in specs for seed in seeds]
    won = [bool(outcome["success"]) for outcome in run.pool.map(jobs, run.console.progress, "episodes")]
    return [won[i * len(seeds) : (i + 1) * len(seeds)] for i in range(len(specs))]
