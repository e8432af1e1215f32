"""Judges a reward model before it drives training, on episodes it has not seen, and says no where it deserves no trust.

Rank correlation with time alone is gameable (any model that always says "forward" has VOC+ = 1), so it stands beside
the correlation of the reversed episode, the error of progress, and how failures end. `judge` asks the service, `report`
reduces the answers to figures, `decide` compares the figures with the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.pauses import find_pauses
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.answers import EpisodeHops, both_directions, join_directions
from dopamine_rl.evaluation.behaviours import behaviour_row, by_behaviour, instruction_gap, kind_of, spread
from dopamine_rl.evaluation.figures import Columns, Row, as_columns, curve_row, figures, order_row, verdict_row
from dopamine_rl.evaluation.gate_config import GateConfig
from dopamine_rl.evaluation.probe import ProbeFigures
from dopamine_rl.evaluation.scoring import ScoringConfig
from dopamine_rl.evaluation.variants import Variant
from dopamine_rl.grm.labels import label
from dopamine_rl.interfaces import OnProgress, RewardClient, no_progress
from dopamine_rl.metrics import MIN_POINTS
from dopamine_rl.texts import counted, every
from dopamine_rl.types import Demonstration, EpisodeInfo, FusionConfig, TaskReference

Source = Literal["expert", "failure", "policy"]
"""Who acted: the scripted expert, a script that is meant to fail, or a policy. Whether it succeeded is another
matter."""

TOGETHER = 8
"""Episodes asked about at once; the service's queue is bounded."""
MISLED = 5
"""Experts' successes that are also asked about under a wrong instruction."""


@dataclass(frozen=True, eq=False, slots=True)
class JudgedEpisode:
    """One episode as the reward model sees it.

    Args:
        demonstration: the recorded episode, of F frames.
        answers: the hops of all frames, forwards and backwards.
        curve: float32 [F], fused progress at every recorded frame, 0 at the first.
        source: who acted. Only expert episodes have keyframes inside, and so a true progress to compare with.
    """

    demonstration: Demonstration
    answers: EpisodeHops
    curve: NDArray[np.float32]
    source: Source


@dataclass(frozen=True, slots=True)
class GateReport:
    """Figures of a reward model on unseen episodes.

    The experts are the successful expert episodes; successes and failures are those of all sources. An episode that ran
    out of time when it was truly beyond the threshold, a peg on its way in, is neither.

    Args:
        voc_plus, voc_minus: mean over the experts of at least 8 frames (metrics.voc_plus, metrics.voc_minus).
        kendall: mean over the same episodes of Kendall's τ-b of time and fused progress.
        progress_mae: mean absolute error of fused progress over the experts' frames.
        false_success: share of failures whose final progress reaches the threshold.
        auc: chance that a success ends higher than a failure.
        success_end, failure_end: mean final progress.
        near_misses: failures that nearly succeeded (figures.verdict_row).
        near_miss_false_success: share of those whose final progress reaches the threshold; None where there is none.
        invalid: frames without a value; they were held.
        successes, failures: episodes.
        cut_off: episodes that were neither.
        stride: environment steps between scored frames.
        failed_end_order: chance that a success late on its way stands higher than a failure's end (figures); None where
            no success is long enough, and in older reports.
        probe_rank, probe_trade: of the precision probe (probe.ProbeFigures); None where it was not taken.
        behaviours: figures of each kind of episode, by its name; beside those of the verdict, of episodes that are
            reported alone.
        instruction: some experts under a wrong instruction; None where none was asked about.
        simulator_mae: mean over all episodes of fused progress's mean absolute error against the simulator's true
            progress, whatever target the model was given; None where no truth was recorded.
        simulator: where the figures are those of a user's own episodes, the figures of the simulator's; they refuse
            nothing.
    """

    voc_plus: float
    voc_minus: float
    kendall: float
    progress_mae: float
    false_success: float
    auc: float
    success_end: float
    failure_end: float
    near_misses: int
    near_miss_false_success: float | None
    invalid: int
    successes: int
    failures: int
    cut_off: int
    stride: int
    failed_end_order: float | None = None
    probe_rank: float | None = None
    probe_trade: float | None = None
    behaviours: dict[str, dict[str, Any]] = field(default_factory=dict)
    instruction: dict[str, Any] | None = None
    simulator_mae: float | None = None
    simulator: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One figure against its bound.

    Args:
        name: of the figure in GateReport, and of the bound in GateConfig.
        value: what was measured.
        bound: what is asked for.
        direction: whether the bound is the least or the largest value that passes.
        advice: what to do where it fails.
    """

    name: str
    value: float
    bound: float
    direction: Literal["least", "largest"]
    advice: str

    @property
    def passed(self) -> bool:
        """The value keeps the bound; what is not a finite number never does."""
        kept = self.value >= self.bound if self.direction == "least" else self.value <= self.bound
        return kept and math.isfinite(self.value)

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Name, value, bound and outcome as text."""
        return self._cells("FAILED")

    @property
    def advisory_cells(self) -> tuple[str, str, str, str]:
        """The same for a figure that refuses nothing."""
        return self._cells("missed (advisory)")

    def _cells(self, missed: str) -> tuple[str, str, str, str]:
        value = f"{self.value:.4f}" if math.isfinite(self.value) else "no value"
        sign = "≥" if self.direction == "least" else "≤"
        return self.name, value, f"{sign} {self.bound:g}", "ok" if self.passed else missed


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a reward model may drive training, and why not.

    Args:
        checks: one for each figure with a bound.
        advisory: the same for figures whose bounds refuse nothing.
        notes: what the figures rest on; no note makes the verdict fail.
    """

    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    advisory: tuple[Check, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that say no."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        """Every figure keeps its bound."""
        return not self.failed

    @property
    def _rows(self) -> list[tuple[str, str, str, str]]:
        return [check.cells for check in self.checks] + [check.advisory_cells for check in self.advisory]

    def table(self) -> str:
        """The figures in aligned columns for the terminal, then the notes, then advice for what failed."""
        rows = self._rows
        name, value, bound = (max(len(row[column]) for row in rows) for column in range(3))
        failed = f"REFUSED: {len(self.failed)} of {len(self.checks)} figures out of bounds"
        lines = [f"Reward model {'accepted' if self.passed else failed}"]
        lines += [f"  {a:<{name}}  {b:>{value}}  {c:<{bound}}  {d}" for a, b, c, d in rows]
        lines += [f"  Note: {note}." for note in self.notes]
        lines += [f"  {check.name}: {check.advice}." for check in self.failed]
        return "\n".join(lines)

    def markdown(self, words: Mapping[str, str] | None = None) -> str:
        """The rows of a Markdown table with the columns figure, value, bound and outcome.

        Args:
            words: say what a figure is, before its name in parentheses.
        """
        titles = {name: f"{text} (`{name}`)" for name, text in (words or {}).items()}
        return "\n".join(
            f"| {titles.get(name, name)} | {value} | {bound} | {outcome if outcome == 'ok' else f'**{outcome}**'} |"
            for name, value, bound, outcome in self._rows
        )


FIGURES: dict[str, tuple[Literal["least", "largest"], str]] = {
    "voc_plus": (
        "least",
        "the model does not see successes advance: train longer, on more demonstrations.reward_model, or score frames "
        "further apart (env.stride)",
    ),
    "voc_minus": (
        "least",
        "the model says forward whatever it sees: train on reversed and failed episodes "
        "(demonstrations.reward_model_failures, sft.train.plan.neighbours), or longer",
    ),
    "progress_mae": (
        "largest",
        "progress is misjudged on the way: train longer, on more demonstrations.reward_model, or with more or larger "
        "pictures (env.views, env.image_size)",
    ),
    "auc": (
        "least",
        "successes and failures end alike: add failures to demonstrations.reward_model_failures, add the wrist view "
        "(env.views), or use larger pictures (env.image_size and grm.image_size)",
    ),
    "false_success": (
        "largest",
        "failures are taken for successes: add failures to demonstrations.reward_model_failures, near misses above "
        "all, add the wrist view (env.views), or use larger pictures (env.image_size and grm.image_size)",
    ),
}
"""Figure with a bound -> on which side the bound lies, and what to do where it is not kept."""
PROBE_FIGURES: dict[str, tuple[Literal["least", "largest"], str]] = {
    "probe_rank": (
        "least",
        "the model does not see the object aligned before the hole: let the robot practise beside the demonstration "
        "(demonstrations.practice, sft.failures = path), or add the wrist view (env.views)",
    ),
    "probe_trade": (
        "largest",
        "the model pays for going to the hole misaligned, where a policy gets stuck: let the robot practise beside the "
        "demonstration (demonstrations.practice, sft.failures = path)",
    ),
}
"""The same for the figures of the precision probe."""


def judge(
    client: RewardClient,
    demonstrations: Sequence[Demonstration],
    reference: TaskReference,
    fusion: FusionConfig,
    deadline_s: float = 120.0,
    sources: Sequence[Source] | None = None,
    on_progress: OnProgress = no_progress,
) -> list[JudgedEpisode]:
    """Score recorded episodes in both directions, in the order given.

    Args:
        deadline_s: for each request, a fragment of an episode.
        sources: who acted in each episode; where left out, successes are the expert's and failures scripted.
        on_progress: called after each `TOGETHER` episodes.
    Raises:
        BadInput: not one source for each episode.
        ScoringError: the service cannot answer in time.
    """
    actors = _sources(demonstrations) if sources is None else sources
    if len(actors) != len(demonstrations):
        raise BadInput("sources", len(actors), f"name one for each of the {len(demonstrations)} episodes")
    scoring, version = ScoringConfig(fusion, deadline_s=deadline_s), client.model_version(deadline_s)
    judged: list[JudgedEpisode] = []
    for first in range(0, len(demonstrations), TOGETHER):
        group = slice(first, first + TOGETHER)
        answered = _ask(client, demonstrations[group], reference, version, scoring)
        for demonstration, answers, source in zip(demonstrations[group], answered, actors[group], strict=True):
            curve, _ = Variant(fusion).curve(answers)
            judged.append(JudgedEpisode(demonstration, answers, curve, source))
        on_progress(f"episodes evaluated: {len(judged)} of {len(demonstrations)}", False)
    return judged


def _sources(demonstrations: Sequence[Demonstration]) -> list[Source]:
    return ["expert" if demonstration.success else "failure" for demonstration in demonstrations]


def _ask(
    client: RewardClient,
    demonstrations: Sequence[Demonstration],
    reference: TaskReference,
    version: str,
    scoring: ScoringConfig,
) -> list[EpisodeHops]:
    """The answers about some episodes, all of them asked about side by side."""
    asked = []
    for demonstration in demonstrations:
        context = reference.context(demonstration.episode_id, demonstration.frames[0])
        context = replace(context, model_version=version)
        asked.append(both_directions(client, context, demonstration.frames, scoring))
    under_way = [direction for directions in asked for direction in directions]
    for direction in under_way:
        direction.send()
    while under_way := [direction for direction in under_way if not direction.finished]:
        for direction in under_way:
            direction.advance()
    return [
        join_directions(np.arange(len(demonstration.frames)), *(direction.scores() for direction in directions))
        for demonstration, directions in zip(demonstrations, asked, strict=True)
    ]


def report(judged: Sequence[JudgedEpisode], threshold: float, stride: int) -> GateReport:
    """Reduce judged episodes to the gate's figures.

    Args:
        threshold: final progress from which an episode counts as claimed success.
        stride: environment steps between scored frames, stated with the figures.
    Raises:
        BadInput: no failure, or no successful expert episode of at least 8 frames, to judge by.
    """
    found = summarise(as_columns([_row(episode, threshold) for episode in judged]), threshold, stride)
    errors = [
        np.abs(episode.curve - episode.demonstration.true_progress).mean()
        for episode in judged
        if episode.demonstration.true_progress is not None
    ]
    return replace(found, simulator_mae=float(np.mean(errors)) if errors else None)


def summarise(columns: Columns, threshold: float, stride: int) -> GateReport:
    """Reduce what is known of each episode (figures) to the gate's figures; arguments and errors are `report`'s."""
    experts, successes, failures, cut, near, invalid = (
        int(columns[name].sum()) for name in ("expert", "success", "failure", "cut_off", "near_miss", "invalid")
    )
    ordered = int(np.isfinite(columns["voc_plus"]).sum())
    if not ordered or not failures:
        seen = f"{experts} expert successes ({ordered} of {MIN_POINTS} frames or more), {failures} failures"
        raise BadInput("gate episodes", seen, "record more, give env.horizon more time, or choose a smaller env.stride")
    found = figures(columns, threshold)
    missed, order = found.pop("near_miss_false_success"), found.pop("failed_end_order")
    return GateReport(
        **found,
        failed_end_order=order if math.isfinite(order) else None,
        near_miss_false_success=missed if near else None,
        near_misses=near,
        invalid=invalid,
        successes=successes,
        failures=failures,
        cut_off=cut,
        stride=stride,
        behaviours={},
        instruction=None,
        simulator=None,
    )


def behaviours(judged: Sequence[JudgedEpisode], threshold: float) -> dict[str, dict[str, Any]]:
    """The figures of each kind of scripted episode (behaviours.BehaviourReport), by name; arguments as `report`'s."""
    scripted = [episode for episode in judged if episode.source != "policy"]
    if not scripted:
        return {}
    infos = [EpisodeInfo.of(episode.demonstration) for episode in scripted]
    rows = [
        verdict_row(info, threshold)
        | curve_row(episode.curve, episode.answers.valid, None)
        | behaviour_row(episode.curve, info.true_progress, find_pauses(info.keyframes, info.stages, len(episode.curve)))
        for info, episode in zip(infos, scripted, strict=True)
    ]
    kinds = [kind_of(info.episode_id, info.stages) for info in infos]
    found = by_behaviour(kinds, as_columns(rows), threshold)
    return {kind: asdict(figures) for kind, figures in found.items()}


def judge_misled(
    client: RewardClient,
    judged: Sequence[JudgedEpisode],
    reference: TaskReference,
    instructions: Sequence[str],
    fusion: FusionConfig,
    threshold: float,
) -> dict[str, Any] | None:
    """Ask about some of the experts' successes under wrong instructions, in turn (behaviours.InstructionReport).

    Args:
        judged: under the right instruction.
        instructions: wrong ones.
        threshold: final progress from which an episode counts as claimed success.
    Returns:
        The figures by name; None where there is no expert's success, or no wrong instruction.
    Raises:
        ScoringError: the service cannot answer in time.
    """
    experts = [episode for episode in judged if episode.source == "expert" and episode.demonstration.success]
    chosen = [experts[index] for index in spread(len(experts), MISLED)]
    if not chosen or not instructions:
        return None
    wrong = []
    for turn, episode in enumerate(chosen):
        told = replace(reference, instruction=instructions[turn % len(instructions)])
        wrong += judge(client, [episode.demonstration], told, fusion)
    right_ends, wrong_ends = ([float(episode.curve[-1]) for episode in part] for part in (chosen, wrong))
    return asdict(instruction_gap(right_ends, wrong_ends, threshold))


def _row(episode: JudgedEpisode, threshold: float) -> Row:
    info, answers = EpisodeInfo.of(episode.demonstration), episode.answers
    expert = episode.demonstration.success and episode.source == "expert"
    truth = label([info])[0].progress if expert else None
    return (
        verdict_row(info, threshold)
        | order_row(answers.hops[:, 0], answers.swapped, episode.curve, expert)
        | curve_row(episode.curve, answers.valid, truth)
    )


def with_probe(report: GateReport, probe: ProbeFigures) -> GateReport:
    """The report with the figures of the precision probe; None where its answers could not be read."""
    rank, trade = (value if math.isfinite(value) else None for value in (probe.rank, probe.trade))
    return replace(report, probe_rank=rank, probe_trade=trade)


def decide(report: GateReport, config: GateConfig) -> Verdict:
    """Compare a reward model's figures with the bounds. A required probe without a value is a failure."""
    checks = _checks(report, config, FIGURES)
    advisory: tuple[Check, ...] = ()
    if config.probe == "required":
        checks += _checks(report, config, PROBE_FIGURES)
    elif _shown(report, config):
        advisory = _checks(report, config, PROBE_FIGURES)
    if report.simulator is not None:
        exam = GateReport(**report.simulator)
        known = FIGURES | (PROBE_FIGURES if _shown(exam, config) else {})
        advisory += tuple(replace(check, name=f"simulator {check.name}") for check in _checks(exam, config, known))
    return Verdict(checks, tuple(_notes(report, config)), advisory)


def _shown(report: GateReport, config: GateConfig) -> bool:
    """The figures of the probe stand in the verdict without refusing anything."""
    return config.probe == "shown" and (report.probe_rank, report.probe_trade) != (None, None)


def _checks(
    report: GateReport, config: GateConfig, bounded: Mapping[str, tuple[Literal["least", "largest"], str]]
) -> tuple[Check, ...]:
    values = {name: getattr(report, name) for name in bounded}
    return tuple(
        Check(name, math.nan if values[name] is None else values[name], getattr(config, name), direction, advice)
        for name, (direction, advice) in bounded.items()
    )


def _notes(report: GateReport, config: GateConfig) -> list[str]:
    """What the figures rest on, and where that is little."""
    notes = [
        f"judged on {counted(report.successes, 'unseen success')} and {counted(report.failures, 'failure')}, "
        f"a frame {every(report.stride, 'environment step')}"
    ]
    if report.simulator_mae is not None:
        notes.append(f"progress differs from the simulator's own by {report.simulator_mae:.3f} on average")
    if report.near_miss_false_success is None:
        notes.append("no failure was a near miss: whether jams are told apart is not known")
    else:
        share = f"{100 * report.near_miss_false_success:.0f} % of the {report.near_misses} near misses"
        notes.append(f"{share} are taken for successes")
    if _shown(report, config):
        notes.append("the precision probe (probe_rank, probe_trade) is advisory; gate.probe = required lets it refuse")
    if report.cut_off:
        notes.append(f"{counted(report.cut_off, 'episode')} ran out of time on the way in: neither success nor failure")
    for kind, seen, least in (
        ("successes", report.successes, config.least_successes),
        ("failures", report.failures, config.least_failures),
    ):
        if seen < least:
            notes.append(f"{seen} {kind} are few to judge by: the figures are worth trusting from {least} on")
    if report.invalid:
        notes.append(f"{counted(report.invalid, 'frame')} went without a value; progress was held there")
    return notes
