"""Injects faults into the simulated robot while a policy drives it, and checks what the robot did.

    dopamine chaos robot
    dopamine chaos robot --times 10

An environment (actors.robot_env) drives the simulated robot through its server with random actions, over a network that
can fail. Each kind of fault is injected --times times, in random order: the connection breaks, is silent or slow; the
policy sends nothing, or what is no number; strangers send garbage; a camera freezes or fails; the robot measures
nonsense, refuses, blocks, or has a stuck joint; a person takes over, or presses the emergency stop. Whatever the robot
is told is noted below the server, and judged afterwards by arithmetic of its own.

The last line is JSON: faults; limit_violations (actions outside the limits); missed_holds (the robot did not hold
within two control periods of when it had to); lost (steps that the environment reports and the robot never did, and
episodes that never ended); unrecovered (faults after which the policy did not go on); episodes, steps, cut_off
(episodes that a fault ended), to_hold_s (median and longest time to hold by kind of fault). Exit status 1: one of the
first four is not 0.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from dopamine_rl.errors import require, seed_check
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command, interruptible

SIDE = 32
"""Height and width of the pictures in pixels: the drill is about time."""


@dataclass(frozen=True)
class Arguments:
    """Options of the drill."""

    times: Annotated[int, option("N")] = 3
    """How often each kind of fault is injected."""
    rate_hz: Annotated[float, option("HZ")] = 5.0
    """Control periods per second; with software rendering on two cores, about 5."""
    seed: Annotated[int, option("N")] = 0
    """Seed for the order of faults and the actions."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("times", self.times >= 1, "give at least 1"),
            ("rate_hz", 0.5 <= self.rate_hz <= 100.0, "give 0.5 to 100"),
            seed_check("seed", self.seed),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Inject the faults, judge what the robot did, print the results."""
    arguments = parse(Arguments, argv, "dopamine chaos robot", __doc__)
    print("Building the scene …", flush=True)
    with interruptible("Interrupted. The robot was stopped."):
        figures = run(arguments)
    print(json.dumps(figures))
    if any(figures[name] for name in ("limit_violations", "missed_holds", "lost", "unrecovered")):
        sys.exit(1)


def run(arguments: Arguments) -> dict[str, Any]:
    """Serve the simulated robot, drive it, inject the faults; returns the results."""
    from actors.robot_twin import TwinArm, TwinConfig, limits_at
    from experiments.chaos.robot_drill import drill

    arm = TwinArm(TwinConfig(image_size=SIDE))
    return drill(arm, limits_at(arguments.rate_hz), arguments.times, np.random.default_rng(arguments.seed))


if __name__ == "__main__":
    main()
