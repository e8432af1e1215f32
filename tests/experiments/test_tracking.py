from dataclasses import replace

import pytest

from experiments.runtime.storage import RunFolder
from experiments.runtime.tracking import TENSORBOARD, Tracker
from experiments.settings import ExperimentConfig, TrackingConfig


def test_numbers_are_logged_and_what_has_no_value_is_not(tmp_path):
    tracker = Tracker(RunFolder(tmp_path), ExperimentConfig())
    tracker.log(100, {"success": 0.5, "updates": None, "loss": float("nan"), "name": "x"})
    tracker.close()
    [events] = (tmp_path / TENSORBOARD).iterdir()
    content = events.read_bytes()
    assert b"success" in content
    assert not any(name in content for name in (b"updates", b"loss", b"name"))


@pytest.mark.slow
def test_without_a_key_weights_and_biases_records_offline(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    config = replace(ExperimentConfig(), tracking=TrackingConfig(wandb=True))
    tracker = Tracker(RunFolder(tmp_path), config)
    tracker.log(1, {"success": 0.5})
    tracker.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
