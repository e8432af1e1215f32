"""One drill: a served robot, a policy that drives it, and the faults, one after the other."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.robot_env import RobotEnv
from actors.robots.client import RemoteRobot
from actors.robots.driving import Driving
from actors.robots.faults import Faults, FaultyLink
from actors.robots.limits import Limits
from actors.robots.server import Listening, RobotServer
from actors.robots.supervisor import MOVING
from dopamine_rl.errors import RobotError
from experiments.chaos.robot_faults import FAULTS
from experiments.chaos.robot_witness import QUIET, Witness, unexecuted, violations

TOKEN = "of the drill, long enough"
EPISODE, EARLY = 25, 5
"""Steps of an episode, and those after which faults are injected."""
GOES_ON_S, BUSY_S = 60.0, 60.0
SHARPER = 0.4
"""Acceleration limit of the drill, in steps per period²: the simulated robot's own never bounds an action."""


@dataclass
class Actor:
    """A policy that drives the robot with random actions, as an actor of a training does.

    Args:
        env: the robot's environment.
        rng: of the actions.
    """

    env: RobotEnv
    rng: np.random.Generator
    reported: list[NDArray[np.float32]] = field(default_factory=list)
    episodes: int = 0
    cut_off: int = 0
    steps: int = 0
    place: int = 0
    unended: int = 0
    pause_s: float = 0.0
    nonsense: bool = False

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._act, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop acting, after the present step."""
        self._ended.set()
        self._thread.join(BUSY_S)

    def _act(self) -> None:
        while not self._ended.is_set():
            self.place, ended = 0, False
            self.env.reset()
            self.unended += 1
            for _ in range(EPISODE):
                if self._ended.is_set():
                    break
                time.sleep(self.pause_s)
                action = self.rng.uniform(-1.0, 1.0, self.env.action_space.shape or ()) * self.env.action_space.high  # type: ignore[attr-defined]
                _, _, terminated, truncated, infos = self.env.step(action * np.nan if self.nonsense else action)
                ended = terminated or truncated
                self.cut_off += bool(infos["lost"])
                if infos["lost"]:
                    break
                self.steps, self.place = self.steps + 1, self.place + 1
                if infos["by"] == "policy":
                    self.reported.append(infos["executed"])
                if ended:
                    break
            self.unended -= 1
            self.episodes += 1


@dataclass
class Drill:
    """What a fault works on.

    Args:
        witness: the driver. driving: the robot in operation. link: the way to it. actor: who drives.
        address: of the server itself.
        limits: of the robot.
    """

    witness: Witness
    driving: Driving
    link: FaultyLink
    actor: Actor
    address: str
    limits: Limits
    rng: np.random.Generator

    @contextmanager
    def client(self, rank: str) -> Iterator[RemoteRobot]:
        """Another client of the robot, past the faulty way."""
        with RemoteRobot(self.address, TOKEN, rank=rank, name="drill", timeout_s=BUSY_S) as robot:
            yield robot

    def quiet_after(self, since_s: float) -> float | None:
        """When the robot was first told to hold, stop or reset after that time; None if it was not."""
        times = [each.when_s for each in list(self.witness.told) if each.call in QUIET]
        return next((when_s for when_s in times if when_s >= since_s), None)

    def wait(self, condition: Callable[[], Any], timeout_s: float) -> bool:
        """Whether a condition comes true in time."""
        ends_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > ends_s:
                return False
            time.sleep(0.005)
        return True

    def goes_on(self) -> bool:
        """Whether the policy takes another step in time."""
        steps = self.actor.steps
        return self.wait(lambda: self.actor.steps > steps, GOES_ON_S)

    def drives(self) -> bool:
        """Whether the policy moves the robot, early in an episode."""
        return 1 <= self.actor.place <= EARLY and self.driving.supervisor.state == MOVING


def drill(arm: Any, limits: Limits, times: int, rng: np.random.Generator) -> dict[str, Any]:
    """Serve a robot, inject every kind of fault so many times in random order, and judge what it did.

    Args:
        arm: its driver, whose actions are displacements, with forward kinematics and a reset.
        limits: of the robot; accelerations are replaced by sharper ones.
        times: of each kind.
    """
    axes = {
        name: replace(axis, acceleration=SHARPER * limits.step_of(name) * limits.rate_hz**2)
        for name, axis in limits.axes.items()
    }
    limits = replace(limits, axes=axes)
    witness = Witness(arm)
    with ExitStack() as stack:
        driving = stack.enter_context(Driving(witness, limits))
        server = stack.enter_context(RobotServer(driving, Listening(token=TOKEN)))
        link = stack.enter_context(FaultyLink(server.address, Faults()))
        size = next(kind[0] for kind in arm.observation_features.values() if isinstance(kind, tuple))
        env = RobotEnv(RemoteRobot(link.address, TOKEN, timeout_s=5.0), "sensor:success", image_size=size)
        actor = Actor(env, rng)
        system = Drill(witness, driving, link, actor, server.address, limits, rng)
        results = _inject(system, [name for name in FAULTS for _ in range(times)])
        actor.end()
        env.close()
    missed, unrecovered, to_hold = results
    wrong = violations(limits, witness.told)
    for line in wrong[:10]:
        print(f"limits left: {line}", flush=True)
    return {
        "faults": len(FAULTS) * times,
        "limit_violations": len(wrong),
        "missed_holds": missed,
        "lost": unexecuted(witness.executed, actor.reported) + max(0, actor.unended),
        "unrecovered": unrecovered,
        "actions": len(witness.executed),
        "episodes": actor.episodes,
        "steps": actor.steps,
        "cut_off": actor.cut_off,
        "missed_periods": driving.overruns,
        "to_hold_s": {
            name: [round(float(np.median(each)), 3), round(max(each), 3)] for name, each in sorted(to_hold.items())
        },
    }


def _inject(system: Drill, names: list[str]) -> tuple[int, int, dict[str, list[float]]]:
    """Inject the faults in random order, each once the policy drives again; returns missed holds, faults after which
    it did not, and times to hold by kind."""
    missed = unrecovered = 0
    to_hold: dict[str, list[float]] = defaultdict(list)
    for number, name in enumerate(system.rng.permutation(np.array(names)).tolist(), 1):
        if not system.wait(system.drives, GOES_ON_S):
            unrecovered += 1
            print(f"{number:3d} {name}: the policy does not drive ({system.driving.supervisor.reason})", flush=True)
            continue
        fault = FAULTS[name]
        try:
            since_s = fault.inject(system)
        except RobotError as error:
            unrecovered += 1
            print(f"{number:3d} {name}: FAILED: {error}", flush=True)
            continue
        line = "nothing happens, as it should"
        if fault.within_s is not None:
            most_s = fault.within_s(system.limits) + 2.0 * system.limits.period_s
            held_s = system.quiet_after(since_s)
            took_s = np.inf if held_s is None else held_s - since_s
            missed += took_s > most_s
            line = f"held after {took_s:.2f} s of {most_s:.2f} s" + ("" if took_s <= most_s else ": TOO LATE")
            if held_s is not None:
                to_hold[name].append(took_s)
        began_s = time.monotonic()
        goes_on = system.goes_on()
        unrecovered += not goes_on
        after = f"the policy goes on after {time.monotonic() - began_s:.1f} s" if goes_on else "the policy is STUCK"
        print(f"{number:3d} {name}: {line}; {after}", flush=True)
    return missed, unrecovered, dict(to_hold)
