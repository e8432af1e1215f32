"""What training reports about held-out episodes: the gate's figures, by the names that model cards and curves know them
by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.answers import EpisodeHops
from dopamine_rl.evaluation.figures import Row, as_columns, curve_row, figures, mean, order_row
from dopamine_rl.evaluation.gate_config import GateConfig
from dopamine_rl.evaluation.variants import Variant
from dopamine_rl.grm.labels import EpisodeLabels
from dopamine_rl.metrics import spearman
from dopamine_rl.types import FusionConfig

FIGURES = {
    "voc_plus": "voc_plus",
    "voc_minus": "voc_minus",
    "mae": "progress_mae",
    "end": "success_end",
    "end_failures": "failure_end",
    "auc": "auc",
}
"""Name in the report of a training -> name among the gate's figures."""


def held_out_figures(answered: Sequence[tuple[EpisodeLabels, EpisodeHops]]) -> dict[str, float]:
    """Mean figures over held-out episodes; what no episode can say is left out.

    Args:
        answered: the episodes with the answers, whose `frame_ids` count the frames that `progress` describes.
    Returns:
        Those in `FIGURES`, by their names in the report, and spearman, the rank correlation of progress with the truth
        at the frames after the first. voc_plus, voc_minus, mae, end and spearman are over successes, the rank
        correlations among them over those of at least 8 frames.
    Raises:
        BadInput: no success among the episodes.
    """
    if not any(labels.success for labels, _ in answered):
        raise BadInput("episodes", len(answered), "evaluate on at least one successful episode")
    columns = as_columns([_row(labels, answers) for labels, answers in answered])
    judged = figures(columns, GateConfig().success_threshold)
    named = {name: judged[figure] for name, figure in FIGURES.items()} | {"spearman": mean(columns["spearman"])}
    return {name: value for name, value in named.items() if not np.isnan(value)}


def _row(labels: EpisodeLabels, answers: EpisodeHops) -> Row:
    curve, _ = Variant(FusionConfig()).curve(answers)
    truth = labels.progress[answers.frame_ids]
    order = order_row(answers.hops[:, 0], answers.swapped, curve, labels.success)
    return {
        "success": labels.success,
        "failure": not labels.success,
        "near_miss": False,
        **order,
        **curve_row(curve, answers.valid, truth if labels.success else None),
        "spearman": np.nan if np.isnan(order["order"]) else spearman(curve[1:], truth[1:]),
    }
