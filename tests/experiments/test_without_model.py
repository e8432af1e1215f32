"""Rewards that ask no reward model make none, and say nothing of one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.workers import Film
from dopamine_rl.evaluation.gate import Verdict
from experiments import peg_insert
from experiments.job import films, phases, report
from experiments.job.prepared import Cloned, RewardModel
from experiments.job.run import Run
from experiments.reports.video import write_film
from experiments.runtime.console import Console
from experiments.runtime.storage import RunFolder
from experiments.settings import ExperimentConfig


@pytest.fixture
def calls(monkeypatch):
    """What of the costly parts is done; none of it really."""
    calls = []
    monkeypatch.setattr(phases, "_record", lambda run, name, title, plans: calls.append((name, set(plans))))
    monkeypatch.setattr(phases, "_clone", lambda run, shown, own: Cloned(Path("bc"), "v", {"32x32": 0.5}))
    reward_model = RewardModel(Path("grm"), "v", None)

    def train(*_):
        calls.append("reward model")
        return reward_model

    monkeypatch.setattr(phases, "_train_reward_model", train)
    monkeypatch.setattr(Run, "service", lambda *_: pytest.fail("a reward model was served"))
    return calls


def run_of(reward, tmp_path, **changes):
    return Run(replace(ExperimentConfig(reward=reward), **changes), RunFolder(tmp_path), Console(), "smoke")


@pytest.mark.parametrize("reward", ["sparse", "oracle", "dense"])
def test_no_model_is_made_and_no_episode_recorded_for_one(calls, tmp_path, reward):
    # A model to start from that is not there is of no interest either.
    config = ExperimentConfig()
    prepared = phases.prepare(run_of(reward, tmp_path, sft=replace(config.sft, start_from=str(tmp_path / "none"))))
    assert prepared.model is None
    assert prepared.gate_episodes == []
    assert calls == [("demonstrations", {"policy"})]


@pytest.mark.parametrize("reward", ["grm", "naive"])
def test_what_asks_the_model_makes_it(calls, tmp_path, reward):
    assert phases.prepare(run_of(reward, tmp_path)).model is not None
    assert ("demonstrations", {"policy", "reward_model", "gate", "gate_behaviours"}) in calls
    assert "reward model" in calls


TRAINED = {
    "environment_steps": 100,
    "seconds": 10.0,
    "updates": 5,
    "sittings": 1,
    "labels": None,
    "records": None,
    "shadow": None,
    "curve": [{"environment_steps": 100, "episodes": 2, "successes": 1, "final_potential_mean": None}],
}
SUCCESS = {name: [True, False] for name in ("expert", "straight_push", "bc", "policy")}


@pytest.mark.parametrize("reward", ["sparse", "oracle", "dense"])
def test_the_whole_job_obeys_no_gate_and_its_result_invents_no_figures(calls, tmp_path, reward, monkeypatch):
    from experiments.job import training

    monkeypatch.setattr(training, "train_policy", lambda run, prepared, transitions: TRAINED)
    monkeypatch.setattr("experiments.job.labels.label", lambda run, prepared: None)
    monkeypatch.setattr(phases, "evaluate", lambda run, compared: SUCCESS)
    monkeypatch.setattr(films, "make_films", lambda run, prepared: ["policy.mp4"])
    monkeypatch.setattr("experiments.job.gate.gate", lambda *_: pytest.fail("a gate was asked"))
    peg_insert.complete(run_of(reward, tmp_path), force=False)
    result = json.loads((tmp_path / "result.json").read_text())
    for name in ("model_version", "gate", "gate_passed", "labels", "shadow", "records", "reward_model_demonstrations"):
        assert result[name] is None, name
    assert result["gate_forced"] is False
    assert result["provenance"]["preset"] == "smoke"
    assert result["provenance"]["machine"]["cores"]
    text = (tmp_path / "report.md").read_text()
    assert "No reward model was used" in text
    for word in ("gate.png", "None", "shadow", "| labels", "FAILED", "perspective"):
        assert word not in text, word


def test_a_film_shows_the_tasks_reward_alone(tmp_path):
    views = np.zeros((5, 1, 32, 32, 3), np.uint8)
    film = Film(views, np.array([0, 0, 0, 1], np.float32), True, True, (0, 2, 4), 7)
    curves = films.task_curves(film)
    np.testing.assert_array_equal(curves.bars, film.task_rewards)
    assert len(curves.progress) == 0
    path = write_film(tmp_path / "policy.mp4", enumerate(film.views), curves, "title")
    assert path.stat().st_size > 1000


def test_the_report_of_a_run_with_a_model_has_every_section(tmp_path):
    old = Path(__file__).parents[1] / "fixtures" / "old_run"
    result = json.loads((old / "result.json").read_text())
    verdict = Verdict(checks=(), notes=())
    text = report.write_report(
        RunFolder(tmp_path), result, verdict, ["expert.mp4", "bc.mp4", "policy.mp4"], ""
    ).read_text()
    for words in (
        "## The reward model on unseen episodes",
        "gate.png",
        "| shadow monitor | |",
        "| labels | |",
        "1 − Φ",
    ):
        assert words in text
    assert [line for line in text.splitlines() if line.startswith(("#", "!", "- "))] == [
        "# peg_insert_smoke",
        "## Success on unseen seeds",
        "## The reward model on unseen episodes",
        "![Progress of unseen successes and failures](gate.png)",
        "## Training",
        "![Learning curve](learning_curve.png)",
        "## Videos",
        "- [expert.mp4](expert.mp4)",
        "- [bc.mp4](bc.mp4)",
        "- [policy.mp4](policy.mp4)",
        "## Duration by phase",
    ]
