"""report.md says everything in words: no key of result.json stands alone in its tables."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dopamine_rl.evaluation.gate import GateReport, decide, judge
from dopamine_rl.evaluation.gate_config import GateConfig
from dopamine_rl.types import FusionConfig
from experiments.job import report
from experiments.reports.words import GATE, LABELS, PHASES, SHADOW, phase_words
from experiments.runtime.storage import RunFolder
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.dopamine_rl.test_gate import REFERENCE, failure, success
from tests.fakes import FakeEngine

OLD = Path(__file__).parents[1] / "fixtures" / "old_run" / "result.json"


def finished() -> dict[str, Any]:
    result: dict[str, Any] = json.loads(OLD.read_text(encoding="utf-8"))
    tables_of_their_own = {"behaviours", "instruction", "simulator"}
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
    text = report.write_report(RunFolder(tmp_path), result, verdict, [], "In words.").read_text(encoding="utf-8")
    cells = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert not [cell for cell in cells if re.search(r"[a-z]_[a-z]", cell.partition(" (`")[0])]
    assert "(`voc_plus`)" in text  # the bound's name in the preset
    assert "[]" not in text
    assert "## What the reward contributes\nIn words." in text
    assert "smoke" not in text.partition("\n")[2]


@pytest.mark.parametrize(
    ("scripted", "rollouts", "told"),
    [(1, 0, "(1 of scripts)"), (0, 1, "(the failures among 1 rollout of the cloned policy)"), (0, 0, "only.")],
)
def test_what_it_was_trained_on_is_told_without_what_there_was_not(scripted: int, rollouts: int, told: str) -> None:
    counts = {"reward_model_failures": scripted, "reward_model_rollouts": rollouts, "reward_model_demonstrations": 1}
    assert told in report._training_truth(finished() | counts | {"reward_model_start": "grm-mini"})


def test_an_episode_cut_off_on_its_way_in_is_drawn_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    new_figure = report.new_figure
    monkeypatch.setattr(report, "new_figure", lambda *size: figures.append(new_figure(*size)) or figures[-1])
    cut = replace(failure(0.9), true_progress=np.linspace(0.0, 0.95, 12, dtype=np.float32))
    stalled = replace(failure(0.9), true_progress=np.minimum(np.linspace(0.0, 1.3, 12), 0.95).astype(np.float32))
    judged = judge(
        LocalRewardClient(Scorer(FakeEngine())), [success(), failure(), cut, stalled], REFERENCE, FusionConfig()
    )
    report.plot_gate(tmp_path / "gate.png", judged, 0.8)
    [axes] = figures[0].axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert [line.get_label() for line in axes.get_lines()] == [
        "success", "failure", "cut off by the time limit on its way in", "failure"
    ]  # fmt: skip
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(lines)
    assert len({(line.get_color(), line.get_linestyle()) for line in lines.values()}) == 3
    assert (tmp_path / "gate.png").stat().st_size > 5000


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


def test_a_reward_for_progress_itself_is_told(tmp_path: Path) -> None:
    result = finished()
    verdict = decide(GateReport(**result["gate"]), GateConfig())
    for weight, told in ((None, False), (0.0, False), (1.0, True)):
        run = RunFolder(tmp_path / str(weight))
        run.path.mkdir()
        text = report.write_report(run, result | {"progress_reward": weight}, verdict, [], "").read_text(
            encoding="utf-8"
        )
        assert ("1 times the progress itself (not policy-invariant)" in text) == told
