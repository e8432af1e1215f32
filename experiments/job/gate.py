"""The gate: the reward model on episodes that it has not seen."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from actors.envs import has_place, instructions_of
from actors.tasks import TASKS
from actors.workers import Job
from dopamine_rl.errors import DopamineError
from dopamine_rl.evaluation.behaviours import wrong_instructions
from dopamine_rl.evaluation.gate import (
    GateReport,
    Verdict,
    behaviours,
    decide,
    judge,
    judge_misled,
    report,
    with_probe,
)
from dopamine_rl.evaluation.probe import ProbeFigures, ask, probe_figures
from dopamine_rl.interfaces import RewardClient
from dopamine_rl.types import TaskReference
from experiments.job import plans as episodes
from experiments.job.claims import ClaimFit, fitted
from experiments.job.prepared import Prepared
from experiments.job.report import plot_gate
from experiments.job.run import Run


class GateRefused(DopamineError):
    """The reward model failed its gate; the message is the verdict's table."""


def refusal(verdict: Verdict) -> str:
    """The message for a reward model that failed its gate."""
    names = ", ".join(check.name for check in verdict.failed)
    return (
        f"the reward model failed its gate ({names}; see the table above and gate.png). Follow the advice there, "
        "or use --force to train with it anyway; the result records this."
    )


def gate(run: Run, prepared: Prepared) -> tuple[GateReport, Verdict]:
    """Evaluate the reward model on unseen episodes, through the service that will label the training.

    With success from progress the verdict is about the user's own episodes, and the simulator's figures stand beside.
    """
    config, model = run.config, prepared.model
    assert model is not None

    threshold = config.gate.success_threshold

    def work() -> dict[str, Any]:
        _, client = run.service(model.path)
        folders = [path for path, _ in prepared.gate_episodes] + prepared.behaviours
        all_judged = judge(
            client,
            episodes.read_all(folders),
            model.reference,
            config.fusion,
            sources=[source for _, source in prepared.gate_episodes] + ["failure"] * len(prepared.behaviours),
            on_progress=run.console.progress,
        )
        judged = all_judged[: len(prepared.gate_episodes)]
        run.console.attempt("gate.png", lambda: plot_gate(run.path / "gate.png", judged, threshold), None)
        wrong = wrong_instructions(instructions_of(config.env), [task.instructions for task in TASKS.values()])
        figures = replace(
            report(judged, threshold, config.env.stride),
            behaviours=behaviours(all_judged, threshold),
            instruction=judge_misled(client, judged, model.reference, wrong, config.fusion, threshold),
        )
        if config.gate.probe == "required":
            figures = with_probe(figures, _probe(run, client, model.reference))
        elif config.gate.probe == "shown" and has_place(config.env):
            found = run.console.attempt("precision probe", lambda: _probe(run, client, model.reference), None)
            figures = figures if found is None else with_probe(figures, found)
        return asdict(figures)

    unseen: list[tuple[str, ...]] = [(path.name, source) for path, source in prepared.gate_episodes]
    unseen += [(path.name,) for path in prepared.behaviours]
    depends_on: tuple[object, ...] = (model.version, config.env, config.fusion, threshold, unseen)
    if config.gate.probe == "required":  # else a stored report without it is as good
        depends_on += ("probe",)

    def judged_in_simulation() -> dict[str, Any]:
        value: dict[str, Any] = run.phase("gate", "Gate: the reward model on unseen episodes", depends_on, work)
        return value

    if config.success == "progress":  # What the simulator says of its episodes must not even end the run.
        beside = run.console.attempt("figures in simulation", judged_in_simulation, None)
        figures = replace(claim_fit(run, prepared).figures, simulator=beside)
    else:
        figures = GateReport(**judged_in_simulation())
    verdict = decide(figures, config.gate)
    run.console.say(*verdict.table().splitlines())
    return figures, verdict


def claim_fit(run: Run, prepared: Prepared) -> ClaimFit:
    """When success is claimed, and what the user's own episodes say of the reward model."""
    model = prepared.model
    assert model is not None
    return fitted(run, model.path, model.version, prepared.policy_episodes, prepared.tries, model.reference)


def _probe(run: Run, client: RewardClient, reference: TaskReference) -> ProbeFigures:
    """The precision probe of the reward model."""
    [pictures] = run.pool.map([Job("probe", (episodes.probe_seed(run.config),))], run.console.progress, "probes")
    return probe_figures(pictures.gaps_m, pictures.offsets_m, ask(client, reference, pictures))
