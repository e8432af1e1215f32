"""The service benchmark in small: what it prints adds up."""

import json
import subprocess
import sys

import pytest

from tests.experiments.test_peg_insert import ROOT, environment


@pytest.mark.ray
@pytest.mark.long
def test_every_request_of_an_overload_has_an_outcome_and_the_line_stays_in_its_bound(tmp_path):
    command = [sys.executable, "-m", "experiments.benchmarks.service"]
    command += ["--actors", "2", "--replicas", "1", "--seconds", "1"]
    done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    [load] = printed["loads"]
    assert (load["actors"], load["replicas"]) == (2, 1)
    assert load["labels_per_s"] > 0
    assert 0 < load["p50_ms"] <= load["p99_ms"]
    assert 0 < load["model_share"] <= 1.05
    overload = printed["overload"]
    assert overload["sent"] == sum(overload[name] for name in ("answered", "rejected", "late", "other"))
    assert overload["rejected"] > 0
    assert overload["longest_wait_s"] < overload["deadline_s"] + 1.0
    assert printed["queue"]["longest"] <= printed["queue"]["bound"]
