"""The real Stable-Baselines3 learns from the progress reward; it has an environment of its own (`make sb3-env`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-sb3"
PROGRAM = Path(__file__).with_name("sb3_program.py")
GAMMA = 0.95

pytestmark = pytest.mark.extern


def run(*words: object) -> str:
    """Run a program in Stable-Baselines3's environment, without a network; its output."""
    assert (ENVIRONMENT / ".installed").exists(), "build Stable-Baselines3's environment first: make sb3-env"
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(ENVIRONMENT / "bin/python"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_sac_trains_on_what_the_wrapper_pays(tmp_path: Path) -> None:
    run(PROGRAM, 200, tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    steps, counts = content["steps"], content["counts"]
    assert content["updates"] > 150
    assert counts["asked"] == counts["answered"] > 40
    np.testing.assert_allclose(content["replayed"], [step["reward"] for step in steps], atol=1e-6)
    before = 0.0
    for step in steps:
        assert step["reward"] == pytest.approx(step["task_reward"] + step["shaping"], abs=1e-6)
        after = 0.0 if step["done"] and not step["truncated"] else step["progress"]
        assert step["shaping"] == pytest.approx(GAMMA * after - before, abs=1e-5)
        before = 0.0 if step["done"] else step["progress"]
        assert ("labels" in step) == step["done"]
    ended = [step for step in steps if step["done"]]
    assert len(ended) >= 20
    assert all(step["labels"]["asked"] == step["labels"]["answered"] for step in ended)
    assert all("r" in step["episode"] for step in ended)
    assert len({step["progress"] for step in steps}) > 5


def test_the_documented_example_runs(tmp_path: Path) -> None:
    """Word for word, but with fewer steps."""
    text = (ROOT / "docs/only_the_reward.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    [example] = [block for block in blocks if "stable_baselines3" in block]
    assert "20_000" in example
    example = example.replace("20_000", "120")
    example += "\nassert env.counts.asked == env.counts.answered > 0, env.counts\nassert learner._n_updates > 0\n"
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    run(tmp_path / "example.py")
