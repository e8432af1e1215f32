"""An evaluation as text: `table` for the terminal, `markdown` for eval.md."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dopamine_rl.evaluation.variants import Judged, paired_differences
from dopamine_rl.metrics import MIN_POINTS, OUTCOMES
from dopamine_rl.progress import HOP_BINS
from dopamine_rl.texts import code, counted, every, one_line
from experiments.reports import behaviours
from experiments.reports.behaviours import behaviour_rows, instruction_line
from experiments.reports.evaluation import FIGURES, Evaluation
from experiments.reports.tables import aligned, difference, filled, grid, number, short

ORDER = {"ordered": "of n", "voc_plus": "VOC+", "voc_minus": "VOC−"}
"""Metrics that depend only on the hops, and their number of episodes."""
COMPARED = {
    "order": "order", "progress_mae": "MAE", "other_mae": "MAE, others", "success_end": "end+", "failure_end": "end−",
    "auc": "AUC", "false_success": "false success", "outcome_accuracy": "outcome",
}  # fmt: skip
"""Metrics for comparing curves."""
EXPLAINED = (
    "`order`: rank correlation of the curve with time; `end+`, `end−`: mean final Φ* of successes and failures; "
    "`outcome`: share of episodes whose outcome (success, partial or failure, Eq. 58) is right; `w < 0.1`: share of "
    "frames that consistency fusion almost ignores."
)
"""What these columns mean."""
DIFFERENCES = {
    "common_mae": "MAE", "other_common_mae": "MAE, others", "failure_end": "end−", "outcome_accuracy": "outcome",
}  # fmt: skip
"""Metrics whose difference to the served model is listed; errors are at the frames that every stride scores."""
Layout = Callable[[Sequence[Sequence[str]]], str]
"""Makes a table of rows."""
NOT_TOLD = "No annotated success to be told wrongly."
FUSED = COMPARED | {"low_weight": "w < 0.1"}
SETTINGS = ORDER | COMPARED | {"common_mae": "MAE, common frames"}


def table(evaluation: Evaluation) -> str:
    """All tables, for the terminal."""
    parts = [
        one_line(f"Reward model {evaluation.version} ({evaluation.model}), references of {evaluation.reference}"),
        _episodes(evaluation),
        "",
    ]
    parts += [aligned(_figure_rows(evaluation)), *_without_value(evaluation), ""]
    if evaluation.behaviours:
        rows = filled(behaviour_rows(evaluation.behaviours))
        parts += ["Behaviour, by kind of episode", aligned(rows), _plain(behaviours.EXPLAINED), ""]
    if evaluation.instruction:
        parts += [instruction_line(evaluation.instruction), ""]
    parts += [
        "Perspectives and fusions, from the same hops",
        aligned(_effects(evaluation, evaluation.fused, FUSED)),
        _plain(EXPLAINED),
        "",
    ]
    parts += ["Strides and cameras", aligned(_effects(evaluation, evaluation.settings, SETTINGS)), ""]
    parts += ["Difference to the served model, on the same episodes and frames", _differences(evaluation, aligned), ""]
    parts += [
        "Confusion matrix: true outcome (row), outcome predicted by Eq. 58 (column)",
        aligned(_confusion_rows(evaluation)),
        "",
    ]
    parts += ["Hop error by bin of the true hop", _bins(evaluation, aligned), ""]
    parts += ["Uncertainty and error", _calibrations(evaluation, aligned)]
    if evaluation.verdict is not None:
        parts += ["", f"Bounds of preset {evaluation.preset}", evaluation.verdict.table()]
    return "\n".join(parts)


def markdown(evaluation: Evaluation) -> str:
    """The report with tables and plots."""
    verdict = ""
    if evaluation.verdict is not None:
        head = "| metric | value | bound | |\n| --- | --- | --- | --- |"
        verdict = f"\n## Bounds of preset {code(evaluation.preset)}\n{head}\n{evaluation.verdict.markdown()}\n"
    told = instruction_line(evaluation.instruction) if evaluation.instruction else NOT_TOLD
    return f"""# Reward model `{evaluation.version}` on unseen episodes

{code(evaluation.model)}, with reference and goal images from {code(evaluation.reference)}, which is not evaluated.
{_episodes(evaluation)}
95 % intervals: Wilson for shares of episodes, otherwise bootstrap over episodes, stratified by success (for an AUC of
1 its width is 0, although new episodes may differ).
{verdict}
## Metrics
{grid(_figure_rows(evaluation))}

{"".join(_without_value(evaluation))}

![Curves](curves.png)

## Behaviour
{grid(filled(behaviour_rows(evaluation.behaviours))) if evaluation.behaviours else "No episode's name says its kind."}

{behaviours.EXPLAINED} Means over episodes.

{told}

## Perspectives and fusions
All are computed from the same hops. "fused chain": the incremental hop is added to the last fused progress; "own
chain": to its own last value.

{grid(_effects(evaluation, evaluation.fused, FUSED))}

{EXPLAINED}

## Strides and cameras
Cameras that are not named are replaced by blank images. This shows what the model does without them, not what a model
trained without them would do.

{grid(_effects(evaluation, evaluation.settings, SETTINGS))}

VOC and order need 8 frames; `of n` is the number of
episodes with so many, and a dash means none. Strides differ in their share of easy frames (the first, the last), so
`MAE, common frames` uses only the frames that every stride scores, without the first.

### Difference to the served model
On the same episodes, and the frames that every stride scores.

{_differences(evaluation, grid)}

![Effects](effects.png)

## Outcomes
Confusion matrix: true outcome (row), outcome predicted by Eq. 58 (column). Partial: a failure that ends with at least
the first stage complete, by its true progress on the demonstrations' scale.

{grid(_confusion_rows(evaluation))}

## Hops and uncertainty
{_bins(evaluation, grid)}

{_calibrations(evaluation, grid)}

`rank` is the Spearman correlation of uncertainty and absolute error. AUSE is the area between the sparsification
curve and the best possible one (0 is best); "by chance" is that of a random uncertainty. The last column is the
expected error in each fifth of the frames, from least to most uncertain.

![Hops](hops.png)
"""


def _plain(explained: str) -> str:
    """An explanation for the terminal, below a table."""
    return "\n".join(textwrap.wrap(explained.replace("`", ""), 118, initial_indent="  ", subsequent_indent="  "))


def _episodes(evaluation: Evaluation) -> str:
    n = evaluation.counts()
    cut = f", {n['cut_off']} cut off during insertion (counted as neither)" if n["cut_off"] else ""
    one = "" if evaluation.several else " One episode gives no intervals and no differences: evaluate at least 2."
    return (
        f"{counted(n['success'], 'success')} ({n['expert']} annotated), {counted(n['failure'], 'failure')} "
        f"({counted(n['near_miss'], 'near miss')}){cut}; one frame {every(evaluation.stride, evaluation.unit)}; "
        f"{counted(n['invalid'], 'frame')} without a value.{one}"
    )


def _without_value(evaluation: Evaluation) -> list[str]:
    """A sentence that names the metrics without a value, if there are any."""
    names = [name for name in FIGURES if not math.isfinite(evaluation.served.figures[name].value)]
    why = f"no episode of the kind that they are about, or fewer than {MIN_POINTS} scored frames"
    return [f"Without a value ({why}): {', '.join(names)}."] if names else []


def _figure_rows(evaluation: Evaluation) -> list[list[str]]:
    rows = [["metric", "value", "95 % interval", "explanation"]]
    for name, about in FIGURES.items():
        figure = evaluation.served.figures[name]
        limits = f"{number(figure.low)} – {number(figure.high)}" if evaluation.several else "–"
        if math.isfinite(figure.value):
            rows.append([name, number(figure.value), limits, about])
    return filled(rows)


def _effects(evaluation: Evaluation, judged: Mapping[str, Judged], columns: Mapping[str, str]) -> list[list[str]]:
    rows = [["", *columns.values()]]
    for name, row in judged.items():
        ordered = str(int(np.isfinite(row.columns["voc_plus"]).sum()))
        cells = (ordered if key == "ordered" else short(row.figures[key], evaluation.several) for key in columns)
        rows.append([name, *cells])
    return filled(rows)


def _differences(evaluation: Evaluation, layout: Layout) -> str:
    if not evaluation.several:
        return "One episode gives no differences with intervals: evaluate at least 2."
    rows = [["", *DIFFERENCES.values()]]
    for name, judged in evaluation.others().items():
        deltas = paired_differences(judged, evaluation.served)
        rows.append([name, *(difference(deltas[key]) if key in deltas else "–" for key in DIFFERENCES)])
    return layout(filled(rows))


def _confusion_rows(evaluation: Evaluation) -> list[list[str]]:
    rows = [["", *OUTCOMES]]
    return rows + [[name, *map(str, row)] for name, row in zip(OUTCOMES, evaluation.confusion.tolist(), strict=True)]


def _bins(evaluation: Evaluation, layout: Layout) -> str:
    """Groups of five bins, weighted by their hops; plot and JSON have all 25."""
    if not evaluation.errors:
        return "No episode has known true progress to compare the hops with."
    rows = [["true hop", *(f"{name}" for name in evaluation.errors), "hops"]]
    edges = np.linspace(-1, 1, HOP_BINS + 1)
    for first in range(0, HOP_BINS, 5):
        part = slice(first, first + 5)
        cells = []
        for error, count in evaluation.errors.values():
            total = count[part].sum()
            cells.append(number(float(np.nansum(error[part] * count[part]) / total) if total else math.nan))
        hops = str(evaluation.errors["all"][1][part].sum())
        rows.append([f"{edges[first]:+.1f} … {edges[first + 5]:+.1f}", *cells, hops])
    return layout(rows)


def _calibrations(evaluation: Evaluation, layout: Layout) -> str:
    if not evaluation.calibration:
        return f"Fewer than {MIN_POINTS} scored frames have both an uncertainty and a known error above 0."
    rows = [["uncertainty", "rank", "AUSE", "by chance", "expected error by fifth of uncertainty"]]
    for name, c in evaluation.calibration.items():
        fifths = "  ".join(f"{error:.3f}" for error in c.classes.error)
        rank, area = (short(figure, evaluation.several) for figure in (c.rank, c.area))
        rows.append([name, rank, area, number(c.curve.area_by_chance), fifths])
    return layout(rows)
