"""Compares settings with equal budgets: arms × seeds, each a training of its own, with intervals.

    dopamine compare
    dopamine compare separation --seeds 0 1
    dopamine compare my_study/study.toml --concurrent 4

STUDY is a study that comes with the project, or a file of your own (experiments/comparison/study.py describes it). A
seed draws its own demonstrations, cloned policy, reward model and learner; arms with the same seed share what is equal.
Trainings run side by side under Ray Tune, on one machine or a cluster, and use one reward service per reward model. On
two cores each takes five minutes and more, so the studies that come with the project take hours. On a cluster STORAGE
must be a folder that all nodes share.

The result of every training is a small file in results/ beside the study file (with --out, in that folder), written as
soon as it ends; what lies there is not run again. report.md, report.json and curves.png beside it cover all results so
far. Working files are in STORAGE/compare_STUDY; --fresh deletes them, but no result beside the study file. An
interrupted training resumes from its last checkpoint. A reward model that fails its gate is used all the same, and the
report says so.

The last line is JSON: the figures of every arm, and the units without a result. Exit status 1: a training failed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from dopamine_rl.errors import DopamineError, require
from dopamine_rl.process_log import DRIVER_LOG, driver_log
from dopamine_rl.texts import counted
from experiments.comparison.page import markdown, plot, rows
from experiments.comparison.results import UnitResult, read_result, summarise, write_result
from experiments.comparison.study import Study, Unit, load_study
from experiments.job.capacity import bundles, concurrency
from experiments.reports.tables import aligned
from experiments.runtime.arguments import FolderArguments, option, parse
from experiments.runtime.cluster import in_job
from experiments.runtime.console import Console
from experiments.runtime.ending import command, interruptible
from experiments.runtime.storage import RunFolder
from experiments.settings import ExperimentConfig, check_run

if TYPE_CHECKING:
    from experiments.comparison.unit import SharedInputs, UnitInputs

INTERRUPTED = "Interrupted. Run the same command again: finished trainings are kept, and the others resume."


@dataclass(frozen=True)
class Arguments(FolderArguments):
    """Which study, and how it is run."""

    study: Annotated[Positional[str], option("STUDY")] = "rewards"
    """Name of a study, or a study file."""
    arms: Annotated[tuple[str, ...], option("ARM …", "all of the study")] = ()
    """Arms to run."""
    seeds: Annotated[tuple[int, ...], option("N …", "those of the study")] = ()
    """Seeds to run."""
    concurrent: Annotated[int | None, option("N", "as many as the cluster's CPUs allow")] = None
    """Number of trainings that run at once."""
    out: Annotated[str | None, option("DIR", "beside the study file, and STORAGE/compare_STUDY")] = None
    """Folder of results and working files."""
    report: bool = False
    """Only write the report of the results so far."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("seeds", all(seed >= 0 for seed in self.seeds), "give whole numbers, 0 or more"),
            ("concurrent", self.concurrent is None or self.concurrent >= 1, "give at least 1"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the units without a result, then write the report."""
    arguments = parse(Arguments, argv, "dopamine compare", __doc__)
    study = load_study(arguments.study)
    units = list(study.units(arguments.arms, arguments.seeds))
    for unit in units:
        check_run(unit.config)
    folder = RunFolder.resolve(arguments.out, arguments.storage, f"compare_{study.name}")
    home = _home(study, folder, arguments.out)
    missing = [unit for unit in units if read_result(home, study, unit) is None]
    failed: list[str] = []
    if missing and not arguments.report:
        with interruptible(INTERRUPTED):
            failed = run(study, missing, folder, home, arguments)
    summary, text = write_report(study, home)
    print(text)
    print(json.dumps(summary))
    if failed:
        raise DopamineError(f"trainings failed: {', '.join(failed)}; their errors are above. The others are reported.")


def _home(study: Study, folder: RunFolder, out: str | None) -> Path:
    """Where results are kept: beside the study file, if that lasts and is ours to write."""
    beside = study.path.parent
    return folder.path if out or in_job() or not os.access(beside, os.W_OK) else beside


def run(study: Study, missing: Sequence[Unit], folder: RunFolder, home: Path, arguments: Arguments) -> list[str]:
    """Run units, seed by seed, as many at once as fit. Returns the names of those that failed."""
    from experiments.runtime.cluster import ray_cluster
    from experiments.runtime.resume import only_run

    console = Console()
    failed: list[str] = []
    with (
        only_run(folder, arguments.fresh, console.progress),
        driver_log(folder.path / DRIVER_LOG, study.name),
        ray_cluster(missing[0].config.cluster, run=study.name),
        interruptible(INTERRUPTED),
    ):
        import ray

        console.say(f"Study {study.name}: {counted(len(missing), 'training')} to run; results in {home}")
        while missing:
            at_once = concurrency(missing[0].config, ray.cluster_resources(), arguments.concurrent)
            group = _group(missing, at_once)
            missing = [unit for unit in missing if unit not in group]
            try:
                failed += _run_group(study, group, folder, home, arguments, console)
            finally:
                folder.publish()
    return failed


def _group(units: Sequence[Unit], at_once: int) -> list[Unit]:
    """The units of the first seeds, enough of them to use the whole cluster."""
    group: list[Unit] = []
    for seed in dict.fromkeys(unit.seed for unit in units):
        if len(group) >= at_once:
            break
        group += [unit for unit in units if unit.seed == seed]
    return group


def _run_group(
    study: Study, group: Sequence[Unit], folder: RunFolder, home: Path, arguments: Arguments, console: Console
) -> list[str]:
    """Prepare what the units share, then train them. Returns the names of those that failed."""
    from experiments.comparison import unit as units

    shared: dict[str, SharedInputs] = {}
    inputs: dict[str, UnitInputs] = {}
    configs = {unit.name: units.shared_config(unit.config, study.stride) for unit in group}
    keys = {name: units.shared_key(config) for name, config in configs.items()}
    with ExitStack() as stack:
        for unit in group:
            key = keys[unit.name]
            if key not in shared:
                alike = [config for name, config in configs.items() if keys[name] == key]
                shared[key] = _prepare(stack, alike, folder.path / "prepared" / key, study, console)
            inputs[unit.name] = units.prepare_unit(
                unit, shared[key], folder.path / "units" / unit.name, study.preset, study.curve
            )

        def keep(name: str, result: dict[str, Any]) -> None:
            unit = next(unit for unit in group if unit.name == name)
            write_result(home, study, unit, _with_clone(result, shared[keys[name]], study, unit))
            console.attempt("report.md", lambda: write_report(study, home), None)

        services = len([one for one in shared.values() if one.prepared.model])
        return _fit(inputs, study, keep, arguments.concurrent, services, console)


def _prepare(
    stack: ExitStack, configs: Sequence[ExperimentConfig], path: Path, study: Study, console: Console
) -> SharedInputs:
    """Prepare what units with these settings share."""
    from experiments.comparison.unit import prepare_shared
    from experiments.job.run import Run

    config = configs[0]
    path.mkdir(parents=True, exist_ok=True)
    console.say(f"Inputs of seed {config.seed}, {'with' if config.reward == 'grm' else 'without'} a reward model")
    run = stack.enter_context(Run(config, RunFolder(path), console, study.preset))
    try:
        return prepare_shared(run, study.curve, configs)
    finally:
        run.close_pool()


def _with_clone(result: dict[str, Any], shared: SharedInputs, study: Study, unit: Unit) -> dict[str, Any]:
    """A unit's result with the curve's first point, the gate and the provenance."""
    from dopamine_rl.provenance import provenance
    from experiments.comparison.unit import digits

    first = {"environment_steps": 0, "outcomes": digits(shared.clone)}
    origin = provenance(preset=study.preset, seed=unit.seed)
    return {**result, "curve": [first, *result["curve"]], "gate": shared.gate(unit.config), "provenance": origin}


def _fit(
    inputs: dict[str, UnitInputs], study: Study, keep: Any, wanted: int | None, services: int, console: Console
) -> list[str]:
    """Run Ray Tune over the units; `keep` gets every result. Returns the names of the units that failed."""
    # Trials stay in the folder with the project's code, and only this console prints progress.
    os.environ |= {"RAY_CHDIR_TO_TRIAL_DIR": "0", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    import ray
    from ray import tune

    from experiments.comparison.unit import run_unit

    first = next(iter(inputs.values()))
    cluster = ray.cluster_resources()
    at_once = min(concurrency(this.unit.config, cluster, wanted, services) for this in inputs.values())
    console.say(f"Training: {counted(len(inputs), 'unit')}, {at_once} at once")
    failed: list[str] = []
    trainable = tune.with_parameters(run_unit, inputs=inputs)

    def resources(trial_config: dict[str, Any]) -> Any:
        return tune.PlacementGroupFactory(bundles(inputs[trial_config["unit"]].unit.config.learner))

    tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={"unit": tune.grid_search(list(inputs))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=at_once, trial_dirname_creator=lambda trial: trial.config["unit"]
        ),
        run_config=tune.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=str(first.folder.parent.parent / "tune"),
            verbose=0,
            callbacks=[_watcher(keep, failed, console)],
        ),
    ).fit()
    return failed


def _watcher(keep: Any, failed: list[str], console: Console) -> Any:
    """Ray Tune's callback: prints progress, and keeps every result as soon as it arrives."""
    from ray import tune

    class Watcher(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
            name, recent = trial.config["unit"], result["recent_success"]
            success = "" if recent is None else f" | success {recent:.2f} while training"
            steps = f"{result['environment_steps']:>6} environment steps | {result['environment_steps_per_s']:.0f}/s"
            if "result" in result:
                keep(name, result["result"])
                final = result["result"]["final"]
                success = f" | done: success {final.count('1') / len(final):.2f} on {len(final)} held-out episodes"
            console.say(f"  {name}: {steps}{success}")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "no message"
            failed.append(trial.config["unit"])
            console.say(f"  {failed[-1]} FAILED: {text.strip().splitlines()[-1]}")

    return Watcher()


def write_report(study: Study, home: Path) -> tuple[dict[str, Any], str]:
    """Write the report of all results so far; returns the content of report.json, and the table as text."""
    units = list(study.units())
    found: dict[str, UnitResult | None] = {unit.name: read_result(home, study, unit) for unit in units}
    results = [result for result in found.values() if result is not None]
    missing = [name for name, result in found.items() if result is None]
    table = summarise(results, list(study.arms), study.baseline)
    summary = {"study": study.name, "baseline": study.baseline, "arms": table, "missing": missing}
    if table:
        report = RunFolder(home)
        plot(home / "curves.png", results, list(study.arms))
        report.write_text("report.md", markdown(study, table, missing))
        report.write_json("report.json", summary)
    return summary, aligned(rows(table)) if table else "No results yet."


if __name__ == "__main__":
    main()
