"""The same training under different rewards, with equal budgets: what is the reward model worth?

    dopamine compare --seeds 3
    dopamine compare --seeds 3 --arms grm sparse --preset laptop --out DIR

Demonstrations, cloned policy and, where an arm asks it, the reward model are made once (or taken over, where DIR is a
finished run of the main job); then every arm is trained with every seed, and all are evaluated on the same unseen seeds.
The arms:

    grm        γΦ' − Φ from the reward model                     the method
    sparse     the simulator's success alone                     a baseline
    naive      Φ' − Φ from the reward model                      the semantic trap: hovering pays
    oracle     γΦ' − Φ from the simulator's truth                a diagnostic, not a method
    untrained  γΦ' − Φ from a reward model that never learned    a negative control

Results: DIR/arms.json, DIR/arms.md with the table and the curves, one folder an arm and seed below DIR/arms. What is done is
kept; --fresh begins anew. The last line is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from dopamine_rl.errors import require
from experiments.runtime.arguments import RunArguments, option, parse_settings
from experiments.runtime.console import Console
from experiments.runtime.ending import STOPPED, command, interruptible
from experiments.runtime.storage import RunFolder
from experiments.settings import ExperimentConfig

if TYPE_CHECKING:
    from experiments.job.phases import Prepared
    from experiments.job.run import Run

Arm = Literal["grm", "sparse", "naive", "oracle", "untrained"]
ARMS: tuple[Arm, ...] = get_args(Arm)
LEVEL = 0.8
"""Success that an arm must reach for its environment steps to be compared."""


@dataclass(frozen=True)
class ComparisonArguments(RunArguments):
    """A run's arguments and the comparison's own."""

    seeds: Annotated[int, option("N")] = 3
    """How many trainings of every arm, each with a seed of its own."""
    arms: tuple[Arm, ...] = ARMS
    """Which arms."""

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
    """Parse the command line, train every arm, and say where the comparison is."""
    arguments, config = parse_settings(Arguments, Settings, argv, "dopamine compare", __doc__)
    folder = RunFolder.resolve(arguments.out, arguments.storage, f"{config.name}_arms")
    with interruptible(STOPPED):
        table = run(folder, config, arguments, arguments.arms, arguments.seeds)
    print(json.dumps(table))


def run(
    folder: RunFolder, config: ExperimentConfig, arguments: RunArguments, arms: Sequence[str], seeds: int
) -> dict[str, Any]:
    """Train and compare; returns what the last line says: by arm its pooled success and its gain over the clone."""
    from dopamine_rl.provenance import provenance
    from experiments.job.run import Run
    from experiments.runtime.cluster import ray_cluster
    from experiments.runtime.resume import only_run

    console = Console()
    with only_run(folder, arguments.fresh, console.say), ray_cluster(config.cluster), interruptible(STOPPED):
        console.say(f"Arms {', '.join(arms)} with {seeds} seed(s), results in {folder.place}")
        config = replace(config, reward="grm" if {"grm", "naive"} & set(arms) else "sparse")
        try:
            with Run(config, folder, console, arguments.preset) as base:
                results = _train_all(base, arms, seeds, arguments.force)
        finally:
            folder.publish()
    table = {arm: pooled(results, arm) for arm in arms}
    made = provenance(preset=arguments.preset, seed=config.seed)
    folder.write_json("arms.json", {"table": table, "runs": results, "provenance": made})
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
    prepared_of = {"untrained": _untrained(base, prepared)} if "untrained" in arms else {}
    results = []
    for seed in range(seeds):
        for arm in arms:
            base.console.say(f"Arm {arm}, seed {seed}")
            result = _train_arm(base, prepared_of.get(arm, prepared), arm, base.config.seed + seed)
            results.append({"arm": arm, "seed": base.config.seed + seed, "clone": clone["bc"], **result})
    return results


def _train_arm(base: Run, prepared: Prepared, arm: str, seed: int) -> dict[str, Any]:
    """One training in a folder of its own; simulators and services are the base run's."""
    from experiments.job import phases
    from experiments.job.training import train_policy

    folder = RunFolder(base.path / "arms" / f"{arm}_{seed}")
    folder.path.mkdir(parents=True, exist_ok=True)
    reward: Any = "grm" if arm == "untrained" else arm
    config = replace(base.config, reward=reward, seed=seed)
    this = base.sibling(config, folder)
    trained = train_policy(this, prepared, phases.label(this, prepared))
    outcomes = phases.evaluate(this, {"policy": phases.policies(this, prepared)["policy"]})["policy"]
    names = ("environment_steps", "seconds", "updates", "labels", "shadow", "curve")
    return {"outcomes": outcomes, **{name: trained[name] for name in names}}


def _untrained(base: Run, prepared: Prepared) -> Prepared:
    """The same preparation with a reward model of the same shape that made no update."""
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

    version = base.phase("untrained", "An untrained reward model, as a negative control", base.config.grm, work)
    reference = prepared.model.reference if prepared.model else phases.reference(base)
    return replace(prepared, model=phases.RewardModel(path, version, reference))


def pooled(results: Sequence[dict[str, Any]], arm: str) -> dict[str, Any]:
    """An arm's success over all seeds, and its gain over the clone it began with, paired by episode.

    Returns:
        success, gain (Rate each), seeds (success of each), environment_steps_to_level (mean over the seeds of the first
        environment step at which the last 20 training episodes had succeeded at `LEVEL`; None where one never did).
    """
    from dopamine_rl.metrics import paired_difference, wilson

    runs = [result for result in results if result["arm"] == arm]
    won = [outcome for result in runs for outcome in result["outcomes"]]
    before = [outcome for result in runs for outcome in result["clone"]]
    reached = [steps_to_level(result["curve"]) for result in runs]
    known = [steps for steps in reached if steps is not None]
    return {
        "success": asdict(wilson(sum(won), len(won))),
        "gain": asdict(paired_difference(won, before)),
        "clone": sum(before) / len(before),
        "seeds": [sum(result["outcomes"]) / len(result["outcomes"]) for result in runs],
        "environment_steps_to_level": sum(known) / len(known) if len(known) == len(reached) else None,
    }


def steps_to_level(curve: Sequence[dict[str, Any]]) -> int | None:
    """Environment steps at the first point of a curve whose last 20 or more episodes succeeded at `LEVEL`, or None."""
    from experiments.job.report import recent_success

    for i, point in enumerate(curve):
        rate = recent_success(curve, i)
        if rate is not None and rate.n >= 20 and rate.mean >= LEVEL:
            return int(point["environment_steps"])
    return None


def markdown(config: ExperimentConfig, table: dict[str, dict[str, Any]], seeds: int) -> str:
    """The comparison as a page."""
    rows = "\n".join(
        f"| {arm} | {row['success']['mean']:.2f} ({row['success']['low']:.2f} – {row['success']['high']:.2f}) | "
        f"{row['gain']['mean']:+.2f} ({row['gain']['low']:+.2f} to {row['gain']['high']:+.2f}) | "
        f"{', '.join(f'{value:.2f}' for value in row['seeds'])} | {_steps(row['environment_steps_to_level'])} |"
        for arm, row in table.items()
    )
    clone = next(iter(table.values()))["clone"]
    return f"""# Arms: {config.name}

{seeds} seed(s), {config.training.environment_steps} environment steps each, the same demonstrations, cloned policy and
reward model; {config.evaluation.episodes} unseen episodes for every training, the same for all. The cloned policy that all
begin with succeeds in {clone:.2f}. Success pooled over seeds with Wilson intervals; gain over the clone paired by episode
(95 %). The last column is where the last 20 or more training episodes, exploration included, first succeeded at {LEVEL:g}.

| arm | success | gain over the clone | by seed | environment steps to {LEVEL:g} while training |
| --- | --- | --- | --- | --- |
{rows}

![Success while training](arms.png)

`oracle` uses the simulator's truth and `untrained` a model that never learned: they are diagnostics, not methods.
"""


def _steps(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.0f}"


def plot(path: Path, results: Sequence[dict[str, Any]], arms: Sequence[str]) -> None:
    """Draw every training's success while exploring, one colour an arm."""
    from experiments.job.report import recent_success
    from experiments.reports.plots import new_figure

    figure = new_figure(7, 3.6)
    axes = figure.subplots()
    for number, arm in enumerate(arms):
        for result in (result for result in results if result["arm"] == arm):
            rates = [recent_success(result["curve"], i) for i in range(len(result["curve"]))]
            steps = [point["environment_steps"] for point in result["curve"]]
            known = [(step, rate.mean) for step, rate in zip(steps, rates, strict=True) if rate is not None]
            axes.plot(*zip(*known, strict=True), color=f"C{number}", label=arm, alpha=0.8) if known else None
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), fontsize=8)
    axes.set(xlabel="environment steps", ylabel="success while exploring", ylim=(-0.03, 1.03))
    figure.savefig(path)


if __name__ == "__main__":
    main()
