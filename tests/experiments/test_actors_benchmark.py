from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.ray
@pytest.mark.render
@pytest.mark.long
def test_the_benchmark_prints_its_figures_last() -> None:
    root = Path(__file__).resolve().parents[2]
    command = [
        sys.executable,
        "-m",
        "experiments.benchmarks.actors",
        "--rounds",
        "1",
        "--steps",
        "16",
        "--fragment",
        "8",
    ]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    [row] = figures["rows"]
    assert figures["ratio"] == row["ratio"] > 0
    assert row["p99_ms"] >= row["p50_ms"] >= row["latency_ms"] == 50
    labels = figures["labels"]
    assert labels["closed"]
    assert labels["asked"] == labels["answered"] > 0
    assert 1 <= figures["queue"]["longest"] <= figures["queue"]["bound"]
    assert figures["render_ms"] > 0
    assert figures["same_episodes"]
