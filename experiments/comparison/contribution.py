"""What the reward contributes, in words: one run cannot tell, the study that compares its preset's rewards can."""

from __future__ import annotations

from typing import Any

from dopamine_rl.errors import BadInput
from dopamine_rl.texts import counted
from experiments.comparison.results import UnitResult, read_result, summarise
from experiments.comparison.study import Study, load_study

STUDY, BASELINE, METHOD = "rewards", "sparse", "grm"


def contribution(preset: str) -> str:
    """A paragraph on what the learned reward contributes with a preset, from the results that lie beside the study."""
    study = load_study(STUDY)
    figures = _figures(study) if study.preset == preset else {}
    if METHOD not in figures or "area_minus_baseline" not in figures[METHOD]:
        return (
            "One run cannot tell what the reward contributed: that takes trainings with and without it, over several "
            f"seeds. There are none for preset `{preset}`; `dopamine compare` runs them (docs/running.md)."
        )
    return _in_words(study, figures)


def _in_words(study: Study, figures: dict[str, dict[str, Any]]) -> str:
    """The paragraph for the figures of `summarise`."""
    with_reward, without = figures[METHOD], figures[BASELINE]
    gain, seeds = with_reward["area_minus_baseline"], with_reward["area_minus_baseline"]["seeds"]
    return (
        f"One run cannot tell what the reward contributed; `dopamine compare {study.name}` trained with this preset's "
        f"settings, with and without it, on {counted(len(seeds), 'seed')}. {_verdict(gain)}: the mean success on "
        f"{study.curve.episodes} held-out episodes during training differs by {gain['value']:+.2f} "
        f"({gain['low']:+.2f} to {gain['high']:+.2f}, 95 %{_practice(with_reward)}). "
        f"At the end {_rate(with_reward)} of the unseen episodes succeed with it, and {_rate(without)} with the task's "
        "own reward alone."
    )


def _verdict(gain: dict[str, Any]) -> str:
    if gain["low"] > 0.0:
        return "The learned reward makes the policy learn faster"
    if gain["high"] < 0.0:
        return "The learned reward makes the policy learn more slowly"
    return "No difference in the speed of learning was found"


def _practice(figures: dict[str, Any]) -> str:
    if "with_practice" not in figures:
        return ""
    gain = figures["with_practice"]["area_minus_baseline"]["value"]
    return f"; {gain:+.2f} with the {figures['practice_steps']} environment steps of practice counted"


def _rate(figures: dict[str, Any]) -> str:
    pooled = figures["success_pooled"]
    return f"{pooled['mean']:.2f} ({pooled['low']:.2f} to {pooled['high']:.2f})"


def _figures(study: Study) -> dict[str, dict[str, Any]]:
    """Figures of both arms, of the seeds that have both; {} where results were made with other settings."""
    pairs: list[tuple[UnitResult, UnitResult]] = []
    try:
        for seed in study.seeds:
            pair = [read_result(study.path.parent, study, unit) for unit in study.units((BASELINE, METHOD), (seed,))]
            if pair[0] is not None and pair[1] is not None:
                pairs.append((pair[0], pair[1]))
    except BadInput:
        return {}
    return summarise([result for pair in pairs for result in pair], [BASELINE, METHOD], BASELINE)
