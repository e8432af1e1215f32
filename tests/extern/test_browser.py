"""The real Chromium looks at runs, plays their episodes and compares them (`make browser-env`)."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiments.shown_runs import episodes, point, write_run

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-browser"
PROGRAM = Path(__file__).with_name("browser_program.py")

pytestmark = pytest.mark.extern


def test_a_person_looks_at_a_finished_and_at_a_running_run(tmp_path: Path) -> None:
    assert (ENVIRONMENT / ".installed").exists(), "build the browser's environment first: make browser-env"
    finished = write_run(tmp_path / "finished", "finished", records=episodes())
    running = write_run(tmp_path / "running", "running", seed=1, finished=False)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "experiments.cli", "show", str(finished), str(running)]
    report = ["--write", str(tmp_path / "report.html"), "--episodes", "2"]
    subprocess.run([*command, *report], check=True, env=variables, cwd=ROOT, timeout=300)
    with (running / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, text=True, env=variables, cwd=ROOT
        ) as server:
            assert server.stdout is not None
            url = next(line.split()[1] for line in server.stdout if line.startswith("showing "))
            try:
                look(url, tmp_path, running, variables)
            finally:
                server.terminate()
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["errors"] == []
    assert {name: pixels for name, pixels in seen["overflow"].items() if pixels > 0} == {}
    assert seen["first_picture_s"] < 2.0  # with the browser and the server on the same two cores
    assert seen["order"] == ["false claim", "missed success", "failure", "claimed, true"]
    assert seen["end"]["ending"] == seen["played"]["ending"] == "false claim"
    assert (seen["second"]["step"], seen["second"]["progress"]) == ("4", "0.22")
    assert seen["second"]["source"] != seen["end"]["source"]
    assert 0.1 < seen["second"]["cursor"] < seen["middle"]["cursor"] < seen["end"]["cursor"] < 1.0
    assert (seen["middle"]["step"], seen["middle"]["answer"]) == ("8", "late – too <late>")
    assert seen["next"] == ["missed success"]
    assert seen["players"] == 2
    assert seen["compared"] == ["false claim", "missed success"]
    assert seen["running"] == ["running"]
    before, after = seen["headlines"]
    assert "300" in before
    assert "400" in after
    assert seen["report"] == "false claim"
    assert len(list(tmp_path.glob("*.png"))) == 12


def look(url: str, out: Path, running: Path, variables: dict[str, str]) -> None:
    """Let the browser look; add a point to the running run when it waits for one."""
    words = [str(ENVIRONMENT / "bin/python"), str(PROGRAM), url, str(out)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=variables) as browser:
        assert browser.stdout is not None
        for line in browser.stdout:
            if line.strip() == "waiting":
                with (running / "curve.jsonl").open("a") as file:
                    file.write(json.dumps(point(3)) + "\n")
        assert browser.wait(300) == 0
