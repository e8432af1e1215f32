from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def run(*arguments: str) -> dict[str, float]:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "experiments.benchmarks.scorer", "--rounds", "1", "--frames", "2", "--views", "2"]
    done = subprocess.run([*command, *arguments], cwd=root, capture_output=True, text=True, timeout=120, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {"ratio", "ratio_batch_1", "share_of_floor"} <= set(figures)
    assert all(value > 0 for value in figures.values())
    return figures


def test_the_benchmark_prints_its_figures_last() -> None:
    assert run()["max_abs_difference"] < 1e-4


def test_answers_in_text_are_timed_and_not_compared() -> None:
    assert "max_abs_difference" not in run("--answers", "text")
