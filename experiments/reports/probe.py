"""The report of `dopamine grm probe`: a table for the terminal, a plot, and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dopamine_rl.evaluation.probe import ProbeFigures
from dopamine_rl.texts import one_line
from experiments.reports.plots import new_figure, plot_text
from experiments.reports.tables import aligned, number, plain


@dataclass(frozen=True, eq=False, slots=True)
class ProbeReport:
    """The precision probe of a reward model.

    Args:
        model, version: path and version of the model.
        reference: the demonstration that provides reference and goal images.
        task: ManiSkill's name.
        states: recorded, and `invalid`: those without a readable answer.
        model_figures, truth: of the model's progress and of true progress, in the same states.
    """

    model: str
    version: str
    reference: str
    task: str
    states: int
    invalid: int
    model_figures: ProbeFigures
    truth: ProbeFigures

    def table(self) -> str:
        """Progress by gap and offset with the figures, for the terminal."""
        offsets = [f"{1e3 * offset:g} mm" for offset in self.truth.offsets_m]
        rows = [["gap", "progress", *offsets, "rank"]]
        for i, gap in enumerate(self.truth.gaps_m):
            for name, figures in (("model", self.model_figures), ("truth", self.truth)):
                values = [_short(value) for value in figures.progress[i]]
                rows.append([f"{1e3 * gap:g} mm" if name == "model" else "", name, *values, _short(figures.ranks[i])])
        near, far = (f"{1e3 * gap:g} mm" for gap in (self.truth.gaps_m[-1], self.truth.gaps_m[0]))
        lines = [
            one_line(f"Reward model {self.version} ({self.model}), references of {self.reference}"),
            f"Progress of the object at rest before the hole, by its offset from the axis, in {self.states} states",
            aligned(rows),
            "",
            aligned(
                [
                    ["figure", "model", "truth", ""],
                    ["probe_rank", *self._pair("rank"), "lowest rank correlation with alignment; wanted 1"],
                    ["probe_trade", *self._pair("trade"), _trade_text(near, offsets[-1], far)],
                ]
            ),
        ]
        if self.invalid:
            lines.append(f"  {self.invalid} of {self.states} states went without a readable answer")
        return "\n".join(lines)

    def content(self) -> dict[str, Any]:
        """probe.json, and the last line."""
        return {
            "model": self.model,
            "model_version": self.version,
            "reference": self.reference,
            "task": self.task,
            "states": self.states,
            "invalid": self.invalid,
            "gaps_m": self.truth.gaps_m.tolist(),
            "offsets_m": self.truth.offsets_m.tolist(),
            **_plain(self.model_figures),
            "truth": _plain(self.truth),
        }

    def plot(self, path: Path) -> None:
        """Progress against the offset, a line for each gap; the truth dashed."""
        figure = new_figure(7, 3.6)
        axes = figure.subplots()
        for i, gap in enumerate(self.truth.gaps_m):
            offsets, colour = 1e3 * self.truth.offsets_m, f"C{i}"
            axes.plot(offsets, self.model_figures.progress[i], "o-", ms=3, color=colour, label=f"gap {1e3 * gap:g} mm")
            axes.plot(offsets, self.truth.progress[i], "--", lw=1.0, color=colour)
        axes.set(xlabel="offset from the axis, mm", ylabel="progress Φ (dashed: true)", ylim=(-0.03, 1.03))
        axes.set_title(plot_text(f"{self.task}, {self.version}"), fontsize=9)
        axes.legend(fontsize=8)
        figure.savefig(path)

    def _pair(self, name: str) -> tuple[str, str]:
        return number(getattr(self.model_figures, name)), number(getattr(self.truth, name))


def _trade_text(near: str, offset: str, far: str) -> str:
    return f"progress {near} away and {offset} off minus {far} away and aligned; wanted below 0"


def _short(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "–"


def _plain(figures: ProbeFigures) -> dict[str, Any]:
    return {
        "progress": [[plain(float(value)) for value in row] for row in figures.progress],
        "ranks": [plain(float(value)) for value in figures.ranks],
        "probe_rank": plain(figures.rank),
        "probe_trade": plain(figures.trade),
    }
