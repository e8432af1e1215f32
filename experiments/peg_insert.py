"""The main job: demonstrations → reward model → reward service → policy → success rates, report and video.

    python experiments/peg_insert.py --preset smoke
    ray job submit --working-dir . -- python experiments/peg_insert.py --preset smoke

Results lie in STORAGE/NAME (or --out): result.json, report.md, videos, checkpoints, the resolved config.toml.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # started by its path: sys.path begins with this folder instead of the project's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dopamine_rl.config import dump_toml
from dopamine_rl.errors import DopamineError
from experiments.cli import parse_run
from experiments.console import Console
from experiments.settings import ExperimentConfig
from experiments.storage import RunFolder

if TYPE_CHECKING:
    from experiments.phases import DemonstrationSets
    from experiments.workers import WorkerPool


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, run, and say where the results are."""
    try:
        arguments, config = parse_run(ExperimentConfig, argv, "peg_insert", __doc__ or "")
        run(RunFolder.resolve(arguments.out, arguments.storage, config.name), config)
    except DopamineError as error:
        raise SystemExit(f"error: {error}") from error


def run(folder: RunFolder, config: ExperimentConfig) -> dict[str, Any]:
    """Run every phase and return what result.json holds."""
    from experiments.cluster import ray_cluster

    console = Console()
    console.say(f"Run {config.name}: reward {config.reward}, results in {folder.place}")
    for stale in ("result.json", "report.md", *(path.name for path in folder.path.glob("*.mp4"))):
        (folder.path / stale).unlink(missing_ok=True)
    folder.write_text("config.toml", dump_toml(config))
    with ExitStack() as stack:
        with console.phase("cluster", "Ray"):
            stack.enter_context(ray_cluster(config.cluster))
        stack.callback(folder.publish)
        result = _phases(config, folder, console)
        folder.write_json("result.json", result)
    console.say(f"Done: {folder.place}/report.md")
    return result


def _phases(config: ExperimentConfig, folder: RunFolder, console: Console) -> dict[str, Any]:
    from experiments import phases
    from experiments.workers import WorkerPool

    # The simulator's truth is recorded with demonstrations; the report says what is trained on it.
    pool = WorkerPool(replace(config.env, oracle=True), config.simulation.workers, config.simulation.num_cpus)
    try:
        with console.phase("demonstrations", "Demonstrations by a scripted expert"):
            sets = phases.record_demonstrations(config, folder, pool, console)
        with console.phase("reward_model", "Reward model: Ray Train job"):
            checkpoint = phases.train_reward_model(config, folder, sets, console)
        return _with_service(config, folder, console, pool, sets, checkpoint)
    finally:
        pool.close()


def _with_service(
    config: ExperimentConfig,
    folder: RunFolder,
    console: Console,
    pool: WorkerPool,
    sets: DemonstrationSets,
    checkpoint: Path,
) -> dict[str, Any]:
    from dopamine_rl.types import TaskReference
    from experiments import phases, report
    from experiments.training import build_algorithm, train

    with phases.reward_service(config, checkpoint, console) as (app_name, client):
        records = folder.path / "records"
        shutil.rmtree(records, ignore_errors=True)  # of an earlier run, labelled by an earlier model
        reference = TaskReference.of(phases.first_success(phases.read_all(sets.reward_model)))
        with console.phase("gate", "Gate: the reward model on unseen episodes"):
            gate, judged = phases.gate(client, phases.read_all(sets.gate), reference, config)
            report.plot_gate(folder.path / "gate.png", judged)
            console.say("  " + ", ".join(f"{k} {v:.3g}" for k, v in asdict(gate).items()))
        with console.phase("clone", "Policy cloned from demonstrations, which are labelled by the same service"):
            cloned, transitions = phases.clone(config, folder, sets, client, reference)
        with console.phase("train", f"Policy training, reward {config.reward}"):
            algorithm = build_algorithm(config, app_name, reference, transitions, cloned, records)
            try:
                training = train(algorithm, config, folder.path / "policy.safetensors", console)
            finally:
                algorithm.stop()
        with console.phase("evaluate", "Evaluation on unseen seeds"):
            success = phases.evaluate_policies(config, folder, pool, console)
        with console.phase("video", "Videos"):
            videos = phases.make_films(config, folder, pool, client, reference, console)
        result = phases.result(config, client.model_version(10.0), gate, training, success, console)
    report.write_report(folder, result, training["curve"], videos)
    return result


if __name__ == "__main__":
    main()
