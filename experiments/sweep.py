"""A Ray Tune sweep of the main job: many trainings, one reward model, one reward service.

    python experiments/sweep.py --preset smoke --trials 4
    ray job submit --working-dir . -- python experiments/sweep.py --trials 16 --storage /shared/runs

Demonstrations, cloned policy and reward model are made once (or taken over, where the folder is a run of the main job with
the same settings), the model passes its gate once and is served once. Every trial labels the policy's demonstrations
through that service and trains with its own fusion, stride, discount and number of updates; ASHA stops those that fall
behind, the others are judged on held-out development seeds. The first trial is the preset itself.

    --trials N          how many (8)
    --concurrent N      how many at once (as many as the cluster's CPUs hold)
    --seed-of-search N  what the points are drawn from (0)

Results: sweep.json and sweep.md in STORAGE/NAME_sweep (or --out), Tune's own below tune/. What is done is kept; an
interrupted or partly failed search is done again, on what was prepared. The last line is JSON. Exit status 1: every trial
failed; 3: the reward model failed its gate.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # started by its path: sys.path begins with this folder instead of the project's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from dopamine_rl.config import dump_toml
from dopamine_rl.errors import BadInput, DopamineError
from experiments.cli import RunArguments, parse_run
from experiments.console import Console
from experiments.peg_insert import exit_with, interruptible
from experiments.settings import ExperimentConfig
from experiments.storage import RunFolder
from learner.config import LearnerConfig

if TYPE_CHECKING:
    from experiments.phases import Prepared
    from experiments.run import Run

Point = dict[str, Any]
"""A value for each setting that is searched, by its dotted name."""
OUTCOMES = ("answered", "invalid", "late", "rejected")


@dataclass(frozen=True)
class SearchArguments:
    """The sweep's own arguments.

    Args:
        trials: how many.
        concurrent: how many at once; None for what the cluster holds.
        seed: what the points are drawn from.
    """

    trials: int
    concurrent: int | None
    seed: int


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, search, and print what came of it."""
    parser = argparse.ArgumentParser(prog="sweep", add_help=False, allow_abbrev=False)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--concurrent", type=int)
    parser.add_argument("--seed-of-search", type=int, default=0)
    own, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    try:
        arguments, config = parse_run(ExperimentConfig, rest, "sweep", __doc__ or "")
        wanted = SearchArguments(own.trials, own.concurrent, own.seed_of_search)
        check(wanted, config)
        folder = RunFolder.resolve(arguments.out, arguments.storage, f"{config.name}_sweep")
        with interruptible("Interrupted. The same command keeps the reward model and searches anew."):
            summary = run(folder, config, arguments, wanted)
        print(json.dumps(summary))
        if summary["best"] is None:
            raise DopamineError("every trial failed; sweep.md names the errors")
    except DopamineError as error:
        exit_with(error)


def check(wanted: SearchArguments, config: ExperimentConfig) -> None:
    """Raise BadInput for what cannot be searched."""
    if wanted.trials < 1:
        raise BadInput("--trials", wanted.trials, "give at least 1")
    if wanted.concurrent is not None and wanted.concurrent < 1:
        raise BadInput("--concurrent", wanted.concurrent, "give at least 1")
    if wanted.seed < 0:
        raise BadInput("--seed-of-search", wanted.seed, "give at least 0")
    if config.reward not in ("grm", "naive"):
        raise BadInput("reward", config.reward, "give grm or naive: the trials share a reward service")


# The space, and points in it.


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1) of the way through."""
        return self.values[int(share * len(self.values))]


@dataclass(frozen=True)
class Range:
    """A number between two, to four decimals."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """The value at a share in [0, 1) of the way through."""
        return round(self.low + share * (self.high - self.low), 4)


def space(config: ExperimentConfig) -> dict[str, Choice | Range]:
    """What is searched. Strides are multiples of the preset's, because its demonstrations were recorded at that."""
    dimensions: dict[str, Choice | Range] = {
        "fusion.kind": Choice(("mean", "consistency")),
        "env.stride": Choice((config.env.stride, 2 * config.env.stride)),
        "gamma": Range(0.95, 0.99),
    }
    if config.learner.algorithm == "rlpd":
        dimensions["learner.updates_per_step"] = Choice((1.0, 2.0, 4.0))
    return dimensions


def sample(config: ExperimentConfig, trials: int, seed: int) -> list[Point]:
    """The preset's own point, then a Latin hypercube of the space: each dimension is covered evenly, however few they are."""
    dimensions, rng = space(config), np.random.default_rng(seed)
    drawn = trials - 1
    columns = {
        name: [dimension.at(share) for share in (rng.permutation(drawn) + rng.random(drawn)) / max(drawn, 1)]
        for name, dimension in dimensions.items()
    }
    preset = {name: functools.reduce(getattr, name.split("."), config) for name in dimensions}
    return [preset, *({name: column[i] for name, column in columns.items()} for i in range(drawn))]


def at_point(config: ExperimentConfig, point: Point) -> ExperimentConfig:
    """The settings of a trial. Its scored frames are not kept: the audit is for single runs."""
    for name, value in {**point, "labels.keep_frames": False}.items():
        config = _replaced(config, name.split("."), value)
    return config


def _replaced(section: Any, names: Sequence[str], value: Any) -> Any:
    name, *rest = names
    return replace(section, **{name: _replaced(getattr(section, name), rest, value) if rest else value})


def flags(point: Point) -> str:
    """A point as flags of a command line."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in point.items())


# The whole, in the driver.


def run(
    folder: RunFolder, config: ExperimentConfig, arguments: RunArguments, wanted: SearchArguments
) -> dict[str, Any]:
    """Prepare, search, write sweep.json and sweep.md; returns what the last line says: trials, best, wall_s.

    Raises:
        GateRefused: the reward model failed its gate, and `arguments.force` is not given.
    """
    from experiments import phases
    from experiments.cluster import ray_cluster
    from experiments.peg_insert import refusal
    from experiments.resume import only_run
    from experiments.run import Run

    console = Console()
    with only_run(folder), ray_cluster(config.cluster):
        console.say(f"Sweep of {config.name}: {wanted.trials} trials, results in {folder.place}")
        try:
            with Run(config, folder, console, arguments.fresh) as this:
                folder.write_text("config.toml", dump_toml(config))
                prepared = phases.prepare(this)
                _, verdict = phases.gate(this, prepared)
                if not verdict.passed and not arguments.force:
                    raise phases.GateRefused(refusal(verdict))
                found = search(this, prepared, wanted)
                report = {**found, **context(config, prepared, wanted), "gate_passed": verdict.passed}
            report |= {"phase_seconds": console.phase_seconds, "wall_s": round(console.elapsed_s, 1)}
            folder.write_json("sweep.json", report)
            folder.write_text("sweep.md", page(report))
        finally:
            folder.publish()
    for line in aligned(HEADER, cells(report["trials"])):
        console.say("  " + line)
    console.say(f"Done: {folder.place}/sweep.md")
    best = report["trials"][0] if report["trials"][0]["outcome"] != "failed" else None
    return {"trials": len(report["trials"]), "best": best, "wall_s": report["wall_s"]}


def context(config: ExperimentConfig, prepared: Prepared, wanted: SearchArguments) -> dict[str, Any]:
    """What sweep.json says of the conditions that all trials had in common."""
    from experiments.episodes import trial_seeds

    seeds = trial_seeds(config)
    return {
        "name": config.name,
        "reward": config.reward,
        "environment_steps": config.training.environment_steps,
        "model_version": prepared.model.version,
        "clone_success": max(prepared.cloned.trials.values()),
        "seeds": {"search": wanted.seed, "training": config.seed, "held_out": [seeds[0], seeds[-1]]},
    }


def search(this: Run, prepared: Prepared, wanted: SearchArguments) -> dict[str, Any]:
    """The search phase: application (the service's name) and trials (see `row`), the best first.

    It is kept where no trial failed.
    """
    config = this.config
    points = sample(config, wanted.trials, wanted.seed)
    depends_on = (
        points, config.env, config.reward, config.seed, config.fusion, config.learner, config.training, config.labels,
        config.demonstrations, config.service, prepared.model.version, prepared.cloned.version, config.cloning.trials,
    )  # fmt: skip

    def work() -> dict[str, Any]:
        # The simulators have done their work, and a trial needs their room.
        this.pool.close()
        application, _ = this.service(prepared.model.path)
        folder = this.path / "tune" / time.strftime("%Y%m%d-%H%M%S")
        concurrent = concurrency(this, wanted.concurrent)
        this.console.say(f"  {concurrent} at once; rungs of ASHA at {rungs(config) or 'no'} environment steps")
        for number, point in enumerate(points):
            this.console.say(f"  trial {number}: {flags(point)}")
        rows = fit(Shared(config, prepared, application, folder), points, concurrent, this.console)
        return {"application": application, "trials": sorted(rows, key=merit, reverse=True)}

    title = f"Search: {len(points)} trials of {config.training.environment_steps} environment steps"
    found: dict[str, Any] = this.phase("search", title, depends_on, work)
    if any(row["outcome"] == "failed" for row in found["trials"]):
        this.forget("search")
    return found


def bundles(learner: LearnerConfig) -> list[dict[str, float]]:
    """What a trial reserves: its own process, and each env runner's, whose place a simulator takes in the end.

    The driver's share is what RLlib reserves for a driver that learns.
    """
    driver = {
        "CPU": max(learner.num_cpus_per_learner, learner.num_cpus_for_driver),
        "GPU": learner.num_gpus_per_learner,
    }
    actor = {"CPU": learner.num_cpus_per_env_runner}
    if learner.actor_resource:
        actor[learner.actor_resource] = 1.0
    return [driver, *(dict(actor) for _ in range(actors(learner)))]


def actors(learner: LearnerConfig) -> int:
    """Processes with a simulator in a trial."""
    return max(1, learner.num_env_runners)


def concurrency(this: Run, wanted: int | None) -> int:
    """How many trials run at once. Raises BadInput where the cluster is too small for one."""
    import ray

    config, there = this.config, ray.cluster_resources()
    needed: dict[str, float] = {}
    for bundle in bundles(config.learner):
        for name, amount in bundle.items():
            needed[name] = needed.get(name, 0.0) + amount
    there["CPU"] = there.get("CPU", 0.0) - config.service.replicas * config.service.num_cpus
    there["GPU"] = there.get("GPU", 0.0) - config.service.replicas * config.service.num_gpus
    room = min(int(there.get(name, 0.0) / amount + 1e-6) for name, amount in needed.items() if amount > 0)
    if room < 1:
        shown = {name: round(there.get(name, 0.0), 2) for name in needed}
        raise BadInput("cluster", shown, f"give what a trial needs beside the service, {needed}, or ask for less")
    return wanted or room


def rungs(config: ExperimentConfig) -> list[int]:
    """Environment steps at which ASHA compares trials, each twice as late as the one before.

    The first is late, because a policy falls below its clone while its critics are young: after a quarter of the budget,
    and thrice the steps that are acted before learning starts. None is in the last iteration, where nothing is saved.
    """
    grace = max(3 * config.learner.learning_starts, config.training.environment_steps // 4)
    latest = config.training.environment_steps - config.learner.steps_per_iteration
    steps = []
    while grace <= latest:
        steps.append(grace)
        grace *= 2
    return steps


def fit(shared: Shared, points: Sequence[Point], concurrent: int, console: Console) -> list[dict[str, Any]]:
    """Run Tune; one row a trial, in their order."""
    # Trials stay where the project's code is found; an interrupted search must not look like a finished one; and Tune says
    # nothing beside this console.
    os.environ |= {"RAY_CHDIR_TO_TRIAL_DIR": "0", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    milestones = rungs(shared.config)
    # A trial that reaches the last step must not be stopped there: it is still to be evaluated.
    scheduler = (
        ASHAScheduler(
            "environment_steps", grace_period=milestones[0], max_t=milestones[-1], reduction_factor=2,
            stop_last_trials=False,
        )
        if milestones
        else None
    )  # fmt: skip
    rows: dict[int, dict[str, Any]] = {}
    tune.Tuner(
        tune.with_resources(
            tune.with_parameters(train_point, shared=shared),
            tune.PlacementGroupFactory(bundles(shared.config.learner)),
        ),
        param_space={"trial": tune.grid_search([{"number": i, "point": point} for i, point in enumerate(points)])},
        tune_config=tune.TuneConfig(
            metric="success",
            mode="max",
            scheduler=scheduler,
            max_concurrent_trials=concurrent,
            trial_dirname_creator=lambda trial: trial_name(trial.config["trial"]["number"]),
        ),
        run_config=tune.RunConfig(
            name=shared.folder.name,
            storage_path=str(shared.folder.parent),
            verbose=0,
            callbacks=[watcher(rows, console)],
        ),
    ).fit()
    return [rows[number] for number in range(len(points))]


def watcher(rows: dict[int, dict[str, Any]], console: Console) -> Any:
    """A callback of Tune that says a line for every report and every end, and keeps the trials' latest rows."""
    from ray import tune

    class Watcher(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
            rows[trial.config["trial"]["number"]] = row(trial.config["trial"], result)
            if "success_final" not in result:
                console.say("  " + progress_line(trial.config["trial"]["number"], result))

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            console.say("  " + end_line(rows[trial.config["trial"]["number"]]))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            error = Path(trial.error_file).read_text() if trial.error_file else "no message"
            number = trial.config["trial"]["number"]
            rows[number] = row(trial.config["trial"], trial.last_result, error)
            console.say("  " + end_line(rows[number]))

    return Watcher()


# A trial, in a process of its own.


@dataclass(frozen=True)
class Shared:
    """What all trials of a search have in common.

    Args:
        config: the settings that a point changes.
        prepared: paths on storage that every node can read.
        application: name of the reward service.
        folder: where the trials' folders lie.
    """

    config: ExperimentConfig
    prepared: Prepared
    application: str
    folder: Path


def trial_name(number: int) -> str:
    """The name of a trial's folder."""
    return f"trial_{number:03d}"


def train_point(trial: dict[str, Any], shared: Shared) -> None:
    """Tune's function: label the demonstrations, train, evaluate, and report along the way."""
    from ray import tune

    from experiments.training import build_algorithm, train

    point, prepared = trial["trial"], shared.prepared
    config, folder = at_point(shared.config, point["point"]), shared.folder / trial_name(point["number"])
    folder.mkdir(parents=True, exist_ok=True)
    transitions, policy = folder / "policy_demonstrations.npz", folder / "policy.safetensors"
    labelled = label(config, shared, transitions)
    curve: list[dict[str, Any]] = []

    def on_point(point: dict[str, Any]) -> None:
        curve.append(point)
        tune.report(figures(curve, labelled))

    algorithm = build_algorithm(
        config, shared.application, prepared.model.reference, transitions, prepared.cloned.path, folder / "records"
    )
    try:
        train(algorithm, config, policy, Console(), on_point=on_point)
    finally:
        algorithm.stop()
    tune.report({**figures(curve, labelled), "success_final": held_out_success(config, policy)})


def label(config: ExperimentConfig, shared: Shared, out: Path) -> int:
    """Label the policy's demonstrations as this trial labels what it acts; returns how many frames were asked for."""
    from actors.labeller import Labeller
    from dopamine_rl.episodes.stride import at_stride
    from experiments import episodes, phases
    from learner.demonstrations import replay_episode, save_demonstrations
    from reward_service.client import ServeRewardClient

    recorded = episodes.read_all(shared.prepared.policy_episodes)
    demonstrations = [at_stride(d, config.env.stride) for d in recorded if d.success]
    patient = replace(phases.labeller_config(config), deadline_s=120.0)
    labeller = Labeller(patient, ServeRewardClient(shared.application))
    room = config.service.max_queued_requests
    columns = phases.label_demonstrations(demonstrations, labeller, shared.prepared.model.reference, room)
    save_demonstrations(out, [replay_episode(d, c) for d, c in zip(demonstrations, columns, strict=True)])
    return sum(len(d.frames) - 1 for d in demonstrations)


def figures(curve: Sequence[dict[str, Any]], labelled: int) -> dict[str, Any]:
    """What a trial reports at the latest point of its curve. Tune ends where a metric is missing: before the first episode
    has ended, success is 0 of 0."""
    from experiments.report import recent_success

    point, rate = curve[-1], recent_success(curve, len(curve) - 1)
    names = ("environment_steps", "episodes", "updates", "asked", *OUTCOMES)
    return {
        "success": rate.mean if rate else 0.0,
        "success_episodes": rate.n if rate else 0,
        "demonstration_frames": labelled,
        **{name: point[name] for name in names},
    }


def held_out_success(config: ExperimentConfig, policy: Path) -> float:
    """Success on the development seeds; the simulators take the env runners' places."""
    from experiments.episodes import trial_seeds
    from experiments.workers import Job, PolicySpec, WorkerPool

    jobs = [Job("evaluate", (PolicySpec("network", policy), seed)) for seed in trial_seeds(config)]
    blind = replace(config.env, views=(), oracle=False)
    pool = WorkerPool(blind, actors(config.learner), config.learner.num_cpus_per_env_runner)
    try:
        won = [bool(outcome["success"]) for outcome in pool.map(jobs, Console(), "episodes")]
    finally:
        pool.close()
    return sum(won) / len(won)


# What came of it.


def row(trial: dict[str, Any], last: Mapping[str, Any], error: str | None = None) -> dict[str, Any]:
    """What sweep.json holds of a trial.

    Args:
        trial: number and point.
        last: its last report; empty where it made none.
        error: text of what it failed with.
    """
    final = last.get("success_final")
    labels = {name: int(last.get(name, 0)) for name in ("asked", *OUTCOMES)}
    return {
        "trial": trial["number"],
        "point": trial["point"],
        "outcome": "failed" if error is not None else "finished" if final is not None else "stopped early",
        "stopped_early": error is None and final is None,
        "success_final": final,
        "success": last.get("success"),
        "success_episodes": last.get("success_episodes", 0),
        "environment_steps": int(last.get("environment_steps", 0)),
        "updates": int(last.get("updates") or 0),
        "seconds": round(float(last.get("time_total_s", 0.0)), 1),
        "labels": {**labels, "closed": labels["asked"] == sum(labels[name] for name in OUTCOMES)},
        "demonstration_frames": int(last.get("demonstration_frames", 0)),
        "error": None if error is None else last_line(error),
    }


def last_line(text: str) -> str:
    """The last line that says anything; a traceback ends with its error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def merit(row: Mapping[str, Any]) -> tuple[bool, bool, float, float]:
    """Larger for better trials: finished ones before those stopped early before failed ones, each by success."""
    final = row["success_final"] is not None
    return row["error"] is None, final, row["success_final"] if final else 0.0, row["success"] or 0.0


def progress_line(number: int, result: Mapping[str, Any]) -> str:
    """What is said of a report."""
    return (
        f"trial {number}: {result['environment_steps']:>6} environment steps | success {result['success']:.2f} of the last "
        f"{result['success_episodes']} | labels {result['answered']}/{result['asked']}"
    )


def end_line(row: Mapping[str, Any]) -> str:
    """What is said of a trial's end."""
    if row["outcome"] == "finished":
        tail = f"success {row['success_final']:.2f} on held-out seeds"
    else:
        tail = row["error"] or "others were further"
    return f"trial {row['trial']} {row['outcome']} after {row['environment_steps']} environment steps: {tail}"


HEADER = ("trial", "fusion", "stride", "gamma", "updates/step", "held-out", "training", "env. steps", "labels", "outcome")


def cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table's text, a list a trial, in the order of HEADER."""

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    names = ("fusion.kind", "env.stride", "gamma", "learner.updates_per_step")
    table = []
    for row in rows:
        labels = row["labels"]
        lost = "".join(f", {labels[name]} {name}" for name in OUTCOMES[1:] if labels[name])
        table.append(
            [
                str(row["trial"]),
                *(f"{value:g}" if isinstance(value, float) else str(value) for value in map(row["point"].get, names)),
                shown(row["success_final"]),
                f"{shown(row['success'])} ({row['success_episodes']})",
                str(row["environment_steps"]),
                f"{labels['answered']}/{labels['asked']}{lost}",
                row["outcome"] if row["error"] is None else f"failed: {row['error']}",
            ]
        )
    return table


def aligned(header: Sequence[str], table: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines whose columns stand below one another."""
    lines = [list(header), *map(list, table)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def page(report: Mapping[str, Any]) -> str:
    """The sweep as a page."""
    table = [HEADER, ["---"] * len(HEADER), *cells(report["trials"])]
    rows = "\n".join("| " + " | ".join(text.replace("|", "/") for text in line) + " |" for line in table)
    first, last = report["seeds"]["held_out"]
    best, count = report["trials"][0], last - first + 1
    return f"""# Sweep: {report["name"]}

{rows}

Sorted by success of the trained policy on {count} held-out development episodes; trials that ASHA stopped have none and
follow by their success while training (in brackets: over how many of the latest episodes). Trial 0 is the preset. The
cloned policy that all begin with succeeds in {report["clone_success"]:.2f} of the same {count} episodes.

Shared by all trials: demonstrations, cloned policy, and reward model {report["model_version"]}
({"its gate was passed" if report["gate_passed"] else "its gate was NOT passed, --force was given"}), served once as the
application `{report["application"]}`. Labels: answered of asked frames; each frame asked for is answered, invalid, late or
rejected.

Seeds: held-out episodes {first} to {last}, which the size of the cloned policy was chosen on too and which are not those
of the main job's evaluation; training {report["seeds"]["training"]} in every trial; points drawn from
{report["seeds"]["search"]}. The best of several trials on {count} episodes is a lucky one: measure it by the main job,

    python experiments/peg_insert.py {flags(best["point"])}

which records its demonstrations, and trains and judges its reward model, at that stride and with that fusion.
"""


if __name__ == "__main__":
    # By its module's name, which the trials' processes can import it by.
    from experiments import sweep

    sweep.main()
