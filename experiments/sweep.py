"""A Ray Tune sweep of the main job: many trainings, one reward model, one reward service.

    dopamine sweep --preset smoke --trials 4
    ray job submit --working-dir . -- python experiments/sweep.py --trials 16 --storage /shared/runs

Demonstrations, cloned policy and reward model are made once (or taken over, where --out is a run of the main job with the
same settings); the model passes its gate once and is served once. Every trial labels the policy's demonstrations through
that service and trains with its own fusion, stride, discount and number of updates; ASHA stops those that fall behind, the
others are judged on held-out development seeds. The first trial is the preset itself.

Results: sweep.json and sweep.md in STORAGE/NAME_sweep (or --out), Tune's own below tune/. What is done is kept; a search
that was interrupted, or in which a trial failed, is done anew on what was prepared. The last line is JSON. Exit status 1:
every trial failed; 3: the reward model failed its gate (see --force).

A trial is a process with the learner and one for each env runner, in one placement group: it starts whole or waits. On two
cores trials run one by one, some 52 s each with the smoke preset, 27 of them until the first update; two at once
(--learner.num-cpus-per-learner 0.25) take 28 % less time together. Acting in the learner's process instead
(--learner.num-env-runners 0) starts 8 s sooner and is slower from then on: 40 s instead of 27 at 4 updates a step.
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

if not __package__:  # started by its path: sys.path begins with this folder instead of the project's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dopamine_rl.config import dump_toml
from dopamine_rl.errors import DopamineError, require
from experiments.reports.tables import aligned
from experiments.runtime.arguments import RunArguments, option, parse_settings
from experiments.runtime.console import Console
from experiments.runtime.ending import UsageError, command, interruptible
from experiments.runtime.storage import RunFolder
from experiments.settings import ExperimentConfig
from experiments.sweeps.report import HEADER, cells, end_line, merit, page, progress_line, row
from experiments.sweeps.space import Point, bundles, concurrency, flags, rungs, sample
from experiments.sweeps.trial import Shared, train_point, trial_name

if TYPE_CHECKING:
    from experiments.job.phases import Prepared
    from experiments.job.run import Run

INTERRUPTED = "Interrupted. The same command keeps the reward model and searches anew."


@dataclass(frozen=True)
class SearchArguments(RunArguments):
    """A run's arguments and the search's own."""

    trials: Annotated[int, option("N")] = 8
    """How many trials."""
    concurrent: Annotated[int | None, option("N", "as many as the cluster's CPUs hold")] = None
    """How many of them at once."""
    seed_of_search: Annotated[int, option("N")] = 0
    """What the settings of all trials but the first are drawn from."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("trials", self.trials >= 1, "give at least 1"),
            ("concurrent", self.concurrent is None or self.concurrent >= 1, "give at least 1"),
            ("seed_of_search", self.seed_of_search >= 0, "give at least 0"),
        )


Arguments, Settings = SearchArguments, ExperimentConfig


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, search, and print what came of it."""
    arguments, config = parse_settings(Arguments, Settings, argv, "dopamine sweep", __doc__)
    if config.reward not in ("grm", "naive"):
        raise UsageError("reward", config.reward, "give grm or naive: the trials share a reward service")
    folder = RunFolder.resolve(arguments.out, arguments.storage, f"{config.name}_sweep")
    with interruptible(INTERRUPTED):
        summary = run(folder, config, arguments)
    print(json.dumps(summary), flush=True)
    if summary["best"] is None:
        raise DopamineError(f"every trial failed: {folder.place}/sweep.md names the errors")


def run(folder: RunFolder, config: ExperimentConfig, arguments: SearchArguments) -> dict[str, Any]:
    """Prepare, search, write sweep.json and sweep.md.

    Returns:
        trials: how many; best: the best one's row, None where all failed; wall_s.
    Raises:
        GateRefused: the reward model failed its gate, and `arguments.force` is not given.
    """
    from dopamine_rl.provenance import provenance
    from experiments.job import phases
    from experiments.job.run import Run
    from experiments.runtime.cluster import ray_cluster
    from experiments.runtime.resume import only_run

    console = Console()
    with only_run(folder, arguments.fresh, console.say), ray_cluster(config.cluster), interruptible(INTERRUPTED):
        import ray

        concurrent = concurrency(config, ray.cluster_resources(), arguments.concurrent)
        console.say(f"Sweep of {config.name}: {arguments.trials} trials, results in {folder.place}")
        try:
            with Run(config, folder, console, arguments.preset) as this:
                folder.write_text("config.toml", dump_toml(config))
                prepared = phases.prepare(this)
                _, verdict = phases.gate(this, prepared)
                if not verdict.passed and not arguments.force:
                    raise phases.GateRefused(phases.refusal(verdict))
                found = search(this, prepared, arguments, concurrent)
            report = {**found, **in_common(config, prepared, arguments.seed_of_search), "gate_passed": verdict.passed}
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


def in_common(config: ExperimentConfig, prepared: Prepared, seed: int) -> dict[str, Any]:
    """What sweep.json says of the conditions that all trials shared."""
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
    """The search phase, which is kept unless a trial failed: application (the service's name) and trials (the rows, the best
    first)."""
    config, console, model = this.config, this.console, prepared.model
    assert model is not None
    points = sample(config, arguments.trials, arguments.seed_of_search)
    depends_on = (
        points, config.env, config.reward, config.seed, config.fusion, config.learner, config.training, config.labels,
        config.demonstrations, config.service, config.cloning.trials, model.version, prepared.cloned.version,
    )  # fmt: skip

    def work() -> dict[str, Any]:
        this.pool.close()  # These simulators have done their work, and the trials need the room.
        application, _ = this.service(model.path)
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
            text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
            console.say("  " + end_line(self._keep(trial, trial.last_result or {}, text)))

        def _keep(self, trial: Any, last: Mapping[str, Any], error: str | None = None) -> dict[str, Any]:
            number = trial.config["trial"]["number"]
            rows[number] = row(number, trial.config["trial"]["point"], last, error)
            return rows[number]

    return Watcher()


if __name__ == "__main__":
    main()
