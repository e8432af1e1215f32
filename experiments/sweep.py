"""Searches for better settings of the main job with Ray Tune. All trials share one reward model and one service.

    dopamine sweep --preset smoke --trials 4
    ray job submit --working-dir . -- python experiments/sweep.py --trials 16 --storage /shared/runs

The demonstrations, the cloned policy and the reward model are made once, or reused if --out is a run of the main
job with the same settings. Each trial relabels the policy's demonstrations and trains with its own fusion,
stride, discount and number of updates. The first trial is the preset itself. ASHA stops weak trials early; the
others are evaluated on held-out development seeds.

Results are sweep.json and sweep.md in STORAGE/NAME_sweep (or --out); Ray Tune's files are in tune/. Completed
phases are reused. A search that was interrupted, or in which a trial failed, starts over with the same reward
model. The last line is JSON. Exit status 1: every trial failed; 3: the reward model failed its gate (see --force).

A trial uses one process for the learner and one for each env runner, in one placement group: it starts with all
of them or waits. On two cores trials run one by one, about 52 s each with the smoke preset, of which 27 s pass
before the first update. Two at once (--learner.num-cpus-per-learner 0.25) take 28 % less time in total. Acting in
the learner's process (--learner.num-env-runners 0) starts 8 s sooner but trains slower: 40 s instead of 27 s at 4
updates per step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if not __package__:  # started by its path: sys.path starts with this folder, not with the project's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dopamine_rl.config import dump_toml
from dopamine_rl.errors import DopamineError, require, seed_check
from dopamine_rl.process_log import DRIVER_LOG, driver_log
from dopamine_rl.texts import counted
from experiments.job.capacity import bundles, concurrency
from experiments.reports.tables import aligned
from experiments.runtime.arguments import RunArguments, option, parse_settings
from experiments.runtime.console import Console
from experiments.runtime.ending import UsageError, command, interruptible
from experiments.runtime.storage import RunFolder
from experiments.settings import ExperimentConfig, check_run
from experiments.sweeps.report import HEADER, cells, end_line, merit, page, progress_line, row
from experiments.sweeps.space import Point, flags, rungs, sample
from experiments.sweeps.trial import Shared, train_point, trial_name

if TYPE_CHECKING:
    from experiments.job.prepared import Prepared
    from experiments.job.run import Run

INTERRUPTED = "Interrupted. The reward model is saved; run the same command again to restart the search."


@dataclass(frozen=True)
class SearchArguments(RunArguments):
    """The arguments of a run and of the search."""

    trials: Annotated[int, option("N")] = 8
    """Number of trials."""
    concurrent: Annotated[int | None, option("N", "as many as the cluster's CPUs allow")] = None
    """Number of trials that run at once."""
    seed_of_search: Annotated[int, option("N")] = 0
    """Random seed for the settings of the trials."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("trials", self.trials >= 1, "give at least 1"),
            ("concurrent", self.concurrent is None or self.concurrent >= 1, "give at least 1"),
            seed_check("seed_of_search", self.seed_of_search),
        )


Arguments, Settings = SearchArguments, ExperimentConfig


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the sweep and print its summary."""
    arguments, config = parse_settings(Arguments, Settings, argv, "dopamine sweep", __doc__)
    if config.reward not in ("grm", "naive"):
        raise UsageError("reward", config.reward, "give grm or naive: a sweep needs a reward model")
    if config.success != "env":
        raise UsageError("success", config.success, "give env: a sweep chooses settings by the simulator's success")
    check_run(config)
    folder = RunFolder.resolve(arguments.out, arguments.storage, f"{config.name}_sweep")
    with interruptible(INTERRUPTED):
        summary = run(folder, config, arguments)
    print(json.dumps(summary), flush=True)
    if summary["best"] is None:
        raise DopamineError(f"every trial failed: see the errors in {folder.place}/sweep.md")


def run(folder: RunFolder, config: ExperimentConfig, arguments: SearchArguments) -> dict[str, Any]:
    """Prepare the reward model, search, and write sweep.json and sweep.md.

    Returns:
        trials: the number of trials; best: the row of the best, None if all failed; wall_s.
    Raises:
        GateRefused: the reward model failed its gate and `arguments.force` is False.
    """
    from dopamine_rl.provenance import provenance
    from experiments.job.run import Run
    from experiments.runtime.cluster import ray_cluster
    from experiments.runtime.resume import only_run

    console = Console()
    name = folder.path.name
    with (
        only_run(folder, arguments.fresh, console.progress),
        driver_log(folder.path / DRIVER_LOG, name),
        ray_cluster(config.cluster, run=name),
        interruptible(INTERRUPTED),
    ):
        import ray

        concurrent = concurrency(config, ray.cluster_resources(), arguments.concurrent)
        console.say(f"Sweep of {config.name}: {counted(arguments.trials, 'trial')}, results in {folder.place}")
        try:
            with Run(config, folder, console, arguments.preset) as this:
                folder.write_text("config.toml", dump_toml(config))
                report = prepare_and_search(this, arguments, concurrent)
            report["provenance"] = provenance(preset=arguments.preset, seed=config.seed)
            report |= {"phase_seconds": console.phase_seconds, "wall_s": round(console.elapsed_s, 1)}
            folder.write_json("sweep.json", report)
            folder.write_text("sweep.md", page(report))
        finally:
            folder.publish()
    rows = report["trials"]
    for line in aligned([HEADER, *map(cells, rows)]).splitlines():
        console.say(line)
    console.say(f"Done: {folder.place}/sweep.md")
    return {"trials": len(rows), "best": rows[0] if rows[0]["error"] is None else None, "wall_s": report["wall_s"]}


def prepare_and_search(this: Run, arguments: SearchArguments, concurrent: int) -> dict[str, Any]:
    """Make and check the reward model, then search; the entries of sweep.json that come from them. Raises
    GateRefused."""
    from experiments.job import phases
    from experiments.job.gate import GateRefused, gate, refusal

    prepared = phases.prepare(this)
    _, verdict = gate(this, prepared)
    if not verdict.passed and not arguments.force:
        raise GateRefused(refusal(verdict))
    outcome = search(this, prepared, arguments, concurrent)
    return {
        **outcome,
        **conditions(this.config, prepared, arguments.seed_of_search),
        "gate_passed": verdict.passed,
    }


def conditions(config: ExperimentConfig, prepared: Prepared, seed: int) -> dict[str, Any]:
    """The conditions shared by all trials, for sweep.json."""
    from experiments.job.plans import trial_seeds

    held_out = trial_seeds(config)
    return {
        "name": config.name,
        "reward": config.reward,
        "model_version": prepared.model.version if prepared.model else None,
        "clone_success": max(prepared.cloned.trials.values()),
        "seeds": {"search": seed, "training": config.seed, "held_out": [held_out[0], held_out[-1]]},
    }


def search(this: Run, prepared: Prepared, arguments: SearchArguments, concurrent: int) -> dict[str, Any]:
    """Run the search phase, or reuse it if it is complete and no trial failed.

    Returns:
        application: the service's name; trials: their rows, the best first.
    """
    config, model = this.config, prepared.model
    assert model is not None
    points = sample(config, arguments.trials, arguments.seed_of_search)
    depends_on = (
        points,
        config.env,
        config.reward,
        config.seed,
        config.fusion,
        config.learner,
        config.training,
        config.labels,
        config.demonstrations,
        config.service,
        config.cloning.trials,
        model.version,
        prepared.cloned.version,
    )

    def work() -> dict[str, Any]:
        this.close_pool()  # The simulators are no longer needed; free their CPUs for the trials.
        application, _ = this.service(model.path)
        folder = this.path / "tune" / time.strftime("%Y%m%d-%H%M%S")
        announce(config, points, concurrent, this.console)
        rows = fit(Shared(config, prepared, application, folder), points, concurrent, this.console)
        return {"application": application, "trials": sorted(rows, key=merit, reverse=True)}

    title = f"Search: {counted(len(points), 'trial')} of {config.training.environment_steps} environment steps"
    outcome: dict[str, Any] = this.phase("search", title, depends_on, work)
    if any(row["error"] is not None for row in outcome["trials"]):
        this.forget("search")
    return outcome


def announce(config: ExperimentConfig, points: Sequence[Point], concurrent: int, console: Console) -> None:
    """Print the schedule and the settings of every trial."""
    steps = rungs(config)
    halving = f"ASHA compares trials after {steps} environment steps" if steps else "no ASHA: the budget is too small"
    console.say(f"  {counted(concurrent, 'trial')} at once; {halving}")
    for number, point in enumerate(points):
        console.say(f"  trial {number}: {flags(point)}")


def fit(shared: Shared, points: Sequence[Point], concurrent: int, console: Console) -> list[dict[str, Any]]:
    """Run Ray Tune; returns one row per trial, in order."""
    # Trials stay in the folder with the project's code, an interrupted search must not look complete, and only this
    # console prints progress.
    os.environ |= {"RAY_CHDIR_TO_TRIAL_DIR": "0", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    scheduler, steps = None, rungs(shared.config)
    if steps:
        # A trial at its last step must not be stopped: its evaluation is still to come.
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
    """Ray Tune's callback: prints a line for every report and every end, and stores each trial's latest row."""
    from ray import tune

    class Watcher(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
            latest = self._store(trial, result)
            if latest["success_final"] is None:
                console.say("  " + progress_line(latest))

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            console.say("  " + end_line(rows[trial.config["trial"]["number"]]))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
            console.say("  " + end_line(self._store(trial, trial.last_result or {}, text)))

        def _store(self, trial: Any, last: Mapping[str, Any], error: str | None = None) -> dict[str, Any]:
            number, point = trial.config["trial"]["number"], trial.config["trial"]["point"]
            rows[number] = row(number, point, last, error)
            return rows[number]

    return Watcher()


if __name__ == "__main__":
    main()
