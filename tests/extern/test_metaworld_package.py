"""Meta-World's peg insertion, an environment that nobody here wrote; it has an environment of its own
(`make metaworld-env`)."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-metaworld"
EXAMPLE = "experiments.examples.metaworld_peg"
SMALL = '{"size": 32, "views": ["front"]}'
SHORT = """--preset own --reward sparse --env.views front --env.stride 50 --demonstrations.policy 3 --cloning.trials 2
 --cloning.widths 64 --cloning.updates 200 --training.environment-steps 300 --learner.learning-starts 100
 --learner.critic-warmup-updates 20 --learner.updates-per-step 0.5 --learner.steps-per-iteration 100
 --evaluation.episodes 3"""

pytestmark = pytest.mark.extern


def dopamine(*words: str) -> str:
    """Run a command in Meta-World's environment; its output."""
    assert (ENVIRONMENT / ".installed").exists(), "build Meta-World's environment first: make metaworld-env"
    variables = {"MUJOCO_GL": "osmesa", **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(ENVIRONMENT / "bin/python"), "-W", "ignore", "-m", "experiments.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("observe", ["state", "pictures"])
def test_the_example_keeps_the_contract(observe: str) -> None:
    keywords = json.dumps({"observe": observe, "size": 32, "views": ["front"]})
    content = json.loads(
        dopamine("env", "check", f"{EXAMPLE}:make", "--kwargs", keywords, "--steps", "20").splitlines()[-1]
    )
    assert content["broken"] == []
    assert {finding["rule"] for finding in content["findings"] if finding["state"] == "note"} == {"ends"}


def test_a_policy_is_trained_from_its_scripted_policys_demonstrations(tmp_path: Path) -> None:
    own = ["--env.make", f"{EXAMPLE}:make", "--demonstrations.expert", f"{EXAMPLE}:Scripted", "--env.kwargs", SMALL]
    dopamine("train", *shlex.split(SHORT), *own, "--out", str(tmp_path / "run"))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["expert_success"]["mean"] >= 2 / 3
    assert result["environment_steps"] >= 300
    assert "peg" in (tmp_path / "run" / "report.md").read_text()
