"""Who may move the robot and when it must not, with a clock of the test's own."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.robots.limits import AxisLimits, Limits
from actors.robots.motion import MotionFilter
from actors.robots.supervisor import HOLD, STOP, Refused, Session, Supervisor

LIMITS = Limits(10.0, 200.0, 1000.0, {"x": AxisLimits("position", 2.0, 20.0, -1.0, 1.0)})
POLICY, OTHER, PERSON, WATCHER = (
    Session(n, rank, name)
    for n, (rank, name) in enumerate([("policy", "arm"), ("policy", "b"), ("person", "Kim"), ("watch", "w")])
)
HERE = {"x": 0.0}


@pytest.fixture
def supervisor() -> Supervisor:
    made = Supervisor(LIMITS, MotionFilter(LIMITS))
    made.take(POLICY, 0.0)
    assert made.due(0.0) == HOLD
    return made


def moved(supervisor: Supervisor, session: Session, value: float, now: float, at: float = 0.0) -> float:
    supervisor.command(session, {"x": value}, now)
    motion = supervisor.tick(now, {"x": at})
    assert motion is not None
    supervisor.executed(motion, motion.values)
    return motion.values["x"]


def test_one_has_control_and_a_person_outranks_a_policy(supervisor: Supervisor) -> None:
    with pytest.raises(Refused, match="arm has control"):
        supervisor.take(OTHER, 0.0)
    with pytest.raises(Refused, match="arm has control"):
        supervisor.command(OTHER, HERE, 0.0)
    with pytest.raises(Refused, match="watches"):
        supervisor.take(WATCHER, 0.0)
    assert moved(supervisor, POLICY, 0.9, 0.0) == pytest.approx(0.2)
    supervisor.take(PERSON, 0.1)
    assert supervisor.due(0.1) == HOLD
    assert supervisor.is_displaced(POLICY)
    with pytest.raises(Refused, match="Kim has control"):
        supervisor.command(POLICY, HERE, 0.1)
    assert moved(supervisor, PERSON, -0.9, 0.2, at=0.05) == pytest.approx(-0.15)  # from the measured pose, at rest
    supervisor.give(PERSON, 0.3)
    assert supervisor.holder == POLICY
    assert moved(supervisor, POLICY, 0.9, 0.4, at=-0.3) == pytest.approx(-0.1)


def test_without_commands_the_robot_brakes_then_holds_then_stops(supervisor: Supervisor) -> None:
    moved(supervisor, POLICY, 0.9, 1.0)
    assert supervisor.due(1.15) is None
    motion = supervisor.tick(1.1, {"x": 0.2})  # at 20 per s² it stands still within the period
    assert motion is not None
    assert (motion.values["x"], motion.by) == (pytest.approx(0.2), "brake")
    assert supervisor.tick(1.15, {"x": 0.2}) is None
    assert supervisor.due(1.21) == HOLD
    assert supervisor.due(1.3) is None
    assert supervisor.tick(1.3, HERE) is None
    moved(supervisor, POLICY, 0.9, 1.9)
    assert supervisor.due(2.2) == HOLD
    assert supervisor.due(2.91) == STOP
    with pytest.raises(Refused, match="stopped"):
        supervisor.command(POLICY, HERE, 2.95)
    supervisor.take(POLICY, 3.0)
    assert moved(supervisor, POLICY, 0.9, 3.0, at=0.5) == pytest.approx(0.7)
    assert (supervisor.counts["watchdog_holds"], supervisor.counts["watchdog_stops"]) == (2, 1)


def test_who_was_silent_until_the_robot_stopped_loses_control_to_an_equal(supervisor: Supervisor) -> None:
    moved(supervisor, POLICY, 0.1, 0.0)
    assert supervisor.due(1.1) == STOP
    supervisor.take(OTHER, 1.2)
    moved(supervisor, OTHER, 0.1, 1.3)
    with pytest.raises(Refused, match="b has control"):
        supervisor.command(POLICY, HERE, 1.35)
    supervisor.give(OTHER, 1.4)
    assert supervisor.holder is None
    supervisor.take(PERSON, 1.5)
    assert supervisor.due(3.0) == STOP
    with pytest.raises(Refused, match="Kim has control"):
        supervisor.take(POLICY, 3.1)


def test_an_emergency_stop_lasts_until_a_person_rearms(supervisor: Supervisor) -> None:
    supervisor.command(POLICY, HERE, 0.0)
    supervisor.emergency_stop("test")
    assert supervisor.due(0.0) == STOP
    assert supervisor.tick(0.0, HERE) is None
    for attempt in (lambda: supervisor.command(POLICY, HERE, 0.1), lambda: supervisor.take(PERSON, 0.1)):
        with pytest.raises(Refused):
            attempt()
    with pytest.raises(Refused, match="only a person"):
        supervisor.rearm(POLICY, 0.1)
    supervisor.rearm(PERSON, 0.2)
    with pytest.raises(Refused, match="stopped"):
        supervisor.command(POLICY, HERE, 0.2)
    supervisor.take(POLICY, 0.3)
    moved(supervisor, POLICY, 0.1, 0.3)


@pytest.mark.parametrize(
    "action", [{"x": math.nan}, {"x": math.inf}, {"x": "1"}, {"x": 1e12}, {"y": 0.0}, {}, {"x": True}]
)
def test_what_is_no_action_is_refused_and_does_not_feed_the_watchdog(supervisor: Supervisor, action: Any) -> None:
    moved(supervisor, POLICY, 0.9, 0.0)
    with pytest.raises(Refused):
        supervisor.command(POLICY, action, 0.15)
    assert supervisor.due(0.25) == HOLD


def test_an_action_that_was_long_on_the_way_is_refused(supervisor: Supervisor) -> None:
    supervisor.command(POLICY, HERE, 1.0, sent_s=0.9)
    with pytest.raises(Refused, match="300 ms old"):
        supervisor.command(POLICY, HERE, 1.0, sent_s=0.7)


def test_a_robot_protected_while_it_was_told_to_move_is_protected_again(supervisor: Supervisor) -> None:
    supervisor.command(POLICY, {"x": 0.5}, 0.0)
    motion = supervisor.tick(0.0, HERE)
    assert motion is not None
    assert supervisor.due(0.25) == HOLD  # while the driver's call blocks
    supervisor.executed(motion, motion.values)
    assert supervisor.due(0.26) == HOLD


@pytest.mark.parametrize("latched", [True, False])
def test_a_later_fault_does_not_soften_a_stop(supervisor: Supervisor, latched: bool) -> None:
    """As where a blocked call is reported, or a client asks for a hold, after the emergency stop or the watchdog's."""
    moved(supervisor, POLICY, 0.2, 0.0)
    if latched:
        supervisor.emergency_stop("test")
    assert supervisor.due(1.2) == STOP
    supervisor.protect(HOLD, "the driver blocks")
    assert (supervisor.state, supervisor.due(1.3)) == ("stopped", STOP)
    assert supervisor.reason == ("test" if latched else "the driver blocks")
    with pytest.raises(Refused, match="stopped"):
        supervisor.command(POLICY, HERE, 1.4)
    if not latched:
        supervisor.take(POLICY, 1.5)
        assert supervisor.due(1.5) == HOLD


def test_the_watchdog_waits_for_a_reset_and_no_command_counts_meanwhile(supervisor: Supervisor) -> None:
    supervisor.reset(True, 0.1)
    with pytest.raises(Refused, match="being reset"):
        supervisor.command(POLICY, HERE, 0.2)
    assert supervisor.due(50.0) is None
    supervisor.reset(False, 50.0)
    moved(supervisor, POLICY, 0.1, 50.1)


class AnyOrder(RuleBasedStateMachine):
    """Sessions that do anything at any time, on a robot that does what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.x, self.speed, self.fed_s = 0.0, 0.0, 0.0, -math.inf
        self.supervisor = Supervisor(LIMITS, MotionFilter(LIMITS))
        self.stopped = False

    sessions = st.sampled_from([POLICY, OTHER, PERSON, WATCHER])

    @rule(session=sessions, what=st.sampled_from(["take", "give", "rearm"]))
    def control(self, session: Session, what: str) -> None:
        with contextlib.suppress(Refused):
            getattr(self.supervisor, what)(session, self.now)

    @rule(session=sessions, value=st.one_of(st.floats(-3.0, 3.0), st.floats()))
    def command(self, session: Session, value: float) -> None:
        try:
            self.supervisor.command(session, {"x": value}, self.now)
            assert self.supervisor.holder == session
            self.fed_s = self.now
        except Refused:
            pass

    @rule()
    def emergency_stop(self) -> None:
        self.supervisor.emergency_stop("test")

    @rule(how=st.sampled_from([HOLD, STOP]))
    def fault(self, how: str) -> None:
        self.supervisor.protect(how, "test")

    @precondition(lambda self: self.supervisor.holder is None)
    @rule()
    def begin(self) -> None:
        """Something moves in most sequences."""
        self.supervisor.rearm(PERSON, self.now)
        self.supervisor.take(POLICY, self.now)
        self.command(POLICY, 1.0)

    @rule(wait_s=st.sampled_from([0.1, 0.1, 0.1, 0.3, 2.0]))
    def period(self, wait_s: float) -> None:
        self.now += wait_s
        if self.supervisor.due(self.now) is not None:
            self.speed = 0.0  # the driver held
        motion = self.supervisor.tick(self.now, {"x": self.x})
        moved = motion.values["x"] - self.x if motion else 0.0
        if motion is not None:
            assert not self.supervisor.latched
            assert self.now - self.fed_s <= LIMITS.stop_after_ms / 1e3
            assert motion.by != "brake" or self.now - self.fed_s <= LIMITS.hold_after_ms / 1e3 + 1e-9
            self.supervisor.executed(motion, motion.values)
        assert abs(moved) <= 0.2 + 1e-9
        assert abs(moved - self.speed) <= 0.2 + 1e-9
        self.x, self.speed = self.x + moved, moved

    @invariant()
    def stays_stopped(self) -> None:
        if self.supervisor.latched:
            assert (self.supervisor.state, self.supervisor._owed) in (("stopped", STOP), ("stopped", None))

    @invariant()
    def stays_inside(self) -> None:
        assert -1.0 <= self.x <= 1.0


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
