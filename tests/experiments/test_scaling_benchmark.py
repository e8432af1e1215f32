from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmarks import scaling

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_neither_a_slow_nor_a_hung_env_runner_holds_the_others_up() -> None:
    """The target of both is 0.9 on idle cores, a barrier gives 0.15 and 0.02; starting one anew takes a core for a while."""
    command = [sys.executable, "-m", "experiments.benchmarks.scaling", "--seconds", "12", "--step-s", "0.1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["share_of_sum"] >= 0.8
    assert figures["share_with_one_hung"] >= 0.6
    assert (figures["late"], figures["replaced"]) == (1, 1)


@pytest.mark.parametrize(
    ("option", "value"), [("--runners", "1"), ("--slow-factor", "0.5"), ("--seconds", "nan"), ("--step-s", "0.0")]
)
def test_bad_arguments_are_named(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scaling.main([option, value])
    assert f"{option} = {value}: give" in capsys.readouterr().err
