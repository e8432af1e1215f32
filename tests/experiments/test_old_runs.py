"""A run of an older version can be read, and is not gone on with.

`fixtures/old_run` was made by the version before `run.json`: the smoke preset with smaller networks and pictures, cut
to two records, whose arrays are that version's.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dopamine_rl.errors import BadInput
from dopamine_rl.policy import DeterministicPolicy
from experiments import peg_insert, sweep
from experiments.commands import compare
from experiments.commands.audit import audit_run
from experiments.runtime import ownership
from experiments.runtime.arguments import RunArguments, parse_settings
from experiments.runtime.resume import only_run
from experiments.runtime.storage import RunFolder
from experiments.settings import ExperimentConfig

OLD = Path(__file__).parents[1] / "fixtures" / "old_run"


def test_its_policy_and_settings_are_what_evaluate_reads():
    _, config = parse_settings(RunArguments, ExperimentConfig, ["--preset", str(OLD / "config.toml")], "evaluate", "")
    assert config.env.image_size == 56
    policy = DeterministicPolicy.load(OLD / "policy.safetensors")
    size = policy._actor._mean.shape[0]
    action = policy(np.zeros((1, size), np.float32))
    assert np.isfinite(action).all()
    assert np.abs(action).max() <= 1.0


def test_its_records_are_audited():
    report = audit_run(OLD)
    assert (report["episodes"], report["frames"], report["doubled"], report["wrong_version"]) == (2, 43, 0, 0)
    assert report["answered"] == 43
    assert report["max_abs_difference"] <= 1e-4


def test_its_reward_model_is_served():
    from reward_service.engines.transformers import TransformersEngine

    assert (
        TransformersEngine(OLD / "grm").model_version == json.loads((OLD / "result.json").read_text())["model_version"]
    )


@pytest.fixture(params=["finished", "interrupted while training", "interrupted before its first phase was done"])
def old_run(request, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(OLD, folder)
    if request.param != "finished":
        for name in ("result.json", "report.md", "phases/train.json", "policy.safetensors"):
            (folder / name).unlink()
    if "first phase" in request.param:
        shutil.rmtree(folder / "phases")
    return folder


@pytest.mark.parametrize("main", [peg_insert.main, sweep.main, compare.main])
def test_going_on_with_it_is_refused_with_the_fix(old_run, main, capsys):
    before = {path: path.stat().st_mtime_ns for path in old_run.rglob("*")}
    settings = [] if main is compare.main else ["--preset", str(old_run / "config.toml")]
    with pytest.raises(SystemExit) as caught:
        main([*settings, "--out", str(old_run)])
    assert caught.value.code == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "--fresh" in line
    assert "version that made this run" in line
    assert {path: path.stat().st_mtime_ns for path in old_run.rglob("*")} == before


def test_fresh_begins_anew(old_run):
    with only_run(RunFolder(old_run), fresh=True):
        assert {path.name for path in old_run.iterdir()} == {".lock", "run.json"}
        assert ownership.run_format(old_run) == ownership.FORMAT


def test_what_only_looks_a_little_like_one_is_none(tmp_path):
    (tmp_path / "phases").mkdir()
    (tmp_path / "phases" / "moon.json").write_text('{"key": "full", "value": 1}')
    with pytest.raises(BadInput, match="other files"), only_run(RunFolder(tmp_path), fresh=True):
        pass
