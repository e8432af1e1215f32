from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.ray
def test_the_benchmark_prints_its_figures_last() -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(root / "experiments/benchmarks/learner.py"), "--rounds", "1", "--updates", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {"ratio_rllib", "ratio_bare"} <= set(figures)
    assert all(value > 0 for value in figures.values())
