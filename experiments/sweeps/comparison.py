"""Compare trainings with different rewards and equal budgets: how much does the reward model help?

    dopamine compare --seeds 3
    dopamine compare --seeds 3 --arms grm sparse --preset laptop --out DIR

Demonstrations, cloned policy and, if an arm needs it, the reward model are created once (or reused, if DIR is a
completed run of `dopamine train`). Then every arm is trained with every seed and evaluated on the same unseen seeds.
The arms:

    grm        γΦ' − Φ from the reward model                  the method
    sparse     the simulator's success alone                  a baseline
    naive      Φ' − Φ from the reward model                   not policy-invariant: hovering is rewarded
    oracle     γΦ' − Φ from the simulator's true progress     a diagnostic
    untrained  γΦ' − Φ from an untrained reward model         a negative control

Results: DIR/arms.json, DIR/arms.md (table and learning curves), and one folder per arm and seed in DIR/arms. Completed
phases are reused; --fresh starts again. The last line is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from dopamine_rl.errors import MAX_SEED, require
from dopamine_rl.grm.folder import usable_model
from dopamine_rl.texts import counted
from experiments.runtime.arguments import RunArguments, option, parse_settings
from experiments.runtime.console import Console
from experiments.runtime.ending import STOPPED, UsageError, command, interruptible
from experiments.runtime.storage import RunFolder
from experiments.settings import ExperimentConfig
from reward_service.service import check_engine

if TYPE_CHECKING:
    from experiments.job.phases import Prepared
    from experiments.job.run import Run

Arm = Literal["grm", "sparse", "naive", "oracle", "untrained"]
ARMS: tuple[Arm, ...] = get_args(Arm)
LEVEL = 0.8
"""Success rate that defines `environment_steps_to_level`."""


@dataclass(frozen=True)
class ComparisonArguments(RunArguments):
    """Arguments of a run, plus those of the comparison."""

    seeds: Annotated[int, option("N")] = 3
    """Number of trainings per arm, each with its own seed."""
    arms: tuple[Arm, ...] = ARMS
    """Arms to compare."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("seeds", self.seeds >= 1, "give at least 1"),
            ("arms", bool(self.arms), f"give some of {', '.join(ARMS)}"),
        )


Arguments, Settings = ComparisonArguments, ExperimentConfig


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, train every arm, and print the results."""
    arguments, config = parse_settings(Arguments, Settings, argv, "dopamine compare", __doc__)
    if config.seed + arguments.seeds - 1 > MAX_SEED:
        raise UsageError(
            "seed", config.seed, f"give at most {MAX_SEED - arguments.seeds + 1} with --seeds {arguments.seeds}"
        )
    check_engine(config.service)
    if config.sft.start_from and {"grm", "naive"} & set(arguments.arms):
        usable_model(config.sft.start_from, "sft.start_from")
    folder = RunFolder.resolve(arguments.out, arguments.storage, f"{config.name}_arms")
    with interruptible(STOPPED):
        table = run(folder, config, arguments, arguments.arms, arguments.seeds)
    print(json.dumps(table))


def run(
    folder: RunFolder, config: ExperimentConfig, arguments: RunArguments, arms: Sequence[str], seeds: int
) -> dict[str, Any]:
    """Train and compare. Returns, by arm, the pooled success and the gain over the cloned policy."""
    from dopamine_rl.provenance import provenance
    from experiments.job.run import Run
    from experiments.runtime.cluster import ray_cluster
    from experiments.runtime.resume import only_run

    console = Console()
    with only_run(folder, arguments.fresh, console.progress), ray_cluster(config.cluster), interruptible(STOPPED):
        console.say(f"Comparing {', '.join(arms)} with {counted(seeds, 'seed')}; results in {folder.place}")
        config = replace(config, reward="grm" if {"grm", "naive"} & set(arms) else "sparse")
        try:
            with Run(config, folder, console, arguments.preset) as base:
                results = _train_all(base, arms, seeds, arguments.force)
        finally:
            folder.publish()
    table = {arm: pooled(results, arm) for arm in arms}
    origin = provenance(preset=arguments.preset, seed=config.seed)
    folder.write_json("arms.json", {"table": table, "runs": results, "provenance": origin})
    console.attempt("arms.png", lambda: plot(folder.path / "arms.png", results, arms), None)
    folder.write_text("arms.md", markdown(config, table, seeds))
    console.say(f"Done: {folder.place}/arms.md")
    return table


def _train_all(base: Run, arms: Sequence[str], seeds: int, force: bool) -> list[dict[str, Any]]:
    from experiments.job import phases

    prepared = phases.prepare(base)
    verdict = phases.gate(base, prepared)[1] if prepared.model else None
    if verdict is not None and not verdict.passed and not force:
        raise phases.GateRefused(phases.refusal(verdict))
    clone = phases.evaluate(base, {name: phases.policies(base, prepared)[name] for name in ("bc", "straight_push")})
    special = {"untrained": _untrained(base, prepared)} if "untrained" in arms else {}
    results = []
    for seed in range(seeds):
        for arm in arms:
            base.console.say(f"Arm {arm}, seed {seed}")
            result = _train_arm(base, special.get(arm, prepared), arm, base.config.seed + seed)
            results.append({"arm": arm, "seed": base.config.seed + seed, "clone": clone["bc"], **result})
    return results


def _train_arm(base: Run, prepared: Prepared, arm: str, seed: int) -> dict[str, Any]:
    """One training in its own folder; simulators and services are shared with the base run."""
    from experiments.job import phases
    from experiments.job.training import train_policy

    folder = RunFolder(base.path / "arms" / f"{arm}_{seed}")
    folder.path.mkdir(parents=True, exist_ok=True)
    reward: Any = "grm" if arm == "untrained" else arm
    config = replace(base.config, reward=reward, seed=seed)
    run = base.sibling(config, folder)
    trained = train_policy(run, prepared, phases.label(run, prepared))
    outcomes = phases.evaluate(run, {"policy": phases.policies(run, prepared)["policy"]})["policy"]
    names = ("environment_steps", "seconds", "updates", "labels", "shadow", "curve")
    return {"outcomes": outcomes, **{name: trained[name] for name in names}}


def _untrained(base: Run, prepared: Prepared) -> Prepared:
    """The same preparation, with an untrained reward model of the same architecture."""
    from dopamine_rl.grm.checkpoint import save_grm
    from dopamine_rl.grm.model import build_grm
    from dopamine_rl.grm.version import folder_version
    from dopamine_rl.provenance import provenance
    from experiments.job import phases

    path = base.path / "grm_untrained"

    def work() -> str:
        card = {"training": "none: a negative control", "provenance": provenance(preset=base.preset)}
        save_grm(build_grm(base.config.grm), path, card)
        return folder_version(path)

    version = base.phase("untrained", "Untrained reward model (negative control)", base.config.grm, work)
    reference = prepared.model.reference if prepared.model else phases.reference(base)
    return replace(prepared, model=phases.RewardModel(path, version, reference))


def pooled(results: Sequence[dict[str, Any]], arm: str) -> dict[str, Any]:
    """An arm's success over all seeds, and its gain over the cloned policy, paired by episode.

    Returns:
        success, gain (a Rate each), clone (success of the cloned policy), seeds (success of each), and
        environment_steps_to_level: environment steps until the success rate of the last 20 or more training episodes
        reached `LEVEL`, mean over seeds; None if a seed never did.
    """
    from dopamine_rl.metrics import paired_difference, wilson

    runs = [result for result in results if result["arm"] == arm]
    outcomes = [outcome for result in runs for outcome in result["outcomes"]]
    clone_outcomes = [outcome for result in runs for outcome in result["clone"]]
    steps = [count for result in runs if (count := steps_to_level(result["curve"])) is not None]
    return {
        "success": asdict(wilson(sum(outcomes), len(outcomes))),
        "gain": asdict(paired_difference(outcomes, clone_outcomes)),
        "clone": sum(clone_outcomes) / len(clone_outcomes),
        "seeds": [sum(result["outcomes"]) / len(result["outcomes"]) for result in runs],
        "environment_steps_to_level": sum(steps) / len(steps) if len(steps) == len(runs) else None,
    }


def steps_to_level(curve: Sequence[dict[str, Any]]) -> int | None:
    """Environment steps until the success rate of the last 20 or more episodes reaches `LEVEL`; None if never."""
    from experiments.job.report import recent_success

    for i, point in enumerate(curve):
        rate = recent_success(curve, i)
        if rate is not None and rate.n >= 20 and rate.mean >= LEVEL:
            return int(point["environment_steps"])
    return None


def markdown(config: ExperimentConfig, table: dict[str, dict[str, Any]], seeds: int) -> str:
    """The comparison as a Markdown page."""
    rows = "\n".join(
        f"| {arm} | {row['success']['mean']:.2f} ({row['success']['low']:.2f} – {row['success']['high']:.2f}) | "
        f"{row['gain']['mean']:+.2f} ({row['gain']['low']:+.2f} to {row['gain']['high']:+.2f}) | "
        f"{', '.join(f'{value:.2f}' for value in row['seeds'])} | {_steps(row['environment_steps_to_level'])} |"
        for arm, row in table.items()
    )
    clone = next(iter(table.values()))["clone"]
    return f"""# Comparison of rewards: {config.name}

{counted(seeds, "seed")} with {config.training.environment_steps} environment steps each; the same demonstrations,
cloned policy and reward model. Each trained policy is evaluated on the same {config.evaluation.episodes} unseen
episodes. All trainings start from a cloned policy with success rate {clone:.2f}. Success is pooled over seeds, with
Wilson intervals; the gain over the cloned policy is paired by episode (95 % intervals). Last column: environment
steps until the success rate of the last 20 or more training episodes, with exploration, first reached {LEVEL:g}.

| arm | success rate | gain over cloned policy | by seed | environment steps to {LEVEL:g} in training |
| --- | --- | --- | --- | --- |
{rows}

![Success during training](arms.png)

`oracle` uses the simulator's true progress and `untrained` an untrained model: they are diagnostics, not methods.
"""


def _steps(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.0f}"


def plot(path: Path, results: Sequence[dict[str, Any]], arms: Sequence[str]) -> None:
    """Plot success during every training, one colour per arm."""
    from experiments.job.report import recent_success
    from experiments.reports.plots import new_figure

    figure = new_figure(7, 3.6)
    axes = figure.subplots()
    for number, arm in enumerate(arms):
        for result in (result for result in results if result["arm"] == arm):
            rates = [recent_success(result["curve"], i) for i in range(len(result["curve"]))]
            steps = [point["environment_steps"] for point in result["curve"]]
            points = [(step, rate.mean) for step, rate in zip(steps, rates, strict=True) if rate is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=f"C{number}", label=arm, alpha=0.8)
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), fontsize=8)
    axes.set(xlabel="environment steps", ylabel="success during training", ylim=(-0.03, 1.03))
    figure.savefig(path)


if __name__ == "__main__":
    main()
