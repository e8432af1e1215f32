"""Report of `dopamine bench fusion`: perspectives, fusions, cameras and uncertainty by model and look."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.evaluation.variants import (
    RESAMPLES,
    Answered,
    Calibration,
    CurveRule,
    Judged,
    Variant,
    calibrate,
    judge_variant,
    paired_differences,
    variants,
)
from dopamine_rl.evaluation.weighted_fusion import (
    DOUBTS,
    SOURCES,
    ErrorMaps,
    Source,
    Weighted,
    fit_maps,
    perspective_errors,
    uncertainty,
)
from dopamine_rl.files import write_text
from dopamine_rl.metrics import Interval, auc, bootstrap
from dopamine_rl.texts import counted, markdown, one_line
from dopamine_rl.types import PERSPECTIVES, FusionConfig, Perspective
from experiments.reports.tables import aligned, difference, grid, interval, number, short

ALL_VIEWS, HELD_IN = "all views", "held-in"
MEAN = "mean fusion, fused chain"
"""The rule that the others are compared with."""
FIGURES = {
    "mae": "MAE", "truth_kendall": "τ", "success_end": "end+", "failure_end": "end−", "auc": "AUC",
    "false_success": "false success",
}  # fmt: skip
DIFFERENCES = {"mae": "MAE", "truth_kendall": "τ", "success_end": "end+", "failure_end": "end−", "auc": "AUC"}


@dataclass(frozen=True, eq=False, slots=True)
class Answers:
    """The answers of one model.

    Args:
        version: version of its weights.
        held_in: answers on the episodes that the error maps are fitted on.
        looks: answers on the evaluated episodes, by look and setting.
    """

    version: str
    held_in: Answered
    looks: Mapping[str, Mapping[str, Answered]]


@dataclass(frozen=True, eq=False, slots=True)
class Expected:
    """Expected and actual error of a perspective, for one kind of uncertainty.

    Args:
        expected, error: mean error predicted by the map, and actual mean error.
        calibration: of uncertainty and error.
    """

    expected: float
    error: float
    calibration: Calibration


@dataclass(frozen=True, eq=False, slots=True)
class LookFigures:
    """Metrics of one model under one look.

    Args:
        judged: by rule.
        differences: to mean fusion, on the same episodes.
        foreseen: by kind of uncertainty and perspective.
        alarm: by kind of uncertainty, the probability (AUC) that the mean over an episode exceeds that of an episode of
            the first look; None for the first look.
    """

    judged: dict[str, Judged]
    differences: dict[str, dict[str, Interval]]
    foreseen: dict[tuple[Source, Perspective], Expected]
    alarm: dict[Source, Interval] | None


@dataclass(frozen=True, eq=False, slots=True)
class Comparison:
    """Metrics of all models under all looks.

    Args:
        versions: of the models, by name.
        maps: error maps of the models.
        figures: by look, then by model.
        adapted: by look, then by model: difference to the first model, both with mean fusion.
    """

    versions: dict[str, str]
    maps: dict[str, ErrorMaps]
    figures: dict[str, dict[str, LookFigures]]
    adapted: dict[str, dict[str, dict[str, Interval]]]

    def summary(self) -> dict[str, Any]:
        """The last line: errors of every rule, and the rules that are better than mean fusion at 95 %."""
        mae = {
            look: {
                model: {rule: interval(judged.figures["mae"]) for rule, judged in figures.judged.items()}
                for model, figures in models.items()
            }
            for look, models in self.figures.items()
        }
        better = [
            [look, model, rule]
            for look, models in self.figures.items()
            for model, figures in models.items()
            for rule, deltas in figures.differences.items()
            if deltas["mae"].high < 0.0
        ]
        return {"models": self.versions, "mae": mae, "less_error_than_mean": better}

    def text(self) -> str:
        """All tables, for the terminal."""
        return "\n".join(f"{one_line(title)}\n{aligned(rows)}\n" for title, rows in self._tables())

    def markdown(self) -> str:
        """The report."""
        names = ", ".join(f"{markdown(name)} (`{version}`)" for name, version in self.versions.items())
        tables = "\n".join(f"## {markdown(title)}\n{grid(rows)}\n" for title, rows in self._tables())
        return f"""# Perspectives, fusions and cameras by look

{names}. MAE: mean absolute error of progress against the simulator's true progress, all frames of all episodes.
τ: Kendall's τ-b of progress and true progress. end+, end−: mean final progress of successes and failures. AUC:
probability that a success ends higher than a failure. Intervals at 95 %; * marks differences whose interval excludes 0.
Expected error: by maps fitted on other episodes.

{tables}"""

    def content(self) -> dict[str, Any]:
        """fusion.json."""
        return self.summary() | {
            "maps": {
                model: {
                    source: [
                        {"uncertainty": m.uncertainty.tolist(), "error": m.error.tolist()}
                        for m in getattr(maps, source)
                    ]
                    for source in SOURCES
                }
                for model, maps in self.maps.items()
            },
            "figures": {
                look: {model: _content(figures) for model, figures in models.items()}
                for look, models in self.figures.items()
            },
            "minus_first_model": {
                look: {model: _intervals(deltas) for model, deltas in models.items()}
                for look, models in self.adapted.items()
            },
        }

    def _tables(self) -> list[tuple[str, list[list[str]]]]:
        tables = []
        for look, models in self.figures.items():
            rows = [["", *FIGURES.values(), "ΔMAE to mean", "Δend−"]]
            for model, figures in models.items():
                for rule, judged in figures.judged.items():
                    deltas = figures.differences.get(rule, {})
                    cells = [difference(deltas[key]) if key in deltas else "" for key in ("mae", "failure_end")]
                    rows.append([self._label(model, rule), *(short(judged.figures[key]) for key in FIGURES), *cells])
            tables.append((_counts(look, next(iter(models.values()))), rows))
        if len(self.versions) > 1:
            rows = [["mean fusion", *DIFFERENCES.values()]]
            for look, deltas_of in self.adapted.items():
                for model, deltas in deltas_of.items():
                    rows.append([f"{look}: {model}", *(difference(deltas[key]) for key in DIFFERENCES)])
            tables.append((f"Difference to {next(iter(self.versions))}, on the same episodes", rows))
        return [*tables, ("Uncertainty", self._uncertainty_rows()), ("Alarm", self._alarm_rows())]

    def _label(self, model: str, rule: str) -> str:
        return rule if len(self.versions) == 1 else f"{model}: {rule}"

    def _uncertainty_rows(self) -> list[list[str]]:
        rows = [["", *(f"{name}: {what}" for name in PERSPECTIVES for what in ("rank", "expected → actual"))]]
        for look, models in self.figures.items():
            for model, figures in models.items():
                for source in SOURCES:
                    cells = []
                    for name in PERSPECTIVES:
                        errors = figures.foreseen[source, name]
                        cells += [short(errors.calibration.rank), f"{number(errors.expected)} → {number(errors.error)}"]
                    rows.append([self._label(model, f"{look}, {source}"), *cells])
        return rows

    def _alarm_rows(self) -> list[list[str]]:
        rows = [["AUC against the first look", *SOURCES]]
        for look, models in self.figures.items():
            for model, figures in models.items():
                if figures.alarm is not None:
                    rows.append([self._label(model, look), *(short(figures.alarm[source]) for source in SOURCES)])
        return rows


def compare(answers: Mapping[str, Answers], threshold: float) -> Comparison:
    """Compute the metrics of the models' answers.

    Args:
        answers: by model name.
        threshold: final progress from which an episode is classified as success.
    Raises:
        BadInput: the true progress of the held-in episodes is unknown.
    """
    maps = {name: fit_maps(replies.held_in) for name, replies in answers.items()}
    first, *others = answers
    looks = list(answers[first].looks)
    figures = {
        look: {
            name: _judge(
                replies.looks[look], replies.looks[looks[0]] if look != looks[0] else None, maps[name], threshold
            )
            for name, replies in answers.items()
        }
        for look in looks
    }
    adapted = {
        look: {name: paired_differences(by_model[name].judged[MEAN], by_model[first].judged[MEAN]) for name in others}
        for look, by_model in figures.items()
    }
    return Comparison({name: replies.version for name, replies in answers.items()}, maps, figures, adapted)


def write(folder: Path, comparison: Comparison) -> None:
    """Write fusion.md, and fusion.json last."""
    text = json.dumps(comparison.content(), indent=2, allow_nan=False, ensure_ascii=False)
    for name, content in (("fusion.md", comparison.markdown()), ("fusion.json", text + "\n")):
        write_text(folder / name, content)


def _judge(
    by_setting: Mapping[str, Answered], plain: Mapping[str, Answered] | None, maps: ErrorMaps, threshold: float
) -> LookFigures:
    answered = by_setting[ALL_VIEWS]
    rules: dict[str, CurveRule] = {**variants(), **{f"weighted by {doubt}": Weighted(maps, doubt) for doubt in DOUBTS}}
    judged = {name: judge_variant(answered, rule, threshold) for name, rule in rules.items()}
    served = Variant(FusionConfig())
    judged |= {name: judge_variant(part, served, threshold) for name, part in by_setting.items() if name != ALL_VIEWS}
    differences = {name: paired_differences(row, judged[MEAN]) for name, row in judged.items() if name != MEAN}
    foreseen = {
        (source, name): _foreseen(answered, maps, source, i)
        for source in SOURCES
        for i, name in enumerate(PERSPECTIVES)
    }
    alarm = None if plain is None else {source: _alarm(answered, plain[ALL_VIEWS], source) for source in SOURCES}
    return LookFigures(judged, differences, foreseen, alarm)


def _foreseen(answered: Answered, maps: ErrorMaps, source: Source, perspective: int) -> Expected:
    pairs, expected = [], []
    for episode, answers in answered:
        if episode.truth is not None:
            valid = answers.valid
            wrong = perspective_errors(episode, answers)[valid, perspective]
            pairs.append((uncertainty(answers, source)[valid, perspective], wrong))
            expected.append(maps.expected(answers, source)[valid, perspective])
    errors = np.concatenate([wrong for _, wrong in pairs])
    return Expected(float(np.concatenate(expected).mean()), float(errors.mean()), calibrate(pairs))


def _alarm(answered: Answered, plain: Answered, source: Source) -> Interval:
    """The probability that an episode's mean uncertainty exceeds that of an episode of the first look."""
    levels = [[float(np.nanmean(uncertainty(answers, source))) for _, answers in part] for part in (answered, plain)]
    values = np.array([*levels[0], *levels[1]])
    strata = [0] * len(levels[0]) + [1] * len(levels[1])

    def chance(index: NDArray[np.int64]) -> list[float]:
        return [auc(values[index[index < len(levels[0])]], values[index[index >= len(levels[0])]])]

    return bootstrap(chance, strata, RESAMPLES)[0]


def _counts(look: str, figures: LookFigures) -> str:
    columns = next(iter(figures.judged.values())).columns
    cut = int(columns["cut_off"].sum())
    successes, failures, near = (int(columns[name].sum()) for name in ("success", "failure", "near_miss"))
    return f"{look}: {counted(successes, 'success')}, {counted(failures, 'failure')} ({counted(near, 'near miss')})" + (
        f", {cut} cut off" if cut else ""
    )


def _intervals(figures: Mapping[Any, Interval]) -> dict[str, Any]:
    return {name: interval(figure) for name, figure in figures.items()}


def _content(figures: LookFigures) -> dict[str, Any]:
    return {
        "rules": {name: _intervals(judged.figures) for name, judged in figures.judged.items()},
        "minus_mean": {name: _intervals(deltas) for name, deltas in figures.differences.items()},
        "foreseen": [
            {
                "source": source,
                "perspective": name,
                "expected": errors.expected,
                "error": errors.error,
                "rank": interval(errors.calibration.rank),
                "ause": interval(errors.calibration.area),
                "ause_by_chance": errors.calibration.curve.area_by_chance,
            }
            for (source, name), errors in figures.foreseen.items()
        ],
        "alarm": None if figures.alarm is None else _intervals(figures.alarm),
    }
