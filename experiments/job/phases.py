"""The phases of the main job. Each takes the Run and the results of earlier phases; completed phases are reused."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actors.envs import scripts_of
from actors.tasks import TASKS
from actors.workers import Job, PolicySpec
from dopamine_rl.encoders.eyes import Eyes, Sight
from dopamine_rl.encoders.loading import encoder_source, load_encoder
from dopamine_rl.encoders.recorded import encoded, shifted
from dopamine_rl.episodes.raw import read_outcome, read_raw_episode
from dopamine_rl.episodes.stored import failed_end, list_stored
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.gate import (
    Source,
)
from dopamine_rl.grm.checkpoint import load_grm
from dopamine_rl.grm.fit import TrainingJob, claim
from dopamine_rl.grm.hub import model_folder
from dopamine_rl.grm.labels import keyframe_map
from dopamine_rl.grm.version import folder_version
from dopamine_rl.policy import save_policy
from dopamine_rl.provenance import provenance
from dopamine_rl.targets import ProgressMap
from dopamine_rl.types import Demonstration, EpisodeInfo, TaskReference
from experiments.job import plans as episodes
from experiments.job.claims import claiming_by, evaluate_claims, summary
from experiments.job.gate import claim_fit
from experiments.job.labels import labeller_config
from experiments.job.prepared import Cloned, Prepared, RewardModel, asks_model, claimed, file_version
from experiments.job.recorded import RecordedPlan, recorded_plans
from experiments.job.run import Run
from experiments.settings import ExperimentConfig
from learner.algorithms.bc import train_bc
from learner.grm_sft import train_grm

Recordable = episodes.EpisodePlan | RecordedPlan
"""Episodes to record, or recorded ones."""


def prepare(run: Run) -> Prepared:
    """Demonstrations and a cloned policy; if the reward uses a reward model, also rollouts and that model."""
    config, root = run.config, run.path / "demonstrations"
    uses_model = asks_model(config)
    if uses_model and config.sft.start_from:
        load_grm(config.sft.start_from)  # An unusable model must be reported before the demonstrations are recorded.
    recorded = bool(config.demonstrations.folder)
    scripted: Mapping[str, Recordable] = recorded_plans(run) if recorded else episodes.scripted_plans(config, root)
    if not uses_model:
        scripted = {"policy": scripted["policy"]}
    policy_episodes, teachers = scripted["policy"].paths, scripted["reward_model"].paths if uses_model else []
    if not recorded:
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
            eyes = Eyes(sight, load_encoder(config.encoder, own, seed=config.seed).saved())
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
            result = train_bc(*data, hidden, config.cloning, config.seed, eyes=eyes)
            losses[name] = result.validation_loss
            sees = eyes
            if eyes is not None and result.encoder is not None:
                sees = replace(eyes, saved=replace(eyes.saved, arrays=result.encoder))
            save_policy(candidates[name], result.state, provenance(preset=run.preset, seed=config.seed), sees)
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
    depends_on += claimed(config)
    value = run.phase("clone", "Behaviour cloning from demonstrations", depends_on, work)
    return Cloned(path, value["version"], value["trials"])


def _copies(run: Run, demonstration: Demonstration, eyes: Eyes | None) -> list[Demonstration]:
    """A demonstration as the policy would have seen it; with a frozen encoder, also with shifted pictures."""
    if eyes is None:
        return [demonstration]
    if eyes.learned:  # its pictures are shifted anew in every batch
        return [encoded(demonstration, eyes, run.config.env.views)]
    views, count = run.config.env.views, run.config.cloning.shifted
    seeds = [run.config.seed * 1000 + number for number in range(count)]
    return [encoded(demonstration, eyes, views), *(shifted(demonstration, eyes, views, seed) for seed in seeds)]


def _try_clones(run: Run, candidates: Mapping[str, Path]) -> dict[str, float]:
    """Success rate of each cloned policy on the trial seeds, by the simulator's verdict."""
    seeds = episodes.trial_seeds(run.config)
    wins = outcomes_of(run, [PolicySpec("network", file) for file in candidates.values()], seeds)
    return {name: sum(won) / len(seeds) for name, won in zip(candidates, wins, strict=True)}


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
    depends_on += (cloned.version if cloned and tries else None, *claimed(config))
    value = run.phase("reward_model", "Reward model: Ray Train job", depends_on, work)
    reference = task_reference(episodes.first_success(demonstrations))
    return RewardModel(path, value["version"], reference)


def task_reference(episode: Path) -> TaskReference:
    """The references that a recorded episode gives, with or without actions."""
    raw = read_raw_episode(episode)
    return TaskReference(raw.instructions[0], raw.frames[0, 0], raw.frames[-1, 0], raw.frames[-1])


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
