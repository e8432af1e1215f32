"""Figures by behaviour as text, for `dopamine grm eval` and the main job."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dopamine_rl.evaluation.behaviours import BehaviourReport, InstructionReport
from experiments.reports.tables import number

COLUMNS = {
    "spearman": "Spearman",
    "kendall_a": "τ_a",
    "still_rmse": "RMSE at rest",
    "still_gain": "gain at rest",
    "end": "final Φ*",
    "true_end": "truth",
    "false_success": "false success",
}
"""Figures of a kind of episodes -> their columns."""


def behaviour_rows(behaviours: Mapping[str, BehaviourReport]) -> list[list[str]]:
    """A table with a row for each kind of episodes; the first row is the header."""
    rows = [["kind", "episodes", "failures", *COLUMNS.values()]]
    for kind, figures in behaviours.items():
        values = (getattr(figures, name) for name in COLUMNS)
        cells = [number(math.nan if value is None else value) for value in values]
        rows.append([kind, str(figures.episodes), str(figures.failures), *cells])
    return rows


def instruction_line(report: InstructionReport) -> str:
    """What a wrong instruction changes, in a sentence."""
    return (
        f"Under a wrong instruction {report.episodes} successes end at Φ* {report.mismatching_end:.3f} instead of "
        f"{report.matching_end:.3f} (gap {report.gap:+.3f}); {report.mismatched_success:.0%} still count as successes."
    )
