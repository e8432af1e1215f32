"""Checks a robot's driver, and says how to mend what a training cannot use.

    python -m actors.robots check my_robot:Arm --limits arm.toml
    python -m actors.robots check my_robot:Arm --limits arm.toml --move

The contract is dopamine_rl.interfaces.Robot. Without --move the robot is told nothing but to stay where it is; with it
each axis makes one step within its limits, and one back. Keep a hand at its emergency stop. The last line is JSON.
Exit status 1: a rule is broken.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actors.contract.finding import ContractFinding, State
from actors.robots.drivers import Completed, make_robot
from actors.robots.driving import CONNECT_S, check_observation
from actors.robots.limits import Limits, load_limits
from actors.robots.motion import MotionFilter, check_action, still
from dopamine_rl.errors import BadInput, RobotError
from dopamine_rl.interfaces import KinematicRobot, ResettableRobot, Robot

ROUNDS = 10
"""Control periods that are timed."""
SHARE = 0.1
"""Of one step that a measured position must follow within two periods."""


@dataclass(frozen=True)
class CheckArguments:
    """The driver, and whether it may move."""

    robot: str
    """MODULE:CALLABLE that makes the driver."""
    limits: Path | None = None
    """Limits of this robot, a TOML file."""
    kwargs: str = "{}"
    """Keyword arguments of the driver, a JSON object."""
    move: bool = False
    """Move each axis by one step and back."""
    deadline_s: float = 10.0
    """Seconds after which a call, other than `connect`, counts as hung."""

    def __post_init__(self) -> None:
        if not 0.0 < self.deadline_s < 1e6:
            raise BadInput("deadline_s", self.deadline_s, "give seconds above 0")


def check(arguments: CheckArguments) -> None:
    """Check the driver, print the findings, and exit with status 1 if a rule is broken."""
    if arguments.limits is None:
        raise BadInput("limits", None, "give --limits FILE: a driver is checked with the limits of its robot")
    limits = load_limits(arguments.limits)
    robot = make_robot(arguments.robot, arguments.kwargs, limits)
    findings = check_driver(robot, limits, arguments.move, arguments.deadline_s)
    for finding in findings:
        print(f"{finding.state:6}  {finding.rule}: {finding.seen}")
        if finding.fix:
            print(f"{'':8}→ {finding.fix}")
    broken = [finding.rule for finding in findings if finding.state == "broken"]
    content = {"ok": not broken, "broken": broken, "findings": [asdict(finding) for finding in findings]}
    print(json.dumps(content, ensure_ascii=False))
    if broken:
        raise SystemExit(1)


def check_driver(robot: Robot, limits: Limits, move: bool = False, deadline_s: float = 10.0) -> list[ContractFinding]:
    """Play a driver; one finding for each rule.

    Args:
        move: whether it may move.
        deadline_s: after which a call counts as hung.
    """
    checking = _Checking(robot, limits, deadline_s)
    with contextlib.suppress(_Ended):
        checking.play(move)
    return checking.findings


class _Ended(Exception):
    """The driver cannot be played any further; the findings say why."""


class _Checking:
    def __init__(self, robot: Robot, limits: Limits, deadline_s: float) -> None:
        self.robot, self.limits, self.deadline_s = robot, limits, deadline_s
        self.findings: list[ContractFinding] = []

    def add(self, rule: str, state: State, seen: str, fix: str = "") -> None:
        self.findings.append(ContractFinding(rule, state, seen, fix))

    def call(self, name: str, call: Callable[[], Any], deadline_s: float | None = None) -> Any:
        """The answer of the driver; a finding, and the end, where it raises or hangs."""
        answers: list[Any] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                answers.append(call())
            except Exception as error:  # whatever the driver does
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        deadline_s = self.deadline_s if deadline_s is None else deadline_s
        thread.join(deadline_s)
        if errors:
            self.add(
                "does not raise", "broken", f"{name}: {type(errors[0]).__name__}: {errors[0]}", "mend what it calls"
            )
        elif not answers:
            self.add("does not hang", "broken", f"{name} takes more than {deadline_s:g} s", "give every wait a limit")
        else:
            return answers[0]
        raise _Ended

    def play(self, move: bool) -> None:
        robot = self.robot
        self.features()
        self.call("connect", robot.connect, CONNECT_S)
        self.rule("is_connected", bool(robot.is_connected), "true after connect", "return whether the robot answers")
        observation = self.observation()
        self.periods(observation)
        self.protection()
        self.optional(observation)
        if move:
            for name in self.limits.axes:
                self.motion(name)
        self.call("disconnect", robot.disconnect)
        self.rule("disconnect", not robot.is_connected, "is_connected is false after it", "close the connection there")

    def rule(self, rule: str, kept: bool, seen: str, fix: str) -> None:
        self.add(rule, "ok" if kept else "broken", seen if kept else f"not so: {seen}", "" if kept else fix)

    def features(self) -> None:
        """The features are such, and those of the limits."""
        for name, kind in self.robot.observation_features.items():
            if kind is not float and not (isinstance(kind, tuple) and len(kind) == 3 and kind[2] == 3):
                self.add("features", "broken", f"{name} is {kind}", "write float, or (height, width, 3) for a picture")
                raise _Ended
        numbers = [name for name, kind in self.robot.observation_features.items() if kind is float]
        try:
            self.limits.check_robot(self.robot.action_features, numbers)
        except BadInput as error:
            self.add("limits", "broken", f"{error.field} = {error.value}", error.fix)
            raise _Ended from None
        pictures = [name for name in self.robot.observation_features if name not in numbers]
        self.add("features", "ok", f"{len(numbers)} numbers; pictures: {', '.join(pictures) or 'none'}")
        self.add("limits", "ok", f"for all {len(self.limits.axes)} entries of an action")

    def observation(self) -> Mapping[str, Any]:
        observation = self.call("get_observation", self.robot.get_observation)
        try:
            checked = check_observation(self.robot, observation)
        except RobotError as error:
            self.add("observations", "broken", str(error), "return what observation_features says")
            raise _Ended from None
        for name, kind in self.robot.observation_features.items():
            if kind is float and not np.isfinite(checked[name]):
                self.add(
                    "observations", "broken", f"{name} = {checked[name]}", "raise an error where nothing is measured"
                )
                raise _Ended
        for name in self.limits.axes:
            axis, measured = self.limits.axes[name], self.limits.measured_by(name)
            if measured and not axis.low <= checked[measured] <= axis.high:
                seen = f"{measured} = {checked[measured]:g} is outside {axis.low:g} to {axis.high:g}"
                self.add("starts inside its limits", "note", seen, "it may only come back: check unit and sign")
        return checked

    def periods(self, observation: Mapping[str, Any]) -> None:
        """Some control periods at rest: what send_action returns, and how long they take."""
        spent, ready = [], True
        for _ in range(ROUNDS):
            began = time.perf_counter()
            action = still(self.limits, observation)
            answer = self.call("send_action", partial(self.robot.send_action, action))
            observation = self.observation()
            spent.append(time.perf_counter() - began)
            try:
                check_action(tuple(self.limits.axes), answer)
            except (RobotError, TypeError) as error:
                ready = False
                self.add("says what it executed", "broken", str(error), "return the action that was really executed")
                break
        if ready:
            self.add("says what it executed", "ok", "send_action returns an action")
        self.add("observations", "ok", "as observation_features says, and finite")
        median_ms, period_ms = 1e3 * float(np.median(spent)), 1e3 * self.limits.period_s
        seen = f"{median_ms:.3g} ms to act and observe; a period has {period_ms:.3g} ms"
        fix = "lower rate_hz, read cameras in a thread of their own, or take smaller pictures"
        self.add(
            "keeps its rate", "ok" if median_ms < period_ms else "broken", seen, "" if median_ms < period_ms else fix
        )

    def protection(self) -> None:
        """`hold` and `stop`, while another call runs."""
        if isinstance(self.robot, Completed):
            fix = "give the driver hold() and stop() that can be called from other threads"
            self.add("holds while a call blocks", "note", "it has no hold: it is told to stay, after that call", fix)
        for name in ("hold", "stop"):
            busy = threading.Thread(target=self._observe_quietly, daemon=True)
            busy.start()
            began = time.perf_counter()
            self.call(name, getattr(self.robot, name))
            self.add(name, "ok", f"{1e3 * (time.perf_counter() - began):.3g} ms, while get_observation runs")
            busy.join(self.deadline_s)

    def _observe_quietly(self) -> None:
        with contextlib.suppress(Exception):  # a stopped robot may not answer; `call` reports what matters
            self.robot.get_observation()

    def optional(self, observation: Mapping[str, Any]) -> None:
        robot = self.robot
        if isinstance(robot, KinematicRobot):
            point = np.asarray(self.call("tool_after", lambda: robot.tool_after(observation, None)), np.float64)
            good = point.shape == (3,) and bool(np.isfinite(point).all())
            self.rule("tool_after", good, f"the tool is at {point.tolist()}", "return [x, y, z] in metres")
        else:
            self.add("tool_after", "note", "there is none", "add it to have the workspace box checked")
        if not isinstance(robot, ResettableRobot):
            self.add("reset", "note", "there is none", "a script of yours or a person resets")

    def motion(self, name: str) -> None:
        """One step of an axis and one back, through the same filter as in a run."""
        motion, measured = MotionFilter(self.limits), self.limits.measured_by(name)
        step = self.limits.step_of(name)
        for sign in (1.0, -1.0):
            before = self.observation()
            motion.end()
            wanted = still(self.limits, before)
            room = self.limits.axes[name].high - before[measured] if measured else np.inf
            wanted[name] += sign * (step if room > step else -step)
            action = motion.admit(wanted, before)
            self.call("send_action", partial(self.robot.send_action, action))
            time.sleep(2 * self.limits.period_s)
            after = self.observation()
            if not measured:
                continue
            asked = action[name] - before[measured] if self.limits.axes[name].kind == "position" else action[name]
            moved = after[measured] - before[measured]
            fix = "check the unit, the sign and the name that measures it"
            seen = f"asked to move by {asked:.3g}, measured {moved:.3g}"
            self.rule(f"{name} moves", asked * moved > 0 and abs(moved) > SHARE * abs(asked), seen, fix)
