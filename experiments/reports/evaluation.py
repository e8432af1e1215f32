"""The evaluation of a reward model by `dopamine grm eval`, and its JSON; `evaluation_tables` shows it as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.evaluation.answers import EpisodeHops
from dopamine_rl.evaluation.behaviours import BehaviourReport, InstructionReport, by_behaviour, instruction_gap
from dopamine_rl.evaluation.gate import GateReport, Verdict, decide, summarise
from dopamine_rl.evaluation.gate_config import GateConfig
from dopamine_rl.evaluation.variants import (
    CLAIM,
    NO_GAIN,
    Answered,
    Calibration,
    Judged,
    Variant,
    calibrations,
    hop_errors,
    judge_variant,
    outcome_confusion,
    paired_differences,
    variants,
)
from dopamine_rl.metrics import OUTCOMES
from dopamine_rl.types import FusionConfig
from experiments.reports.tables import interval, plain

FIGURES = {
    "voc_plus": "rank correlation of the incremental chain with time, in annotated successes with 8 or more frames",
    "voc_minus": "the same for reversed episodes: a model that always predicts progress fails here",
    "kendall": "Kendall's τ-b of Φ* with time",
    "progress_mae": "mean absolute error of Φ* in annotated successes",
    "other_mae": "mean absolute error of Φ* in other episodes with known true progress",
    "hop_mae": "mean absolute error of hops, all perspectives",
    "false_progress_zero": f"zero-hop pairs (neighbours, true hop within ±{NO_GAIN}) with a hop above {CLAIM}",
    "false_progress_failed": f"neighbours in failures without progress (true hop ≤ {NO_GAIN}) with a hop above {CLAIM}",
    "success_end": "mean final Φ* of successes",
    "failure_end": "mean final Φ* of failures",
    "gap": "difference of these two",
    "auc": "probability that a success ends higher than a failure",
    "failed_end_order": "probability that a success is higher in its last quarter, before its end, than a failed end",
    "false_success": "share of failures classified as success",
    "near_miss_false_success": "the same for near misses, by the script's name or the peg's final position",
    "outcome_accuracy": "accuracy of success, partial or failure by Eq. 58",
}
"""Metrics of the served model, in the order of the table, with explanations."""


@dataclass(frozen=True, eq=False, slots=True)
class Evaluation:
    """The evaluation of a reward model.

    Args:
        model, version: path and version of the model.
        reference: the demonstration that provides reference and goal images.
        fusion: the served fusion.
        stride: environment steps, or video frames where there is no environment, between scored frames.
        answered: the episodes with the answers, by setting; the first setting is the served one.
        fused: every perspective and fusion, at the served setting.
        settings: the served fusion, at every setting.
        confusion: int64 [3, 3], true outcome by predicted one.
        errors: mean absolute error and count in 25 bins of the true hop.
        calibration: by kind of uncertainty.
        behaviours: figures by kind of episode.
        instruction: the same successes under a wrong instruction; None where none was asked about.
        preset: whose bounds the verdict applies.
        verdict: None if no bounds were requested.
    """

    model: str
    version: str
    reference: str
    fusion: FusionConfig
    stride: int
    answered: Mapping[str, Answered]
    fused: dict[str, Judged]
    settings: dict[str, Judged]
    confusion: NDArray[np.int64]
    errors: dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]
    calibration: dict[str, Calibration]
    behaviours: dict[str, BehaviourReport]
    instruction: InstructionReport | None
    preset: str
    verdict: Verdict | None

    @property
    def served(self) -> Judged:
        """The served setting and fusion."""
        return next(iter(self.settings.values()))

    def counts(self) -> dict[str, int]:
        """Number of episodes of each kind, and of frames without a value."""
        names = ("success", "expert", "failure", "near_miss", "cut_off", "invalid", "zero_pairs", "failed_pairs")
        return {name: int(self.served.columns[name].sum()) for name in names}

    def summary(self) -> dict[str, Any]:
        """The last line: the main results for programs."""
        return {
            "model_version": self.version,
            "reference": self.reference,
            "counts": self.counts(),
            "figures": {name: plain(self.served.figures[name].value) for name in FIGURES},
            "passed": None if self.verdict is None else self.verdict.passed,
        }

    def content(self) -> dict[str, Any]:
        """eval.json."""
        episodes = [
            {
                "name": episode.name,
                "kind": episode.kind,
                "outcome": episode.outcome,
                "expert": episode.expert,
                **{name: plain(float(column[i])) for name, column in self.served.columns.items()},
            }
            for i, (episode, _) in enumerate(next(iter(self.answered.values())))
        ]
        return self.summary() | {
            "model": self.model,
            "fusion": asdict(self.fusion),
            "stride": self.stride,
            "intervals": _intervals(self.served),
            "fusions": {name: _intervals(judged) for name, judged in self.fused.items()},
            "settings": {name: _intervals(judged) for name, judged in self.settings.items()},
            "differences": {
                name: {key: interval(value) for key, value in paired_differences(judged, self.served).items()}
                for name, judged in self.others().items()
            },
            "outcomes": list(OUTCOMES),
            "confusion": self.confusion.tolist(),
            "hop_error_by_bin": {
                name: {"error": [plain(x) for x in error.tolist()], "count": count.tolist()}
                for name, (error, count) in self.errors.items()
            },
            "calibration": {
                name: {
                    "rank": interval(c.rank),
                    "ause": interval(c.area),
                    "ause_by_chance": c.curve.area_by_chance,
                    "uncertainty": c.classes.uncertainty.tolist(),
                    "error": c.classes.error.tolist(),
                    "count": c.classes.counts.tolist(),
                }
                for name, c in self.calibration.items()
            },
            "behaviours": {kind: asdict(figures) for kind, figures in self.behaviours.items()},
            "instruction": None if self.instruction is None else asdict(self.instruction),
            "checks": None if self.verdict is None else [asdict(c) | {"passed": c.passed} for c in self.verdict.checks],
            "episodes": episodes,
        }

    @property
    def unit(self) -> str:
        """What time is counted in: environment steps, or frames where there is no environment."""
        return "environment step" if next(iter(self.answered.values()))[0][0].simulated else "video frame"

    @property
    def several(self) -> bool:
        """Whether there are enough episodes for intervals."""
        return len(next(iter(self.answered.values()))) > 1

    def others(self) -> dict[str, Judged]:
        """Every variant and setting but the served one."""
        return dict(list(self.settings.items())[1:]) | self.fused


def _verdict(report: GateReport, gate: GateConfig) -> Verdict:
    """The gate's verdict on recorded episodes, which cannot be probed: that takes the simulator."""
    verdict = decide(report, replace(gate, probe="off"))
    if gate.probe != "required":
        return verdict
    return replace(verdict, notes=(*verdict.notes, "the preset also requires the precision probe: dopamine grm probe"))


def evaluate(
    answered: Mapping[str, Answered],
    gate: GateConfig,
    fusion: FusionConfig,
    preset: str,
    model: str,
    version: str,
    reference: str,
    mismatched: Answered = (),
) -> Evaluation:
    """Compute the metrics of a model's answers.

    Args:
        answered: the episodes with the answers, by setting; the first is the served one.
        gate: bounds, applied if `preset` is not "".
        fusion: the served fusion.
        mismatched: some of the successes with the answers under a wrong instruction, in the served setting.
    Raises:
        BadInput: bounds are requested, but there is no failure or no annotated success that is long enough.
    """
    served, threshold = Variant(fusion), gate.success_threshold
    own = next(iter(answered.values()))
    stride = own[0][0].stride_steps
    settings = {name: judge_variant(part, served, threshold) for name, part in answered.items()}
    fused = {name: judge_variant(own, variant, threshold) for name, variant in variants().items()}
    columns = next(iter(settings.values())).columns
    verdict = _verdict(summarise(columns, threshold, stride), gate) if preset else None
    return Evaluation(
        model=model,
        version=version,
        reference=reference,
        fusion=fusion,
        stride=stride,
        answered=answered,
        fused=fused,
        settings=settings,
        confusion=outcome_confusion(own, served),
        errors=hop_errors(own),
        calibration=calibrations(own, served),
        behaviours=by_behaviour([episode.kind for episode, _ in own], columns, threshold),
        instruction=_instruction(own, mismatched, served, threshold),
        preset=preset,
        verdict=verdict,
    )


def _instruction(
    matched: Answered, mismatched: Answered, served: Variant, threshold: float
) -> InstructionReport | None:
    if not mismatched:
        return None
    right = {episode.name: _end(served, answers) for episode, answers in matched}
    wrong = [_end(served, answers) for _, answers in mismatched]
    return instruction_gap([right[episode.name] for episode, _ in mismatched], wrong, threshold)


def _end(served: Variant, answers: EpisodeHops) -> float:
    return float(served.curve(answers)[0][-1])


def _intervals(judged: Judged) -> dict[str, Any]:
    return {name: interval(figure) for name, figure in judged.figures.items()}
