"""The benchmark of unseen tasks: targets that its one-shot rows miss are named, its models have not seen them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from dopamine_rl.grm.config import BatchPlan
from dopamine_rl.grm.hub import model_folder
from experiments.benchmarks.reward_model import FIGURES, STARTS, TARGETS, missed, table
from experiments.commands import grm_train

ROW = {"task": "PlugCharger", "arm": "mini", "shots": 1, "failures": 50, "beyond": 1, "near_miss_false_success": 0.0}
GOOD = ROW | {
    "voc_plus": 0.98,
    "voc_minus": 0.96,
    "progress_mae": 0.05,
    "outcome_accuracy": 0.95,
    "false_success": 0.0,
    "auc": 1.0,
    "adapt_s": 100.0,
}


def test_a_row_that_keeps_every_target_misses_none() -> None:
    assert missed(GOOD) == []


def test_every_target_is_held_against_the_one_shot_row() -> None:
    bad = GOOD | dict.fromkeys(TARGETS, 0.0) | {"false_success": 0.5, "adapt_s": 999.0}
    assert [text.split()[1] for text in missed(bad)] == list(TARGETS)
    assert len(missed(GOOD | dict.fromkeys(TARGETS, float("nan")))) == len(TARGETS)
    assert missed(bad | {"arm": "scratch"}) == missed(bad | {"shots": 10}) == []


def test_the_table_has_every_figure() -> None:
    assert all(name in table([GOOD]) for name in FIGURES)


@pytest.mark.parametrize(("task", "model"), STARTS.items())
def test_the_shipped_models_were_trained_as_today_s_preset_says_on_every_task_but_one(
    task: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the command's --out must be free
    card = json.loads((model_folder(model) / "grm.json").read_text(encoding="utf-8"))["card"]
    trained_on = {Path(folder).name for folder in card["data"]}
    assert trained_on == {"PickCube", "StackCube", "PullCube", *STARTS} - {task}
    for folder in card["data"]:
        (tmp_path / folder).mkdir(parents=True)
    _, config, command = grm_train.parse(card["command"].removeprefix("dopamine grm train ").split())
    assert command == card["command"]
    # Settings that are newer than the card have the value that leaves a training as it was.
    usual = json.loads(json.dumps(asdict(BatchPlan())))
    stored = card["training"] | {"plan": usual | card["training"]["plan"]}
    assert json.loads(json.dumps(asdict(config.sft.train))) == stored
