"""Runs the main job: demonstrations → reward model → gate → reward service → policy → success rates, report and videos.

    dopamine train
    dopamine train --preset smoke --seed 1 --out DIR
    ray job submit --working-dir . -- python experiments/peg_insert.py --preset full --storage /shared/runs

Results are in STORAGE/NAME (or --out): result.json, report.md, videos, checkpoints and the resolved config.toml.
Completed phases are reused: run the same command again to resume after an interruption or crash. --fresh starts
over.

If the reward model fails its gate, the run stops with exit status 3; --force continues anyway. The rewards sparse,
dense and oracle need no reward model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # started by its path: sys.path starts with this folder, not with the project's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dopamine_rl.config import dump_toml
from dopamine_rl.process_log import DRIVER_LOG, driver_log
from experiments.runtime.arguments import RunArguments, parse_settings
from experiments.runtime.console import Console
from experiments.runtime.ending import STOPPED, command, interruptible
from experiments.runtime.storage import RunFolder
from experiments.settings import ExperimentConfig, check_run

if TYPE_CHECKING:
    from dopamine_rl.evaluation.gate import GateReport, Verdict
    from experiments.job.prepared import Prepared
    from experiments.job.run import Run


Arguments, Settings = RunArguments, ExperimentConfig


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the main job and print where the results are."""
    arguments, config = parse_settings(Arguments, Settings, argv, "dopamine train", __doc__)
    check_run(config)
    folder = RunFolder.resolve(arguments.out, arguments.storage, config.name)
    with interruptible(STOPPED):
        run(folder, config, arguments)


def run(folder: RunFolder, config: ExperimentConfig, arguments: RunArguments) -> dict[str, Any]:
    """Run every phase that is not complete yet, and return the content of result.json.

    Raises:
        GateRefused: the reward model failed its gate and `arguments.force` is False.
    """
    from experiments.job.run import Run
    from experiments.runtime.cluster import ray_cluster
    from experiments.runtime.resume import only_run

    console = Console()
    with only_run(folder, arguments.fresh, console.progress), ExitStack() as stack:
        stack.enter_context(driver_log(folder.path / DRIVER_LOG, config.name))
        console.say(f"Run {config.name}: reward {config.reward}, results in {folder.place}")
        (folder.path / "result.json").unlink(missing_ok=True)
        with console.phase("cluster", "Ray"):
            stack.enter_context(ray_cluster(config.cluster, announce=False, run=config.name))
        stack.enter_context(interruptible(STOPPED))
        stack.callback(folder.publish)
        this = stack.enter_context(Run(config, folder, console, arguments.preset))
        folder.write_text("config.toml", dump_toml(config))
        result = complete(this, arguments.force)
    console.say(f"Done: {folder.place}/report.md")
    return result


def complete(this: Run, force: bool) -> dict[str, Any]:
    """All phases in order, then result.json and report.md."""
    from experiments.comparison.contribution import contribution
    from experiments.job import films, phases, report
    from experiments.job.gate import GateRefused, gate, refusal
    from experiments.job.labels import label
    from experiments.job.training import train_policy

    prepared = phases.prepare(this)
    figures, verdict = gate(this, prepared) if prepared.model else (None, None)
    if verdict is not None and not verdict.passed and not force:
        raise GateRefused(refusal(verdict))
    trained = train_policy(this, prepared, label(this, prepared))
    success = phases.evaluate(this, phases.policies(this, prepared))
    videos: list[str] = this.console.attempt("videos", lambda: films.make_films(this, prepared), [])
    claims = phases.claims_of(this, prepared, success) if this.config.success == "progress" else None
    result = summary(this, prepared, figures, verdict, trained, success, claims)
    learned = this.config.reward == "grm" and not this.config.env.make
    words = this.console.attempt("contribution", lambda: contribution(this.preset), "") if learned else ""
    this.console.attempt("report.md", lambda: report.write_report(this.folder, result, verdict, videos, words), None)
    this.folder.write_json("result.json", result)
    return result


def summary(
    this: Run,
    prepared: Prepared,
    figures: GateReport | None,
    verdict: Verdict | None,
    trained: dict[str, Any],
    success: dict[str, list[bool]],
    claims: dict[str, Any] | None,
) -> dict[str, Any]:
    """The content of result.json; entries about the reward model are None if the run has none.

    Args:
        claims: where success is claimed from progress (phases.claims_of); it leads.
    """
    from dopamine_rl import provenance
    from dopamine_rl.metrics import paired_difference, wilson
    from experiments.runtime.ownership import earlier_codes

    config = this.config
    passed = verdict.passed if verdict else None
    gain = paired_difference(success["policy"], success["bc"])
    return {
        "name": config.name,
        "success": config.success,
        "claims": claims,
        "observation": config.env.observation,
        **_eyes(config, this.path / "policy.safetensors"),
        "reward": config.reward,
        "environment": config.env.make or config.env.task,
        "own_environment": bool(config.env.make),
        "progress_reward": config.progress_reward,
        "seed": config.seed,
        **_reward_model(config, prepared),
        **{f"{name}_success": asdict(wilson(sum(won), len(won))) for name, won in success.items()},
        "policy_minus_bc": {"mean": gain.mean, "low": gain.low, "high": gain.high, "n": gain.n},
        "outcomes": success,
        "bc_trials": prepared.cloned.trials,
        "gate": asdict(figures) if figures else None,
        "gate_passed": passed,
        "gate_forced": passed is False,
        "environment_steps": trained["environment_steps"],
        "environment_steps_per_s": trained["environment_steps"] / trained["seconds"],
        "updates": trained["updates"],
        "training_sittings": trained["sittings"],
        "labels": trained["labels"],
        "records": trained["records"],
        "shadow": trained["shadow"],
        "curve": trained["curve"],
        "phase_seconds": this.console.phase_seconds,
        "wall_s": this.console.elapsed_s,
        "provenance": provenance.provenance(preset=this.preset, seed=config.seed),
        "earlier_code": earlier_codes(this.path)[:-1],
    }


def _eyes(config: ExperimentConfig, policy: Path) -> dict[str, Any]:
    """What the trained policy's pictures are, and the version of their encoder; None without pictures."""
    from dopamine_rl.policy import load_eyes

    eyes = load_eyes(policy) if config.env.sees_pictures else None
    return {
        "policy_views": eyes.sight.views if eyes else None,
        "encoder": config.encoder if eyes else None,
        "encoder_version": eyes.saved.version if eyes else None,
    }


def _reward_model(config: ExperimentConfig, prepared: Prepared) -> dict[str, Any]:
    """The reward model's version and training data, each None without one."""
    origin = {
        "model_version": prepared.model.version if prepared.model else None,
        "reward_model_start": config.sft.start_from,
        "reward_model_demonstrations": config.demonstrations.reward_model,
        "reward_model_failures": config.demonstrations.reward_model_failures,
        "reward_model_rollouts": config.demonstrations.reward_model_rollouts,
        "reward_model_practice": config.demonstrations.practice,
        "reward_model_failure_labels": config.sft.failures,
    }
    return origin if prepared.model else dict.fromkeys(origin)


if __name__ == "__main__":
    main()
