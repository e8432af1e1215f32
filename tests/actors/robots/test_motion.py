"""No sequence of actions leaves a robot's limits; the oracle is a slow loop over the executed actions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.robots.limits import AxisLimits, Limits, describe, load_limits
from actors.robots.motion import MotionFilter, MotionRefused, braking_speed
from dopamine_rl.errors import BadInput

NUMBERS = st.one_of(st.floats(-3.0, 3.0), st.sampled_from([-1e8, -1.0, 0.0, 1.0, 1e8]))
WILD = st.one_of(NUMBERS, NUMBERS, NUMBERS, st.floats(width=32))
"""Numbers that matter; and any, finite or not."""
TEXT = """
rate_hz = 10.0
hold_after_ms = 200.0
stop_after_ms = 1000.0
[axes.elbow]
kind = "position"
low = -1.0
high = 1.0
velocity = 2.0
acceleration = 5.0
unit = "rad"
[axes.x]
kind = "delta"
low = 0.0
high = 0.5
velocity = 1.0
acceleration = 4.0
step = 0.05
measured = "tool.x"
[workspace]
low = [0.0, -1.0, -1.0]
high = [0.4, 1.0, 1.0]
"""


def limits_of(text: str, tmp_path: Path) -> Limits:
    (tmp_path / "limits.toml").write_text(text)
    return load_limits(tmp_path / "limits.toml")


@given(
    runs=st.lists(st.tuples(st.one_of(st.none(), st.tuples(WILD, WILD)), st.integers(1, 12)), max_size=8),
    rests=st.sets(st.integers(0, 60), max_size=3),
    start=st.floats(-1.0, 1.0),
    shape=st.tuples(st.floats(0.5, 20.0), st.floats(0.5, 20.0), st.floats(0.1, 1.0)),
)
@settings(max_examples=40, deadline=None)
def test_no_sequence_of_actions_leaves_the_limits(
    runs: list[tuple[tuple[float, float] | None, int]], rests: set[int], start: float, shape: tuple[float, float, float]
) -> None:
    """Both kinds of axes, on a robot that does what it is told, with holds and late actions (None) in between."""
    velocity, acceleration, step = shape
    axis = AxisLimits("position", velocity, acceleration, -1.0, 1.0, step)
    delta = AxisLimits("delta", velocity, acceleration, -1.0, 1.0, step, measured="tool")
    limits = Limits(10.0, 200.0, 1000.0, {"joint": axis, "x": delta})
    motion, joint, tool, speeds = MotionFilter(limits), start, start, (0.0, 0.0)
    for index, action in enumerate(action for action, count in runs for _ in range(count)):
        if index in rests:
            motion.end()
            speeds = (0.0, 0.0)
        seen, (first, second) = {"joint": joint, "tool": tool}, action or (0.0, 0.0)
        try:
            executed = motion.brake(seen) if action is None else motion.admit({"joint": first, "x": second}, seen)
        except MotionRefused:
            assert not (math.isfinite(first) and math.isfinite(second)) or max(abs(first), abs(second)) >= 1e9
            continue
        executed = executed or {"joint": joint, "x": 0.0}
        moved = (executed["joint"] - joint, executed["x"])
        for speed, before in zip(moved, speeds, strict=True):
            assert abs(speed) <= limits.step_of("x") + 1e-9
            assert abs(speed - before) <= acceleration / 100.0 + 1e-9
        joint, tool, speeds = executed["joint"], tool + executed["x"], moved
        assert -1.0 <= joint <= 1.0
        assert -1.0 - 1e-9 <= tool <= 1.0 + 1e-9


@settings(max_examples=40, deadline=None)
@given(distance=st.floats(0.0, 50.0), braking=st.floats(0.01, 10.0))
def test_the_braking_speed_is_the_largest_that_stops_in_time(distance: float, braking: float) -> None:
    def covered(speed: float) -> float:
        total = 0.0
        while speed > 0.0:
            total, speed = total + speed, speed - braking
        return total

    speed = float(braking_speed(distance, braking))
    assert covered(speed * (1 - 1e-9)) <= distance + 1e-6
    assert covered(speed + 1e-6 + 1e-6 * speed) > distance


def test_an_action_within_the_limits_is_executed_as_it_is(tmp_path: Path) -> None:
    motion = MotionFilter(limits_of(TEXT, tmp_path))
    observation = {"elbow": 0.2, "tool.x": 0.1}
    assert motion.admit({"elbow": 0.23, "x": 0.01}, observation) == pytest.approx({"elbow": 0.23, "x": 0.01})


def test_a_motion_begins_at_the_measured_pose(tmp_path: Path) -> None:
    motion = MotionFilter(limits_of(TEXT, tmp_path))
    for _ in range(4):
        motion.admit({"elbow": 1.0, "x": 0.0}, {"elbow": 0.0, "tool.x": 0.1})
    motion.end()
    executed = motion.admit({"elbow": 1.0, "x": 0.0}, {"elbow": -0.7, "tool.x": 0.1})
    assert executed["elbow"] == pytest.approx(-0.65)  # 5 rad/s² · (0.1 s)²


def test_outside_its_limits_a_robot_may_only_come_back(tmp_path: Path) -> None:
    motion = MotionFilter(limits_of(TEXT, tmp_path))
    executed = motion.admit({"elbow": 5.0, "x": 0.02}, {"elbow": 1.3, "tool.x": 0.6})
    assert executed == pytest.approx({"elbow": 1.3, "x": 0.0})
    executed = motion.admit({"elbow": 0.0, "x": -0.02}, {"elbow": 1.3, "tool.x": 0.6})
    assert executed == pytest.approx({"elbow": 1.25, "x": -0.02})


def test_the_tool_stays_in_the_workspace_and_may_come_back_to_it(tmp_path: Path) -> None:
    def tool_after(observation: dict, action: dict | None) -> list[float]:
        return [observation["tool.x"] + (action["x"] if action else 0.0), 0.0, 0.0]

    motion = MotionFilter(limits_of(TEXT, tmp_path), tool_after)
    with pytest.raises(MotionRefused, match="outside the workspace"):
        motion.admit({"elbow": 0.0, "x": 0.03}, {"elbow": 0.0, "tool.x": 0.39})
    assert motion.admit({"elbow": 0.0, "x": 0.01}, {"elbow": 0.0, "tool.x": 0.38})["x"] == pytest.approx(0.01)
    motion.end()
    assert motion.admit({"elbow": 0.0, "x": -0.01}, {"elbow": 0.0, "tool.x": 0.45})["x"] == pytest.approx(-0.01)


def test_a_robot_that_does_not_follow_is_held(tmp_path: Path) -> None:
    motion = MotionFilter(limits_of(TEXT.replace('unit = "rad"', "error = 0.12"), tmp_path))
    stuck = {"elbow": 0.0, "tool.x": 0.1}
    motion.admit({"elbow": 1.0, "x": 0.0}, stuck)
    motion.admit({"elbow": 1.0, "x": 0.0}, stuck)
    with pytest.raises(MotionRefused, match=r"elbow does not follow: commanded 0\.15, measured 0"):
        motion.admit({"elbow": 1.0, "x": 0.0}, stuck)


def test_a_measurement_that_is_no_number_moves_nothing(tmp_path: Path) -> None:
    motion = MotionFilter(limits_of(TEXT, tmp_path))
    with pytest.raises(MotionRefused, match="measures elbow = nan"):
        motion.admit({"elbow": 0.0, "x": 0.0}, {"elbow": np.nan, "tool.x": 0.0})


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_what_a_driver_executes_less_is_gone_on_from(tmp_path: Path, share: float) -> None:
    motion = MotionFilter(limits_of(TEXT, tmp_path))
    executed = motion.admit({"elbow": 0.05, "x": 0.0}, {"elbow": 0.0, "tool.x": 0.1})
    motion.confirm({"elbow": share * executed["elbow"], "x": 0.0})
    following = motion.admit({"elbow": 1.0, "x": 0.0}, {"elbow": 0.0, "tool.x": 0.1})
    assert following["elbow"] == pytest.approx(2 * share * 0.05 + 0.05)
    with pytest.raises(MotionRefused, match="not asked for"):
        motion.confirm({"elbow": 0.9, "x": 0.0})


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("rate_hz = 10.0", "", "rate_hz"),
        ("rate_hz = 10.0", "rate_hz = 0.0", "rate_hz"),
        ("rate_hz = 10.0", "rate_hz = true", "rate_hz"),
        ("hold_after_ms = 200.0", "hold_after_ms = 50.0", "hold_after_ms"),
        ("high = 1.0", "high = nan", 'axes."elbow".high'),
        ("low = -1.0\n", "", 'axes."elbow".low'),
        ("velocity = 2.0", "velocity = inf", 'axes."elbow".velocity'),
        ('kind = "delta"', 'kind = "speed"', 'axes."x".kind'),
        ("step = 0.05", "stepp = 0.05", 'axes."x".stepp'),
        ('measured = "tool.x"', "", 'axes."x".measured'),
        ("[workspace]\nlow = [0.0, -1.0, -1.0]", "[workspace]\nlow = [0.5, -1.0, -1.0]", "workspace"),
        ("[axes.elbow]", "[axes.elbow", "limits"),
    ],
)
def test_limits_that_cannot_be_used_are_named(tmp_path: Path, old: str, new: str, field: str) -> None:
    assert old in TEXT
    with pytest.raises(BadInput) as error:
        limits_of(TEXT.replace(old, new, 1), tmp_path)
    assert error.value.field == field


def test_limits_are_those_of_the_robot_and_can_be_shown(tmp_path: Path) -> None:
    limits = limits_of(TEXT, tmp_path)
    limits.check_robot(["elbow", "x"], ["elbow", "tool.x"])
    for actions, observations, field in [
        (["elbow", "x", "wrist"], ["elbow", "tool.x"], "axes"),
        (["elbow"], ["elbow", "tool.x"], 'axes."x"'),
        (["elbow", "x"], ["elbow"], 'axes."x".measured'),
    ]:
        with pytest.raises(BadInput) as error:
            limits.check_robot(actions, observations)
        assert error.value.field == field
    assert describe(limits)[1] == ("elbow", "position", "-1", "1", "0.2", "2", "5", "–", "rad", "elbow")
