"""report.md says everything in words: no key of result.json stands alone in its tables."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dopamine_rl.evaluation.gate import GateReport, decide
from dopamine_rl.evaluation.gate_config import GateConfig
from experiments.job import report
from experiments.reports.words import GATE, LABELS, PHASES, SHADOW, phase_words
from experiments.runtime.storage import RunFolder

OLD = Path(__file__).parents[1] / "fixtures" / "old_run" / "result.json"


def finished() -> dict[str, Any]:
    result: dict[str, Any] = json.loads(OLD.read_text(encoding="utf-8"))
    tables_of_their_own = {"behaviours", "instruction"}
    fields = {field.name for field in dataclasses.fields(GateReport)} - tables_of_their_own
    return result | {"gate": {name: result["gate"].get(name, 0) for name in fields}}


def test_every_key_has_words() -> None:
    result = finished()
    assert set(result["gate"]) == set(GATE)
    assert set(result["labels"]) == set(LABELS)
    assert set(result["shadow"]) == set(SHADOW)
    for name in result["phase_seconds"]:
        assert name in PHASES or name.startswith("evaluate_")
        assert "_" not in phase_words(name, report.POLICIES)


def test_no_key_stands_alone_in_a_table(tmp_path: Path) -> None:
    result = finished()
    verdict = decide(GateReport(**result["gate"]), GateConfig())
    text = report.write_report(RunFolder(tmp_path), result, verdict, []).read_text(encoding="utf-8")
    cells = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert not [cell for cell in cells if re.search(r"[a-z]_[a-z]", cell.partition(" (`")[0])]
    assert "(`voc_plus`)" in text  # the bound's name in the preset
    assert "[]" not in text
    assert "smoke" not in text.partition("\n")[2]


@pytest.mark.parametrize(
    ("scripted", "rollouts", "told"),
    [(1, 0, "(1 of scripts)"), (0, 1, "(the failures among 1 rollout of the cloned policy)"), (0, 0, "only.")],
)
def test_what_it_was_trained_on_is_told_without_what_there_was_not(scripted: int, rollouts: int, told: str) -> None:
    counts = {"reward_model_failures": scripted, "reward_model_rollouts": rollouts, "reward_model_demonstrations": 1}
    assert told in report._training_truth(finished() | counts | {"reward_model_start": "grm-mini"})


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (None, "simulator's true progress"),
        ("truth", "simulator's true progress"),
        ("path", "joints"),
        ("outcome", "outcome"),
    ],
)
def test_what_failures_were_labelled_by_is_told(labels: str | None, told: str) -> None:
    tries = {"reward_model_failures": 0, "reward_model_rollouts": 0, "reward_model_practice": 24}
    result = finished() | tries | {"reward_model_failure_labels": labels, "reward_model_demonstrations": 1}
    text = report._training_truth(result | {"reward_model_start": "grm-mini"})
    assert "24 episodes of practice" in text
    assert told in text
    assert ("simulator" in text) == (labels in (None, "truth"))
