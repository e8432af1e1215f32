"""A study's page: the table, the curves, and every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dopamine_rl.texts import counted
from experiments.comparison.results import LEVELS, UnitResult
from experiments.comparison.study import Study
from experiments.reports.plots import new_figure
from experiments.reports.tables import grid

HEADER = [
    "arm", "area under the curve", "minus baseline", "environment steps to .5", "to .8", "final success", "by seed",
    "longest below the clone", "gate",
]  # fmt: skip


def rows(table: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The study's table as text cells, below HEADER."""
    return [HEADER, *([arm, *_cells(figures)] for arm, figures in table.items())]


def _cells(figures: Mapping[str, Any]) -> list[str]:
    difference, pooled = figures.get("area_minus_baseline"), figures["success_pooled"]
    return [
        _interval(figures["area"]),
        "–" if difference is None else _interval(difference, "+"),
        *(", ".join(_steps(steps) for steps in figures[f"steps_to_{level:g}"]) for level in LEVELS),
        f"{pooled['mean']:.2f} ({pooled['low']:.2f} to {pooled['high']:.2f})",
        ", ".join(f"{rate:.2f}" for rate in figures["success"]),
        str(max(figures["longest_below_clone"])),
        ", ".join({True: "passed", False: "failed", None: "–"}[passed] for passed in figures["gate_passed"]),
    ]


def _interval(figure: Mapping[str, Any], sign: str = "") -> str:
    return f"{figure['value']:{sign}.3f} ({figure['low']:{sign}.3f} to {figure['high']:{sign}.3f})"


def _steps(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.0f}"


def markdown(study: Study, table: Mapping[str, Mapping[str, Any]], missing: Sequence[str]) -> str:
    """The study as a Markdown page.

    Args:
        missing: names of the units without a result.
    """
    figures = next(iter(table.values()))
    some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
    open_units = f"\n**Not complete:** {counted(len(missing), 'unit')} without a result ({some}).\n"
    ratios = [
        f"- {arm}: median environment steps to .5 relative to {study.baseline}: {_ratio(row['steps_ratio_0.5'])}"
        for arm, row in table.items()
        if "steps_ratio_0.5" in row
    ]
    ratios += [_with_practice(arm, row, study.baseline) for arm, row in table.items() if "with_practice" in row]
    return f"""# Study: {study.name}

{study.about}
{open_units if missing else ""}
{grid(rows(table))}

Every curve is the success rate on {study.curve.episodes} held-out episodes (seeds {study.curve.first_seed} and up),
without exploration noise, about every {study.curve.every} environment steps; its first point is the cloned policy. The
area is taken up to {figures["budget"]} environment steps and divided by them. Intervals of areas and of their paired
differences from `{study.baseline}`: 95 %, bootstrap over seeds, then episodes. Environment steps to a level: the first
of two consecutive points that have it, by seed. Final success: another set of held-out episodes, Wilson interval over
all seeds. Longest below the clone: the worst seed's longest stretch of points below its cloned policy, in environment
steps.

{chr(10).join(ratios)}

![Success on held-out episodes](curves.png)

Policies see the simulator's state, and success is the simulator's. Written by `dopamine compare {study.name}`.
"""


def _with_practice(arm: str, row: Mapping[str, Any], baseline: str) -> str:
    figures = row["with_practice"]
    return (
        f"- {arm}, with the {counted(row['practice_steps'], 'environment step')} of its practice counted: "
        f"area minus {baseline} {_interval(figures['area_minus_baseline'], '+')}, "
        f"median environment steps to .5 relative to {baseline}: {_ratio(figures['steps_ratio_0.5'])}"
    )


def _ratio(ratio: Mapping[str, Any]) -> str:
    if ratio["value"] is None:
        return "not reached"
    return f"{'at most ' if ratio['at_most'] else ''}{ratio['value']:.2f}"


def plot(path: Path, results: Sequence[UnitResult], arms: Sequence[str]) -> None:
    """Plot the curves: every seed thin, their mean bold with a band of one standard deviation over seeds."""
    figure = new_figure(8, 4)
    axes = figure.subplots()
    for number, arm in enumerate(arms):
        curves = [result.curve for result in results if result.arm == arm]
        if not curves:
            continue
        color = f"C{number % 10}"
        for curve in curves:
            axes.plot(curve.environment_steps, curve.success, color=color, alpha=0.3, linewidth=0.8)
        steps = np.linspace(0, min(curve.environment_steps[-1] for curve in curves), 100)
        interpolated = np.stack([np.interp(steps, curve.environment_steps, curve.success) for curve in curves])
        mean, spread = interpolated.mean(axis=0), interpolated.std(axis=0)
        label = f"{arm} ({counted(len(curves), 'seed')})"
        axes.plot(steps, mean, color=color, linewidth=1.8, label=label)
        axes.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.12, linewidth=0)
    axes.legend(fontsize=7, loc="upper left")
    axes.set(xlabel="environment steps", ylabel="success on held-out episodes", ylim=(-0.03, 1.03))
    figure.savefig(path)
