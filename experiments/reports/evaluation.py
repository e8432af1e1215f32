"""The report of `dopamine grm eval`: tables for the terminal, Markdown, and JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.evaluation.gate import Verdict, decide, summarise
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
from dopamine_rl.metrics import MIN_POINTS, OUTCOMES
from dopamine_rl.progress import HOP_BINS
from dopamine_rl.texts import code, counted, one_line
from dopamine_rl.types import FusionConfig
from experiments.reports.tables import aligned, difference, filled, grid, interval, number, plain, short

FIGURES = {
    "voc_plus": "rank correlation of the incremental chain with time, in annotated successes with 8 or more frames",
    "voc_minus": "the same for reversed episodes: a model that always predicts progress fails here",
    "kendall": "Kendall's τ-b of Φ* with time",
    "progress_mae": "mean absolute error of Φ* in annotated successes",
    "other_mae": "mean absolute error of Φ* in other episodes with known true progress",
    "hop_mae": "mean absolute error of hops, all perspectives",
    "false_progress_zero": f"zero-hop pairs (neighbours, |true hop| ≤ {NO_GAIN}) with a hop above {CLAIM}",
    "false_progress_failed": f"neighbours in failures without progress (true hop ≤ {NO_GAIN}) with a hop above {CLAIM}",
    "success_end": "mean final Φ* of successes",
    "failure_end": "mean final Φ* of failures",
    "gap": "difference of these two",
    "auc": "probability that a success ends higher than a failure",
    "false_success": "share of failures classified as success",
    "near_miss_false_success": "the same for near misses, by the script's name or the peg's final position",
    "outcome_accuracy": "accuracy of success, partial or failure by Eq. 58",
}
"""Metrics of the served model, in the order of the table, with explanations."""
ORDER = {"ordered": "of n", "voc_plus": "VOC+", "voc_minus": "VOC−"}
"""Metrics that depend only on the hops, and their number of episodes."""
COMPARED = {
    "order": "order", "progress_mae": "MAE", "other_mae": "MAE, others", "success_end": "end+", "failure_end": "end−",
    "auc": "AUC", "false_success": "false success", "outcome_accuracy": "outcome",
}  # fmt: skip
"""Metrics for comparing curves."""
DIFFERENCES = {
    "common_mae": "MAE", "other_common_mae": "MAE, others", "failure_end": "end−", "outcome_accuracy": "outcome",
}  # fmt: skip
"""Metrics whose difference to the served model is listed; errors are at the frames that every stride scores."""
Layout = Callable[[Sequence[Sequence[str]]], str]
"""Makes a table of rows."""
FUSED = COMPARED | {"low_weight": "w < 0.1"}
SETTINGS = ORDER | COMPARED | {"common_mae": "MAE, common frames"}


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

    def table(self) -> str:
        """All tables, for the terminal."""
        parts = [
            one_line(f"Reward model {self.version} ({self.model}), references of {self.reference}"),
            self._episodes(),
            "",
        ]
        parts += [aligned(self._figure_rows()), *self._without_value(), ""]
        parts += ["Perspectives and fusions, from the same hops", aligned(self._effects(self.fused, FUSED)), ""]
        parts += ["Strides and cameras", aligned(self._effects(self.settings, SETTINGS)), ""]
        parts += ["Difference to the served model, on the same episodes and frames", self._differences(aligned), ""]
        parts += [
            "Confusion matrix: true outcome (row), outcome predicted by Eq. 58 (column)",
            aligned(self._confusion_rows()),
            "",
        ]
        parts += ["Hop error by bin of the true hop", self._bins(aligned), ""]
        parts += ["Uncertainty and error", self._calibrations(aligned)]
        if self.verdict is not None:
            parts += ["", f"Bounds of preset {self.preset}", self.verdict.table()]
        return "\n".join(parts)

    def markdown(self) -> str:
        """The report with tables and plots."""
        verdict = ""
        if self.verdict is not None:
            head = "| metric | value | bound | |\n| --- | --- | --- | --- |"
            verdict = f"\n## Bounds of preset {code(self.preset)}\n{head}\n{self.verdict.markdown()}\n"
        return f"""# Reward model `{self.version}` on unseen episodes

{code(self.model)}, with reference and goal images from {code(self.reference)}, which is not evaluated.
{self._episodes()}
95 % intervals: Wilson for shares of episodes, otherwise bootstrap over episodes, stratified by success (for an AUC of
1 its width is 0, although new episodes may differ).
{verdict}
## Metrics
{grid(self._figure_rows())}

{"".join(self._without_value())}

![Curves](curves.png)

## Perspectives and fusions
All are computed from the same hops. "fused chain": the incremental hop is added to the last fused progress; "own
chain": to its own last value. `w < 0.1`: share of frames that consistency fusion almost ignores.

{grid(self._effects(self.fused, FUSED))}

## Strides and cameras
Cameras that are not named are replaced by blank images. This shows what the model does without them, not what a model
trained without them would do.

{grid(self._effects(self.settings, SETTINGS))}

`order` is the rank correlation of the row's own curve with time. VOC and order need 8 frames; `of n` is the number of
episodes with so many, and a dash means none. Strides differ in their share of easy frames (the first, the last), so
`MAE, common frames` uses only the frames that every stride scores, without the first.

### Difference to the served model
On the same episodes, and the frames that every stride scores.

{self._differences(grid)}

![Effects](effects.png)

## Outcomes
Confusion matrix: true outcome (row), outcome predicted by Eq. 58 (column). Partial: a failure that ends with at least
the first stage complete, by its true progress on the demonstrations' scale.

{grid(self._confusion_rows())}

## Hops and uncertainty
{self._bins(grid)}

{self._calibrations(grid)}

`rank` is the Spearman correlation of uncertainty and absolute error. AUSE is the area between the sparsification
curve and the best possible one (0 is best); "by chance" is that of a random uncertainty. The last column is the
expected error in each fifth of the frames, from least to most uncertain.

![Hops](hops.png)
"""

    def content(self) -> dict[str, Any]:
        """eval.json."""
        episodes = [
            {
                "name": episode.name,
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
                for name, judged in self._others().items()
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
            "checks": None if self.verdict is None else [asdict(c) | {"passed": c.passed} for c in self.verdict.checks],
            "episodes": episodes,
        }

    def _episodes(self) -> str:
        n = self.counts()
        cut = f", {n['cut_off']} cut off during insertion (counted as neither)" if n["cut_off"] else ""
        one = "" if self._several else " One episode gives no intervals and no differences: evaluate at least 2."
        return (
            f"{counted(n['success'], 'success')} ({n['expert']} annotated), {counted(n['failure'], 'failure')} "
            f"({counted(n['near_miss'], 'near miss')}){cut}; one frame every {counted(self.stride, self.unit)}; "
            f"{counted(n['invalid'], 'frame')} without a value.{one}"
        )

    @property
    def unit(self) -> str:
        """What time is counted in: environment steps, or frames where there is no environment."""
        return "environment step" if next(iter(self.answered.values()))[0][0].simulated else "video frame"

    @property
    def _several(self) -> bool:
        """Whether there are enough episodes for intervals."""
        return len(next(iter(self.answered.values()))) > 1

    def _without_value(self) -> list[str]:
        """A sentence that names the metrics without a value, if there are any."""
        names = [name for name in FIGURES if not math.isfinite(self.served.figures[name].value)]
        why = f"no episode of the kind that they are about, or fewer than {MIN_POINTS} scored frames"
        return [f"Without a value ({why}): {', '.join(names)}."] if names else []

    def _figure_rows(self) -> list[list[str]]:
        rows = [["metric", "value", "95 % interval", "explanation"]]
        for name, about in FIGURES.items():
            figure = self.served.figures[name]
            limits = f"{number(figure.low)} – {number(figure.high)}" if self._several else "–"
            if math.isfinite(figure.value):
                rows.append([name, number(figure.value), limits, about])
        return filled(rows)

    def _effects(self, judged: Mapping[str, Judged], columns: Mapping[str, str]) -> list[list[str]]:
        rows = [["", *columns.values()]]
        for name, row in judged.items():
            ordered = str(int(np.isfinite(row.columns["voc_plus"]).sum()))
            cells = (ordered if key == "ordered" else short(row.figures[key], self._several) for key in columns)
            rows.append([name, *cells])
        return filled(rows)

    def _others(self) -> dict[str, Judged]:
        """Every variant and setting but the served one."""
        return dict(list(self.settings.items())[1:]) | self.fused

    def _differences(self, layout: Layout) -> str:
        if not self._several:
            return "One episode gives no differences with intervals: evaluate at least 2."
        rows = [["", *DIFFERENCES.values()]]
        for name, judged in self._others().items():
            deltas = paired_differences(judged, self.served)
            rows.append([name, *(difference(deltas[key]) if key in deltas else "–" for key in DIFFERENCES)])
        return layout(filled(rows))

    def _confusion_rows(self) -> list[list[str]]:
        rows = [["", *OUTCOMES]]
        return rows + [[name, *map(str, row)] for name, row in zip(OUTCOMES, self.confusion.tolist(), strict=True)]

    def _bins(self, layout: Layout) -> str:
        """Groups of five bins, weighted by their hops; plot and JSON have all 25."""
        if not self.errors:
            return "No episode has known true progress to compare the hops with."
        rows = [["true hop", *(f"{name}" for name in self.errors), "hops"]]
        edges = np.linspace(-1, 1, HOP_BINS + 1)
        for first in range(0, HOP_BINS, 5):
            part = slice(first, first + 5)
            cells = []
            for error, count in self.errors.values():
                total = count[part].sum()
                cells.append(number(float(np.nansum(error[part] * count[part]) / total) if total else math.nan))
            hops = str(self.errors["all"][1][part].sum())
            rows.append([f"{edges[first]:+.1f} … {edges[first + 5]:+.1f}", *cells, hops])
        return layout(rows)

    def _calibrations(self, layout: Layout) -> str:
        if not self.calibration:
            return f"Fewer than {MIN_POINTS} scored frames have both an uncertainty and a known error above 0."
        rows = [["uncertainty", "rank", "AUSE", "by chance", "expected error by fifth of uncertainty"]]
        for name, c in self.calibration.items():
            fifths = "  ".join(f"{error:.3f}" for error in c.classes.error)
            rank, area = (short(figure, self._several) for figure in (c.rank, c.area))
            rows.append([name, rank, area, number(c.curve.area_by_chance), fifths])
        return layout(rows)


def evaluate(
    answered: Mapping[str, Answered],
    gate: GateConfig,
    fusion: FusionConfig,
    preset: str,
    model: str,
    version: str,
    reference: str,
) -> Evaluation:
    """Compute the metrics of a model's answers.

    Args:
        answered: the episodes with the answers, by setting; the first is the served one.
        gate: bounds, applied if `preset` is not "".
        fusion: the served fusion.
    Raises:
        BadInput: bounds are requested, but there is no failure or no annotated success that is long enough.
    """
    served, threshold = Variant(fusion), gate.success_threshold
    own = next(iter(answered.values()))
    stride = own[0][0].stride_steps
    settings = {name: judge_variant(part, served, threshold) for name, part in answered.items()}
    fused = {name: judge_variant(own, variant, threshold) for name, variant in variants().items()}
    columns = next(iter(settings.values())).columns
    verdict = decide(summarise(columns, threshold, stride), gate) if preset else None
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
        preset=preset,
        verdict=verdict,
    )


def _intervals(judged: Judged) -> dict[str, Any]:
    return {name: interval(figure) for name, figure in judged.figures.items()}
