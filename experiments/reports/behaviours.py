"""Figures by behaviour as text, for `dopamine grm eval` and the main job."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dopamine_rl.evaluation.behaviours import BehaviourReport, InstructionReport
from dopamine_rl.texts import counted
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
EXPLAINED = (
    "`Spearman`: rank correlation of Φ* with true progress over all frames; `τ_a`: Kendall's, tied pairs count 0; "
    "`RMSE at rest`, `gain at rest`: Φ* about its mean, and what it gains, in a stage called `pause`; `truth`: final "
    "true progress on the simulator's scale."
)
"""What the columns mean."""


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
    kept = f"{100 * report.mismatched_success:.0f} % of them still count as successes"
    return (
        f"Under a wrong instruction {counted(report.episodes, 'success')} end at Φ* {report.mismatching_end:.3f} "
        f"instead of {report.matching_end:.3f} (gap {report.gap:+.3f}); {kept}."
    )
