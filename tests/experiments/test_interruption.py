"""A run that is interrupted or killed leaves nothing running, and the same command goes on to a valid result, also when
its reward replica is lost."""

import random
import re
import shlex
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.experiments.test_peg_insert import (
    ROOT,
    TINY,
    assert_audit_agrees,
    assert_search_works,
    check_result,
    environment,
    kill_replica,
)

pytestmark = [pytest.mark.ray, pytest.mark.render, pytest.mark.slow, pytest.mark.long]

MOMENTS = [  # A line after which the blow falls within two seconds.
    (signal.SIGKILL, r"episodes recorded: 1 of"),
    (signal.SIGINT, r"Behaviour cloning from"),
    (signal.SIGKILL, r"update \d+, loss"),
    (signal.SIGINT, r"environment steps \|"),
    (signal.SIGKILL, r"environment steps \|"),
]


def processes_of(home):
    """Living processes that were started for the account `home`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for_the_end(home, timeout_s=60.0):
    """Until no process of the account lives; those that go on living are named."""
    deadline = time.monotonic() + timeout_s
    while left := processes_of(home):
        assert time.monotonic() < deadline, [process.as_dict(["pid", "status", "cmdline"]) for process in left]
        time.sleep(0.2)


def run_until(command, home, line, blow):
    """Start the command, call `blow` with its process after a line of its output; its exit status and output."""
    output = []
    with subprocess.Popen(
        command, cwd=home, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for text in process.stdout:
            output.append(text)
            if blow is not None and re.search(line, text):
                time.sleep(random.Random(line).uniform(0.0, 2.0))
                blow(process)
                blow = None
        status = process.wait(timeout=120)
    assert blow is None, "".join(output[-60:])
    return status, "".join(output)


def test_five_blows_and_a_lost_replica_and_then_a_result(tmp_path):
    folder = tmp_path / "run"
    command = [
        *(sys.executable, str(ROOT / "experiments" / "peg_insert.py"), "--out", str(folder), *TINY),
        *shlex.split("--training.environment-steps 400 --learner.steps-per-iteration 40 --training.checkpoint-s 1"),
    ]
    for sign, line in MOMENTS:
        status, output = run_until(command, tmp_path, line, lambda process, sign=sign: process.send_signal(sign))
        assert status in ({130} if sign is signal.SIGINT else {-9}), output[-4000:]
        wait_for_the_end(tmp_path)
        assert not (folder / "result.json").exists()
    killed, (_, training) = [], MOMENTS[-1]
    status, output = run_until(command, tmp_path, training, lambda process: killed.extend(kill_replica(process.pid)))
    assert status == 0, output[-4000:]
    assert killed
    assert ": reused" in output
    assert "resuming at" in output
    result = check_result(folder)
    assert result["training_sittings"] >= 3
    assert_audit_agrees(folder, result)
    assert_search_works(folder)
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"], "something half-written was left"
