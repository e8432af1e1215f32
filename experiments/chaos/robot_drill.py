"""One drill: the faults of a robot, one after the other, and what it did."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from actors.robot_env import RobotEnv
from actors.robots.client import RemoteRobot
from actors.robots.driving import Driving
from actors.robots.faults import Faults, FaultyLink
from actors.robots.limits import Limits
from actors.robots.server import Listening, RobotServer
from dopamine_rl.errors import RobotError
from experiments.chaos.robot_faults import FAULTS
from experiments.chaos.robot_system import GOES_ON_S, TOKEN, Actor, Drill
from experiments.chaos.robot_witness import Witness, unexecuted, violations

SHARPER = 0.4
"""Acceleration limit of the drill, in steps per period²: the simulated robot's own never bounds an action."""


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
