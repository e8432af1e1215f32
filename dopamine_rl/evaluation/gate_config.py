"""What a reward model must reach on unseen episodes before it may drive training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dopamine_rl.errors import require


@dataclass(frozen=True)
class GateConfig:
    """Bounds of the gate's figures (`dopamine_rl.evaluation.gate.GateReport`). The section `[gate]` of a preset."""

    voc_plus: float = 0.95
    """Least rank correlation of progress with time in expert episodes."""
    voc_minus: float = 0.95
    """Least rank correlation in the same episodes reversed: a model that always says forward fails here."""
    auc: float = 0.98
    """Least chance that a success ends at a higher progress than a failure."""
    progress_mae: float = 0.08
    """Largest mean absolute error of progress in expert episodes."""
    false_success: float = 0.05
    """Largest share of failures that end as a claimed success."""
    probe: Literal["off", "shown", "required"] = "shown"
    """The precision probe (dopamine_rl.evaluation.probe). Off: it is not taken. Shown: its figures stand in the report
    beside their bounds and refuse nothing. Required: they refuse a model as the other figures do."""
    probe_rank: float = 0.9
    """Least rank correlation of progress with alignment before the hole, at every distance of the precision probe."""
    probe_trade: float = 0.0
    """Largest progress that standing misaligned at the hole may have beyond standing aligned further off."""
    success_threshold: float = 0.8
    """Final progress from which an episode counts as a claimed success (paper, Eq. 58)."""
    least_successes: int = 30
    """Fewest unseen successes for a verdict to be worth much; with fewer the verdict says so, but does not fail for
    it."""
    least_failures: int = 60
    """Fewest unseen failures for a verdict to be worth much; with fewer the verdict says so, but does not fail for
    it."""

    def __post_init__(self) -> None:
        require(
            "gate",
            self,
            ("voc_plus", -1.0 <= self.voc_plus <= 1.0, "give a correlation in [-1, 1]"),
            ("voc_minus", -1.0 <= self.voc_minus <= 1.0, "give a correlation in [-1, 1]"),
            ("auc", 0.0 <= self.auc <= 1.0, "give a chance in [0, 1]; 0.5 is blind"),
            ("progress_mae", 0.0 <= self.progress_mae <= 1.0, "give an error of progress in [0, 1]"),
            ("false_success", 0.0 <= self.false_success <= 1.0, "give a share in [0, 1]"),
            ("probe", self.probe in ("off", "shown", "required"), "write off, shown or required"),
            ("probe_rank", -1.0 <= self.probe_rank <= 1.0, "give a correlation in [-1, 1]"),
            ("probe_trade", -1.0 <= self.probe_trade <= 1.0, "give a difference of progress in [-1, 1]"),
            ("success_threshold", 0.0 < self.success_threshold <= 1.0, "give a progress in (0, 1]"),
            ("least_successes", self.least_successes >= 1, "give at least 1"),
            ("least_failures", self.least_failures >= 1, "give at least 1"),
        )
