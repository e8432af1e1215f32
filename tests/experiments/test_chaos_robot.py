"""The drill of a robot: its witness judges rightly, and the simulated robot passes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actors.robots.limits import AxisLimits, Limits
from experiments.chaos.robot_witness import Told, unexecuted, violations

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(10.0, 200.0, 900.0, {"x": AxisLimits("delta", 1.0, 5.0)}, box=((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)))
"""Steps of 0.1, changes of 0.05 per period."""


def acts(*steps: float | str, at: float = 0.0, every_s: float = 0.1) -> list[Told]:
    """Actions, and holds, one in each period."""
    told = []
    for index, step in enumerate(steps):
        when_s = at + index * every_s
        if isinstance(step, str):
            told.append(Told(when_s, step, {}))
        else:
            told.append(Told(when_s, "send_action", {"x": step}, ((0.0, 0.0, 0.0), (step, 0.0, 0.0))))
    return told


@pytest.mark.parametrize(
    "told",
    [
        acts(0.05, 0.1, 0.1, 0.05, 0.0, -0.05),
        acts(0.05, 0.1, "hold", 0.05),
        [*acts(0.05, 0.1), *acts(0.1, at=5.0)],  # a slow period, after which the motion goes on
        [*acts(0.05, 0.1), *acts(-0.05, at=5.0)],  # or one that begins at rest
    ],
)
def test_motions_within_the_limits_are_none_of_its_business(told: list[Told]) -> None:
    assert violations(LIMITS, told) == []


@pytest.mark.parametrize(
    ("told", "what"),
    [
        (acts(0.05, 0.1, 0.11), "2: a step of 1.1 times the limit"),
        (acts(0.05, -0.05), "1: 2 times the acceleration"),
        (acts(0.05, 0.1, "hold", 0.1), "3: 2 times the acceleration"),
        (acts(float("nan")), "0: not finite"),
        ([Told(0.0, "send_action", {"x": 0.05}, ((0.99, 0.0, 0.0), (1.04, 0.0, 0.0)))], "0: the tool leaves the works"),
    ],
)
def test_what_leaves_the_limits_is_named(told: list[Told], what: str) -> None:
    assert any(line.startswith(what) for line in violations(LIMITS, told))


def test_the_tool_may_come_back_from_outside() -> None:
    assert violations(LIMITS, [Told(0.0, "send_action", {"x": -0.05}, ((1.3, 0.0, 0.0), (1.25, 0.0, 0.0)))]) == []


def test_reported_steps_that_the_robot_never_did_are_counted() -> None:
    executed = [{"x": 0.1}, {"x": 0.2}, {"x": 0.1}, {"x": 0.3}]
    reported = [np.array([value], np.float32) for value in (0.1, 0.1, 0.3)]
    assert unexecuted(executed, reported) == 0
    assert unexecuted(executed, [*reported, reported[0]]) == 1
    assert unexecuted(executed, [np.array([0.7], np.float32), *reported]) == 1


@pytest.mark.render
@pytest.mark.long
def test_a_simulated_robot_that_is_broken_in_fourteen_ways_holds_in_time() -> None:
    command = [sys.executable, "-m", "experiments.cli", "chaos", "robot", "--times", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["faults"] == 14
    assert {figures[name] for name in ("limit_violations", "missed_holds", "lost", "unrecovered")} == {0}
    assert figures["actions"] > 50
    assert len(figures["to_hold_s"]) == 11
