"""Success from progress in the main job: the rule, the reward model's figures on what a user has, and the evaluation.

A user has the policy's demonstrations, successes because the demonstrator said so, and tries of the robot alone beside
a demonstration's path, which nobody calls a success. The reward model has been trained on none of them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.claims import Claiming
from actors.labeller import LabellerConfig
from actors.workers import Job, PolicySpec
from dopamine_rl.episodes.stride import at_stride
from dopamine_rl.evaluation.gate import GateReport, JudgedEpisode, Source, judge, report
from dopamine_rl.interfaces import RewardClient
from dopamine_rl.metrics import paired_difference, wilson
from dopamine_rl.success import ClaimOutcome, ScoredCurve, SuccessRule, fit_rule, missed_if_left_out
from dopamine_rl.types import Demonstration, TaskReference
from experiments.job import plans as episodes
from experiments.settings import ExperimentConfig
from reward_service.client import ServeRewardClient

if TYPE_CHECKING:
    from experiments.job.run import Run


@dataclass(frozen=True)
class ClaimFit:
    """What the user's own episodes say of a reward model.

    Args:
        rule: when success is claimed.
        figures: of the gate, on these episodes.
        demonstrations, tries: how many there were.
        missed_if_left_out: demonstrations that the rule of the others alone would miss; None for a single one.
    """

    rule: SuccessRule
    figures: GateReport
    demonstrations: int
    tries: int
    missed_if_left_out: int | None

    def __str__(self) -> str:
        left_out = self.missed_if_left_out
        unsure = "one demonstration cannot say how high others end" if left_out is None else f"{left_out} missed"
        return (
            f"Success is claimed at {self.rule}, fitted on {self.demonstrations} demonstrations "
            f"(each left out once: {unsure}) and {self.tries} tries"
        )


def fit(
    client: RewardClient,
    demonstrations: Sequence[Demonstration],
    tries: Sequence[Demonstration],
    reference: TaskReference,
    config: ExperimentConfig,
) -> ClaimFit:
    """Judge a reward model on the user's episodes, and fit the rule. Nothing but their pictures and keyframes is read.

    Args:
        demonstrations: recorded by claims, at the stride of online data. Failed ones are left out.
        tries: failures.
    Raises:
        BadInput: progress does not tell the tries from the demonstrations' ends.
        ScoringError: the service cannot answer in time.
    """
    successes = [demonstration for demonstration in demonstrations if demonstration.success]
    sources: list[Source] = ["expert" for _ in successes]
    sources += ["failure" for _ in tries]
    judged = judge(client, [*successes, *tries], reference, config.fusion, sources=sources)
    curves = [scored_curve(episode) for episode in judged]
    shown, failed = curves[: len(successes)], curves[len(successes) :]
    return ClaimFit(
        fit_rule(shown, failed, config.claims),
        report(judged, config.gate.success_threshold, config.env.stride),
        len(shown),
        len(failed),
        missed_if_left_out(shown, config.claims.margin),
    )


def scored_curve(episode: JudgedEpisode) -> ScoredCurve:
    """Progress at the frames after an episode's first."""
    return ScoredCurve(episode.curve[1:], np.asarray(episode.answers.valid, bool))


def fitted(
    run: Run, model: Path, version: str, demonstrations: Sequence[Path], tries: Sequence[Path], reference: TaskReference
) -> ClaimFit:
    """The phase that fits the rule, through the service that will label the training."""
    config = run.config

    def work() -> dict[str, Any]:
        _, client = run.service(model)
        shown, tried = (
            [at_stride(episode, config.env.stride) for episode in episodes.read_all(folders)]
            for folders in (demonstrations, tries)
        )
        found = fit(client, shown, tried, reference, config)
        run.console.say(f"  {found}")
        return asdict(found)

    names = [path.name for path in (*demonstrations, *tries)]
    depends_on = (version, config.env, config.fusion, config.claims, config.gate.success_threshold, names)
    value = run.phase("claims", "When success is claimed: demonstrations against tries", depends_on, work)
    return ClaimFit(
        **{**value, "rule": SuccessRule(**value["rule"]), "figures": GateReport(**value["figures"])},
    )


def evaluate_claims(
    run: Run, specs: Mapping[str, PolicySpec], claiming: Claiming, service: str, depends_on: object
) -> dict[str, list[ClaimOutcome]]:
    """Episodes of each policy that end by a claim, on the same unseen seeds, in their order.

    Args:
        service: name of the reward service.
        depends_on: all that the claims rest on, besides environment, rule and seeds.
    """
    config = run.config
    seeds = [config.evaluation.first_seed + i for i in range(config.evaluation.episodes)]

    def work(spec: PolicySpec) -> list[dict[str, bool]]:
        jobs = [Job("evaluate_claims", (spec, seed, service, claiming)) for seed in seeds]
        return [asdict(outcome) for outcome in run.pool.map(jobs, run.console.progress, "episodes")]

    outcomes = {}
    for name, spec in specs.items():
        key = (depends_on, claiming.rule, config.env, config.evaluation)
        title = f"Evaluation with claims on {len(seeds)} unseen seeds: {name}"
        found = run.phase(f"claims_{name}", title, key, functools.partial(work, spec))
        outcomes[name] = [ClaimOutcome(**each) for each in found]
    return outcomes


def claiming_by(application: str, labelling: LabellerConfig, reference: TaskReference, rule: SuccessRule) -> Claiming:
    """How an evaluation claims success: asks the run's reward service, and writes no records."""
    return Claiming(labelling, functools.partial(ServeRewardClient, application), reference, rule)


def summary(
    outcomes: Mapping[str, Sequence[ClaimOutcome]], within_horizon: Mapping[str, Sequence[bool]], fit: ClaimFit
) -> dict[str, Any]:
    """The entry `claims` of result.json.

    Args:
        outcomes: of episodes that end by a claim, by policy.
        within_horizon: success of the same policies on the same seeds with nobody claiming.
    """
    return {
        "threshold": fit.rule.threshold,
        "frames": fit.rule.frames,
        "demonstrations": fit.demonstrations,
        "tries": fit.tries,
        "missed_if_left_out": fit.missed_if_left_out,
        "policies": {name: _rates(ended, within_horizon[name]) for name, ended in outcomes.items()},
        "policy_minus_bc": _gain(outcomes),
    }


def _rates(ended: Sequence[ClaimOutcome], within_horizon: Sequence[bool]) -> dict[str, Any]:
    counts = {
        "false_claims": [outcome.false_claim for outcome in ended],
        "missed_successes": [outcome.missed for outcome in ended],
        "true_success": [outcome.true_claim for outcome in ended],
        "within_horizon": list(within_horizon),
    }
    return {name: asdict(wilson(sum(values), len(values))) for name, values in counts.items()}


def _gain(outcomes: Mapping[str, Sequence[ClaimOutcome]]) -> dict[str, float] | None:
    if not {"policy", "bc"} <= outcomes.keys():
        return None
    won = {name: [outcome.true_claim for outcome in outcomes[name]] for name in ("policy", "bc")}
    gain = paired_difference(won["policy"], won["bc"])
    return {"mean": gain.mean, "low": gain.low, "high": gain.high, "n": gain.n}
