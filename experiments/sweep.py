"""A Ray Tune sweep of the main job: many trainings, one reward model, one reward service.

    python experiments/sweep.py --preset smoke --trials 4
    ray job submit --working-dir . -- python experiments/sweep.py --trials 16 --storage /shared/runs

Demonstrations, cloned policy and reward model are made once (or taken over, where --out is a run of the main job with the
same settings); the model passes its gate once and is served once. Every trial labels the policy's demonstrations through
that service and trains with its own fusion, stride, discount and number of updates; ASHA stops those that fall behind, the
others are judged on held-out development seeds. The first trial is the preset itself.

    --trials N          how many (8)
    --concurrent N      how many at once (as many as the cluster's CPUs hold)
    --seed-of-search N  what the other trials' settings are drawn from (0)

Results: sweep.json and sweep.md in STORAGE/NAME_sweep (or --out), Tune's own below tune/. What is done is kept; a search
that was interrupted, or in which a trial failed, is done anew on what was prepared. The last line is JSON. Exit status 1:
every trial failed; 3: the reward model failed its gate (see --force).

A trial is a process with the learner and one for each env runner, in one placement group: it starts whole or waits. On two
cores trials run one by one, some 52 s each with the smoke preset, 27 of them until the first update; two at once
(--learner.num-cpus-per-learner 0.25) take 28 % less time together. Acting in the learner's process instead
(--learner.num-env-runners 0) starts 8 s sooner and is slower from then on: 40 s instead of 27 at 4 updates a step.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import textwrap
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
"""What a trial is: a value for each setting that is searched, by its dotted name."""
INTERRUPTED = "Interrupted. The same command keeps the reward model and searches anew."
LOST = ("invalid", "late", "rejected")
"""What may become of a frame that is not answered."""


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

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--trials", self.trials, 1),
            ("--concurrent", self.concurrent, 1),
            ("--seed-of-search", self.seed, 0),
        ):
            if value is not None and value < least:
                raise BadInput(name, value, f"give at least {least}")


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
        if config.reward not in ("grm", "naive"):
            raise BadInput("reward", config.reward, "give grm or naive: the trials share a reward service")
        folder = RunFolder.resolve(arguments.out, arguments.storage, f"{config.name}_sweep")
        with interruptible(INTERRUPTED):
            summary = run(folder, config, arguments, wanted)
        print(json.dumps(summary), flush=True)
        if summary["best"] is None:
            raise DopamineError(f"every trial failed: {folder.place}/sweep.md names the errors")
    except DopamineError as error:
        exit_with(error)


# What is searched.


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
    """The preset's own point, then a Latin hypercube of the space: however few, they cover each dimension evenly."""
    dimensions, rng = space(config), np.random.default_rng(seed)
    drawn = trials - 1
    columns = {
        name: [dimension.at(share) for share in (rng.permutation(drawn) + rng.random(drawn)) / max(drawn, 1)]
        for name, dimension in dimensions.items()
    }
    preset = {name: functools.reduce(getattr, name.split("."), config) for name in dimensions}
    return [preset, *({name: column[i] for name, column in columns.items()} for i in range(drawn))]


def at_point(config: ExperimentConfig, point: Point) -> ExperimentConfig:
    """The settings of a trial. Scored frames are not kept: they would fill the disk, and audits are for single runs."""
    for name, value in {**point, "labels.keep_frames": False}.items():
        config = _replaced(config, name.split("."), value)
    return config


def _replaced(section: Any, names: Sequence[str], value: Any) -> Any:
    name, *rest = names
    return replace(section, **{name: _replaced(getattr(section, name), rest, value) if rest else value})


def flags(point: Point) -> str:
    """A point as flags of a command line."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in point.items())


def rungs(config: ExperimentConfig) -> list[int]:
    """Environment steps at which ASHA compares trials, each twice as late as the one before.

    The first is late, because a policy falls below its clone while its critics are young: after a quarter of the budget,
    and thrice the steps that are acted before learning starts. None is in the last iteration, where nothing is saved.
    """
    budget, steps = config.training.environment_steps, []
    rung = max(3 * config.learner.learning_starts, budget // 4)
    while 0 < rung <= budget - config.learner.steps_per_iteration:
        steps.append(rung)
        rung *= 2
    return steps


def bundles(learner: LearnerConfig) -> list[dict[str, float]]:
    """What a trial reserves: for its own process what RLlib reserves for a driver that learns, and for each env runner,
    whose place a simulator takes for the evaluation."""
    driver_cpus = max(learner.num_cpus_per_learner, learner.num_cpus_for_driver)
    actor = {"CPU": learner.num_cpus_per_env_runner}
    if learner.actor_resource:
        actor[learner.actor_resource] = 1.0
    return [{"CPU": driver_cpus, "GPU": learner.num_gpus_per_learner}, *([actor] * simulators(learner))]


def simulators(learner: LearnerConfig) -> int:
    """Processes that a trial has for simulators."""
    return max(1, learner.num_env_runners)


def concurrency(config: ExperimentConfig, cluster: Mapping[str, float], wanted: int | None) -> int:
    """How many trials run at once.

    Args:
        cluster: all resources that there are.
        wanted: at most so many; None for as many as there is room for.
    Raises:
        BadInput: there is no room for one, which Tune would wait for in silence.
    """
    needed: dict[str, float] = {}
    for bundle in bundles(config.learner):
        for name, amount in bundle.items():
            needed[name] = needed.get(name, 0.0) + amount
    taken = {"CPU": config.service.num_cpus, "GPU": config.service.num_gpus}
    free = {name: cluster.get(name, 0.0) - config.service.replicas * taken.get(name, 0.0) for name in needed}
    room = min(int(free[name] / amount + 1e-6) for name, amount in needed.items() if amount > 0)
    if room < 1:
        raise BadInput(
            "cluster resources", free, f"give beside the service what a trial needs, {needed}, or ask for less"
        )
    return min(room, wanted or room)


# The whole, in the driver.


def run(
    folder: RunFolder, config: ExperimentConfig, arguments: RunArguments, wanted: SearchArguments
) -> dict[str, Any]:
    """Prepare, search, write sweep.json and sweep.md.

    Returns:
        trials: how many; best: the best one's row, None where all failed; wall_s.
    Raises:
        GateRefused: the reward model failed its gate, and `arguments.force` is not given.
    """
    from experiments import phases
    from experiments.cluster import ray_cluster
    from experiments.peg_insert import refusal
    from experiments.resume import only_run
    from experiments.run import Run

    console = Console()
    # Again inside, because Ray takes SIGTERM for itself when it starts.
    with only_run(folder), ray_cluster(config.cluster), interruptible(INTERRUPTED):
        import ray

        concurrent = concurrency(config, ray.cluster_resources(), wanted.concurrent)
        console.say(f"Sweep of {config.name}: {wanted.trials} trials, results in {folder.place}")
        try:
            with Run(config, folder, console, arguments.fresh) as this:
                folder.write_text("config.toml", dump_toml(config))
                prepared = phases.prepare(this)
                _, verdict = phases.gate(this, prepared)
                if not verdict.passed and not arguments.force:
                    raise phases.GateRefused(refusal(verdict))
                found = search(this, prepared, wanted, concurrent)
            report = {**found, **in_common(config, prepared, wanted.seed), "gate_passed": verdict.passed}
            report |= {"phase_seconds": console.phase_seconds, "wall_s": round(console.elapsed_s, 1)}
            folder.write_json("sweep.json", report)
            folder.write_text("sweep.md", page(report))
        finally:
            folder.publish()
    rows = report["trials"]
    for line in aligned([HEADER, *map(cells, rows)]):
        console.say("  " + line)
    console.say(f"Done: {folder.place}/sweep.md")
    return {"trials": len(rows), "best": rows[0] if rows[0]["error"] is None else None, "wall_s": report["wall_s"]}


def in_common(config: ExperimentConfig, prepared: Prepared, seed: int) -> dict[str, Any]:
    """What sweep.json says of the conditions that all trials shared."""
    from experiments.episodes import trial_seeds

    held_out = trial_seeds(config)
    return {
        "name": config.name,
        "reward": config.reward,
        "model_version": prepared.model.version,
        "clone_success": max(prepared.cloned.trials.values()),
        "seeds": {"search": seed, "training": config.seed, "held_out": [held_out[0], held_out[-1]]},
    }


def search(this: Run, prepared: Prepared, wanted: SearchArguments, concurrent: int) -> dict[str, Any]:
    """The search phase, which is kept unless a trial failed: application (the service's name) and trials (the rows, the best
    first)."""
    config, console = this.config, this.console
    points = sample(config, wanted.trials, wanted.seed)
    depends_on = (
        points, config.env, config.reward, config.seed, config.fusion, config.learner, config.training, config.labels,
        config.demonstrations, config.service, config.cloning.trials, prepared.model.version, prepared.cloned.version,
    )  # fmt: skip

    def work() -> dict[str, Any]:
        this.pool.close()  # These simulators have done their work, and the trials need the room.
        application, _ = this.service(prepared.model.path)
        folder = this.path / "tune" / time.strftime("%Y%m%d-%H%M%S")
        compared = f"after {rungs(config)} environment steps" if rungs(config) else "never: the budget is too small"
        console.say(f"  {concurrent} at once; ASHA compares them {compared}")
        for number, point in enumerate(points):
            console.say(f"  trial {number}: {flags(point)}")
        rows = fit(Shared(config, prepared, application, folder), points, concurrent, console)
        return {"application": application, "trials": sorted(rows, key=merit, reverse=True)}

    title = f"Search: {len(points)} trials of {config.training.environment_steps} environment steps"
    found: dict[str, Any] = this.phase("search", title, depends_on, work)
    if any(row["error"] is not None for row in found["trials"]):
        this.forget("search")
    return found


def fit(shared: Shared, points: Sequence[Point], concurrent: int, console: Console) -> list[dict[str, Any]]:
    """Run Tune; one row a trial, in their order."""
    # Trials stay where the project's code is found; an interrupted search must not look like a finished one; and Tune says
    # nothing beside this console.
    os.environ |= {"RAY_CHDIR_TO_TRIAL_DIR": "0", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    scheduler, steps = None, rungs(shared.config)
    if steps:
        # A trial at its last step must not be stopped: it is still to be evaluated.
        scheduler = ASHAScheduler(
            "environment_steps", grace_period=steps[0], max_t=steps[-1], reduction_factor=2, stop_last_trials=False
        )
    rows: dict[int, dict[str, Any]] = {}
    trainable = tune.with_parameters(train_point, shared=shared)
    tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory(bundles(shared.config.learner))),
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
    """Tune's callback: says a line for every report and every end, and keeps each trial's latest row."""
    from ray import tune

    class Watcher(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
            latest = self._keep(trial, result)
            if latest["success_final"] is None:
                console.say("  " + progress_line(latest))

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            console.say("  " + end_line(rows[trial.config["trial"]["number"]]))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            text = Path(trial.error_file).read_text() if trial.error_file else ""
            console.say("  " + end_line(self._keep(trial, trial.last_result or {}, text)))

        def _keep(self, trial: Any, last: Mapping[str, Any], error: str | None = None) -> dict[str, Any]:
            told = trial.config["trial"]
            rows[told["number"]] = row(told["number"], told["point"], last, error)
            return rows[told["number"]]

    return Watcher()


# A trial, in a process of its own.


@dataclass(frozen=True)
class Shared:
    """What all trials of a search share.

    Args:
        config: the settings that a point changes.
        prepared: its paths are read by every trial, on whatever node.
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


def train_point(told: dict[str, Any], shared: Shared) -> None:
    """Tune's function: label the demonstrations, train, evaluate, and report along the way."""
    from ray import tune

    from experiments.training import build_algorithm, train

    trial, prepared = told["trial"], shared.prepared
    config, folder = at_point(shared.config, trial["point"]), shared.folder / trial_name(trial["number"])
    folder.mkdir(parents=True, exist_ok=True)
    transitions, policy = folder / "policy_demonstrations.npz", folder / "policy.safetensors"
    labelled = label(config, shared, transitions)
    curve: list[dict[str, Any]] = []

    def on_point(latest: dict[str, Any]) -> None:
        curve.append(latest)
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

    latest, rate = curve[-1], recent_success(curve, len(curve) - 1)
    return {
        "success": rate.mean if rate else 0.0,
        "success_episodes": rate.n if rate else 0,
        "demonstration_frames": labelled,
        **{name: latest[name] for name in ("environment_steps", "updates", "asked", "answered", *LOST)},
    }


def held_out_success(config: ExperimentConfig, policy: Path) -> float:
    """Success on the development seeds; the simulators take the env runners' places."""
    from experiments.episodes import trial_seeds
    from experiments.workers import Job, PolicySpec, WorkerPool

    jobs = [Job("evaluate", (PolicySpec("network", policy), seed)) for seed in trial_seeds(config)]
    blind, learner = replace(config.env, views=(), oracle=False), config.learner
    pool = WorkerPool(blind, simulators(learner), learner.num_cpus_per_env_runner)
    try:
        won = [bool(outcome["success"]) for outcome in pool.map(jobs, Console(), "episodes")]
    finally:
        pool.close()
    return sum(won) / len(won)


# What came of it.


def row(number: int, point: Point, last: Mapping[str, Any], error: str | None = None) -> dict[str, Any]:
    """What sweep.json holds of a trial.

    Args:
        last: its last report; empty where it made none.
        error: text of what it failed with.
    """
    final = last.get("success_final")
    labels = {name: int(last.get(name, 0)) for name in ("asked", "answered", *LOST)}
    return {
        "trial": number,
        "point": point,
        "outcome": "failed" if error is not None else "stopped early" if final is None else "finished",
        "stopped_early": error is None and final is None,
        "success_final": final,
        "success": last.get("success"),
        "success_episodes": last.get("success_episodes", 0),
        "environment_steps": int(last.get("environment_steps", 0)),
        "updates": int(last.get("updates") or 0),
        "seconds": round(float(last.get("time_total_s", 0.0)), 1),
        "labels": {**labels, "closed": labels["asked"] == sum(labels.values()) - labels["asked"]},
        "demonstration_frames": int(last.get("demonstration_frames", 0)),
        "error": None if error is None else last_line(error),
    }


def last_line(text: str) -> str:
    """The last line that says anything; a traceback ends with its error."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "without a message")


def merit(row: Mapping[str, Any]) -> tuple[bool, bool, float, float]:
    """Larger for better trials: finished before stopped early before failed ones, each kind by success."""
    final = row["success_final"]
    return row["error"] is None, final is not None, final or 0.0, row["success"] or 0.0


def progress_line(row: Mapping[str, Any]) -> str:
    """What is said of a report."""
    labels = row["labels"]
    return (
        f"trial {row['trial']}: {row['environment_steps']:>6} environment steps | success {row['success']:.2f} of the last "
        f"{row['success_episodes']} | labels {labels['answered']}/{labels['asked']}{lost(labels)}"
    )


def end_line(row: Mapping[str, Any]) -> str:
    """What is said of a trial's end."""
    finished = row["success_final"] is not None
    what = (
        f"success {row['success_final']:.2f} on held-out seeds" if finished else row["error"] or "others were further"
    )
    return f"trial {row['trial']} {row['outcome']} after {row['environment_steps']} environment steps: {what}"


def brief(row: Mapping[str, Any]) -> str:
    """The beginning of a failed trial's error; sweep.json has all of it, and Tune's folder the traceback."""
    return textwrap.shorten(row["error"] or "", 100, placeholder=" …")


def lost(labels: Mapping[str, int]) -> str:
    """The frames that were not answered, as a continuation of those that were."""
    return "".join(f", {labels[name]} {name}" for name in LOST if labels[name])


HEADER = [
    "trial", "fusion", "stride", "gamma", "updates/step", "held-out", "training", "env. steps", "labels", "outcome",
]  # fmt: skip


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as text, in the order of HEADER."""
    point, labels = row["point"], row["labels"]
    searched = (point.get(name, "–") for name in ("fusion.kind", "env.stride", "gamma", "learner.updates_per_step"))
    final, while_training = ("–" if row[n] is None else f"{row[n]:.2f}" for n in ("success_final", "success"))
    return [
        str(row["trial"]),
        *(f"{value:g}" if isinstance(value, float) else str(value) for value in searched),
        final,
        f"{while_training} of {row['success_episodes']}",
        str(row["environment_steps"]),
        f"{labels['answered']}/{labels['asked']}{lost(labels)}",
        f"{row['outcome']}: {brief(row)}" if row["error"] else row["outcome"],
    ]


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines whose columns stand below one another."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in table]


def page(report: Mapping[str, Any]) -> str:
    """The sweep as a page."""
    rows, seeds = report["trials"], report["seeds"]
    table = [HEADER, ["---"] * len(HEADER), *map(cells, rows)]
    lines = "\n".join("| " + " | ".join(text.replace("|", "/") for text in line) + " |" for line in table)
    (first, last), clone = seeds["held_out"], report["clone_success"]
    count = last - first + 1
    better = any((row["success_final"] or 0.0) > clone for row in rows)
    beaten = "" if better else "; **no trial did better**"
    return f"""# Sweep: {report["name"]}

{lines}

*held-out*: success of the trained policy on {
        count
    } development episodes; a trial that ASHA stopped early has none and is
sorted below the others by its success while *training*, exploration included, over its latest episodes. Trial 0 is the
preset. The cloned policy that all begin with succeeds in {clone:.2f} of the same {count} episodes{beaten}.

- Shared by all trials: demonstrations, cloned policy, and reward model {report["model_version"]}, served once as
  `{report["application"]}`. Its gate was {"passed" if report["gate_passed"] else "NOT passed: --force was given"}.
- Labels: answered of asked frames of the training; every other one was invalid, late or rejected.
- Seeds: held-out episodes {first} to {
        last
    }, on which the size of the cloned policy was chosen too (the main job evaluates on
  others); training {seeds["training"]}, the same in every trial; the points were drawn from {seeds["search"]}.

The best of several trials on {
        count
    } episodes is partly the luckiest. The main job measures it on unseen ones, after it has
recorded, trained and judged with this stride and fusion:

    python experiments/peg_insert.py {flags(rows[0]["point"])}
"""


if __name__ == "__main__":
    # By its module's name, which the trials' processes know it by.
    from experiments import sweep

    sweep.main()
