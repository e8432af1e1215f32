"""The results of a study's units: one small JSON file each, kept beside the study file. No ray import."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dopamine_rl.errors import BadInput
from dopamine_rl.files import write_text
from dopamine_rl.learning_curves import LearningCurve, area, area_difference, steps_ratio
from dopamine_rl.metrics import wilson
from experiments.comparison.study import Study, Unit, settings_that_count
from experiments.settings import ExperimentConfig

FOLDER = "results"
LEVELS = (0.5, 0.8)
"""Success rates whose environment steps are reported."""


@dataclass(frozen=True, eq=False)
class UnitResult:
    """The result of one unit.

    Args:
        arm, seed: the unit.
        curve: success on the curve's unseen episodes; its first point is the cloned policy.
        final: outcomes of the trained policy on the final unseen episodes.
        gate: figures of its reward model; None without one.
        seconds: time of the training.
        practice_steps: environment steps of the practice that its reward model learned from.
    """

    arm: str
    seed: int
    curve: LearningCurve
    final: tuple[bool, ...]
    gate: Mapping[str, Any] | None
    seconds: float
    practice_steps: int = 0


def write_result(home: Path, study: Study, unit: Unit, content: Mapping[str, Any]) -> Path:
    """Write a unit's result, atomically."""
    known_by = {"arm": unit.arm, "seed": unit.seed, **_identity(study, unit)}
    folder = home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**known_by, **content}, allow_nan=False, separators=(",", ":"))
    return write_text(folder / f"{unit.name}.json", text + "\n")


def read_result(home: Path, study: Study, unit: Unit) -> UnitResult | None:
    """The result of a unit; None if there is none.

    Raises:
        BadInput: it is no result, or was made with other settings than the study file has now.
    """
    path = home / FOLDER / f"{unit.name}.json"
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        identity = {name: stored[name] for name in ("curve_settings", "settings")}
        result = _parsed(stored)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(str(path), "unreadable", f"delete it to run the unit again ({error!r})") from error
    if change := _difference(identity, _identity(study, unit)):
        fix = "delete it, or give the arm a new name: it was made with other settings than the study has now"
        raise BadInput(str(path), change, fix)
    demonstrations = unit.config.demonstrations
    practice = demonstrations.practice * unit.config.env.horizon if unit.config.reward in ("grm", "naive") else 0
    return replace(result, practice_steps=practice)


def _identity(study: Study, unit: Unit) -> dict[str, Any]:
    return {"curve_settings": asdict(study.curve), "settings": unit.settings}


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first difference in words; "" without any. Settings that a result does not know had their defaults."""
    defaults = {"curve_settings": {}, "settings": settings_that_count(ExperimentConfig())}
    for group, known in defaults.items():
        for name in sorted(before[group].keys() | now[group].keys()):
            stored, present = (side[group].get(name, known.get(name)) for side in (before, now))
            if stored != present:
                return f"{name} {stored}, now {present}"
    return ""


def _parsed(stored: Mapping[str, Any]) -> UnitResult:
    points = stored["curve"]
    steps = tuple(int(point["environment_steps"]) for point in points)
    outcomes = np.array([[digit == "1" for digit in point["outcomes"]] for point in points], bool)
    final = tuple(digit == "1" for digit in stored["final"])
    return UnitResult(
        stored["arm"], stored["seed"], LearningCurve(steps, outcomes), final, stored["gate"], stored["seconds"]
    )


def summarise(results: Sequence[UnitResult], arms: Sequence[str], baseline: str) -> dict[str, dict[str, Any]]:
    """Figures by arm: JSON values; None where there is no value.

    Returns:
        For each arm with results: seeds; clone and success (final success by seed); success_pooled (mean, low, high,
        n: Wilson); area, area_by_seed and budget (environment steps up to which areas are taken); steps_to_0.5 and
        steps_to_0.8 by seed (None where not reached); longest_below_clone by seed, environment steps; gate_passed by
        seed; practice_steps of a seed; and, if the baseline has results with the same seeds, area_minus_baseline
        (value, low, high, seeds) and steps_ratio_0.5 (value, at_most), and with_practice: the same two with the steps
        of practice counted, where there are some.
    """
    by_arm = {arm: {result.seed: result for result in results if result.arm == arm} for arm in arms}
    by_arm = {arm: members for arm, members in by_arm.items() if members}
    if not by_arm:
        return {}
    budget = min(result.curve.environment_steps[-1] for members in by_arm.values() for result in members.values())
    table = {arm: _arm_figures(list(members.values()), budget) for arm, members in by_arm.items()}
    reference = by_arm.get(baseline, {})
    for arm, members in by_arm.items():
        seeds = sorted(members.keys() & reference.keys())
        if arm == baseline or not seeds:
            continue
        ours, theirs = ([side[seed].curve for seed in seeds] for side in (members, reference))
        table[arm] |= _against(ours, theirs, seeds, budget)
        if table[arm]["practice_steps"]:
            counted = [members[seed].curve.delayed(members[seed].practice_steps) for seed in seeds]
            before = [reference[seed].curve.delayed(reference[seed].practice_steps) for seed in seeds]
            table[arm]["with_practice"] = _against(counted, before, seeds, budget)
    return table


def _against(
    ours: Sequence[LearningCurve], theirs: Sequence[LearningCurve], seeds: Sequence[int], budget: int
) -> dict[str, Any]:
    ratio = steps_ratio(ours, theirs, LEVELS[0])
    return {
        "area_minus_baseline": {**asdict(area_difference(ours, theirs, budget)), "seeds": seeds},
        "steps_ratio_0.5": {"value": _finite(ratio.value), "at_most": ratio.at_most},
    }


def _arm_figures(members: Sequence[UnitResult], budget: int) -> dict[str, Any]:
    curves = [result.curve for result in members]
    outcomes = [won for result in members for won in result.final]
    return {
        "seeds": [result.seed for result in members],
        "clone": [round(float(curve.success[0]), 4) for curve in curves],
        "success": [round(sum(result.final) / len(result.final), 4) for result in members],
        "success_pooled": asdict(wilson(sum(outcomes), len(outcomes))),
        "area": asdict(area(curves, budget)),
        "area_by_seed": [round(float(curve.areas(budget).mean()), 4) for curve in curves],
        "budget": budget,
        **{f"steps_to_{level:g}": [_finite(curve.steps_to(level)) for curve in curves] for level in LEVELS},
        "longest_below_clone": [curve.longest_below_start() for curve in curves],
        "gate_passed": [None if result.gate is None else bool(result.gate["passed"]) for result in members],
        "practice_steps": max(result.practice_steps for result in members),
        "seconds": [result.seconds for result in members],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
