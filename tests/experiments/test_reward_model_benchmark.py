"""The benchmark of unseen tasks names the targets that its one-shot rows miss."""

from __future__ import annotations

from experiments.benchmarks.reward_model import FIGURES, TARGETS, missed, table

ROW = {"task": "PlugCharger", "arm": "mini", "shots": 1, "failures": 50, "beyond": 1, "near_miss_false_success": 0.0}
GOOD = ROW | {"voc_plus": 0.98, "voc_minus": 0.96, "progress_mae": 0.05, "outcome_accuracy": 0.95, "false_success": 0.0, "auc": 1.0, "adapt_s": 100.0}  # fmt: skip


def test_a_row_that_keeps_every_target_misses_none() -> None:
    assert missed(GOOD) == []


def test_every_target_is_held_against_the_one_shot_row() -> None:
    bad = GOOD | dict.fromkeys(TARGETS, 0.0) | {"false_success": 0.5, "adapt_s": 999.0}
    assert [text.split()[1] for text in missed(bad)] == list(TARGETS)
    assert len(missed(GOOD | dict.fromkeys(TARGETS, float("nan")))) == len(TARGETS)
    assert missed(bad | {"arm": "scratch"}) == missed(bad | {"shots": 10}) == []


def test_the_table_has_every_figure() -> None:
    assert all(name in table([GOOD]) for name in FIGURES)
