"""The plots of `dopamine grm eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dopamine_rl.evaluation.variants import Variant
from dopamine_rl.metrics import chain
from dopamine_rl.progress import HOP_BINS
from dopamine_rl.types import PERSPECTIVES
from experiments.reports.evaluation import Evaluation
from experiments.reports.plots import new_figure
from experiments.reports.tables import number

COLOURS = {"success": "tab:green", "partial": "tab:orange", "failure": "tab:red", "cut off": "grey"}
LEAST = 5
"""Minimum number of hops for a bin to be drawn."""
SERIES = {"incremental": "tab:blue", "forward": "tab:purple", "backward": "tab:brown"}


def plot_all(folder: Path, evaluation: Evaluation) -> None:
    """Write curves.png, hops.png and effects.png."""
    folder.mkdir(parents=True, exist_ok=True)
    _plot_curves(folder / "curves.png", evaluation)
    _plot_hops(folder / "hops.png", evaluation)
    _plot_effects(folder / "effects.png", evaluation)


def _plot_curves(path: Path, evaluation: Evaluation) -> None:
    figure = new_figure(16, 4)
    successes, failures, order, roc = figure.subplots(1, 4)
    served = Variant(evaluation.fusion)
    for episode, answers in next(iter(evaluation.answered.values())):
        kind = "cut off" if episode.verdict["cut_off"] else episode.outcome or "failure"
        axes = successes if kind == "success" else failures
        times = episode.frame_steps[answers.frame_ids]
        axes.plot(times, served.curve(answers)[0], color=COLOURS[kind], alpha=0.5, lw=1.1, label=kind)
        if episode.expert:
            share = np.linspace(0.0, 1.0, len(times))
            order.plot(
                share, chain(answers.hops[:, 0], 0.0), color="tab:blue", alpha=0.4, lw=1.1, label="forward from 0"
            )
            back = chain(answers.swapped[::-1], 1.0)[::-1]
            order.plot(share, back, color="tab:orange", alpha=0.4, lw=1.1, label="backward from 1")
    figures = evaluation.served.figures
    for axes, title in ((successes, "Φ* of successes"), (failures, "Φ* of failures, by true outcome")):
        axes.set(title=title, xlabel=evaluation.unit, ylabel="Φ*")
    voc = f"VOC+ {number(figures['voc_plus'].value)}, VOC− {number(figures['voc_minus'].value)}"
    order.set(title=f"incremental chain: {voc}", xlabel="share of an annotated success", ylabel="progress")
    for axes in (successes, failures, order):
        axes.set(ylim=(-0.03, 1.03))
        _legend(axes)
    _plot_roc(roc, evaluation)
    figure.savefig(path)


def _plot_roc(axes: Any, evaluation: Evaluation) -> None:
    columns = evaluation.served.columns
    ends = {name: columns["end"][columns[name] == 1] for name in ("success", "failure")}
    thresholds = np.concatenate([[np.inf], np.sort(np.concatenate(list(ends.values())))[::-1], [-np.inf]])
    for kind, colour in (("failure", "tab:blue"), ("near_miss", "tab:red")):
        wrong = columns["end"][columns[kind] == 1]
        if len(wrong) and len(ends["success"]):
            x, y = ([np.mean(values >= t) for t in thresholds] for values in (wrong, ends["success"]))
            axes.plot(
                x,
                y,
                drawstyle="steps-post",
                color=colour,
                label={"failure": "all failures", "near_miss": "near misses"}[kind],
            )
    axes.plot([0, 1], [0, 1], ":", color="grey", lw=1.0)
    value = evaluation.served.figures["auc"].value
    axes.set(
        title=f"ROC of success by final Φ*, AUC {value:.3f}",
        xlabel="false positive rate",
        ylabel="true positive rate",
    )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    _legend(axes)


def _plot_hops(path: Path, evaluation: Evaluation) -> None:
    figure = new_figure(13, 4)
    bins, classes, sparse = figure.subplots(1, 3)
    centres = (np.arange(HOP_BINS) + 0.5) / HOP_BINS * 2 - 1
    for name in PERSPECTIVES:
        if name in evaluation.errors:
            error, count = evaluation.errors[name]
            bins.plot(centres, np.where(count >= LEAST, error, np.nan), "o-", ms=3, color=SERIES[name], label=name)
    bins.set(title="hop error by true hop, 25 bins", xlabel="true hop", ylabel="mean absolute error", ylim=(0, None))
    if evaluation.errors:
        counts = bins.twinx()
        counts.bar(centres, evaluation.errors["all"][1], width=1.6 / HOP_BINS, color="grey", alpha=0.2)
        counts.set(ylabel="hops (grey)")
    for doubt, calibration in evaluation.calibration.items():
        colour = SERIES.get(doubt.removeprefix("entropy, "), "black")
        fifth = np.arange(1, len(calibration.classes.error) + 1)
        classes.plot(
            fifth, calibration.classes.error, "o-", color=colour, label=f"{doubt} ({calibration.rank.value:+.2f})"
        )
        sparse.plot(calibration.curve.removed, calibration.curve.by_uncertainty, color=colour, label=doubt)
        sparse.plot(calibration.curve.removed, calibration.curve.by_error, ":", color=colour, lw=1.0)
    classes.set(
        title="error by uncertainty (rank correlation)",
        xlabel="fifth of uncertainty, least to most",
        ylabel="mean absolute error",
        ylim=(0, None),
    )
    sparse.axhline(1.0, color="grey", lw=1.0)
    sparse.set(
        title="sparsification (dotted: best possible)",
        xlabel="share of most uncertain frames removed",
        ylabel="relative error of the rest",
        ylim=(0, None),
    )
    for axes in (bins, classes, sparse):
        _legend(axes)
    figure.savefig(path)


def _plot_effects(path: Path, evaluation: Evaluation) -> None:
    groups = [*evaluation.settings.items(), *evaluation.fused.items()]
    figure = new_figure(13, 0.7 + 0.32 * len(groups))
    titles = {
        "common_mae": "MAE, annotated successes",
        "other_mae": "MAE, other episodes",
        "gap": "final Φ*: successes − failures",
        "outcome_accuracy": "outcome accuracy",
    }
    rows = -np.arange(len(groups))
    for axes, (key, title) in zip(figure.subplots(1, len(titles), sharey=True), titles.items(), strict=True):
        for y, (_, judged) in zip(rows, groups, strict=True):
            metric = judged.figures[key]
            colour = "tab:blue" if -y < len(evaluation.settings) else "tab:purple"
            axes.plot([metric.low, metric.high], [y, y], color=colour, lw=2.0)
            axes.plot([metric.value], [y], "o", color=colour)
        axes.set(title=title)
        axes.axvline(groups[0][1].figures[key].value, color="grey", lw=0.8, ls=":")
        axes.set_yticks(rows, [name for name, _ in groups])
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path)


def _legend(axes: Any) -> None:
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    if unique:
        axes.legend(unique.values(), unique.keys(), fontsize=8)
