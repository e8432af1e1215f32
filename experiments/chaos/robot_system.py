"""A served robot under test, and the policy that drives it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.robot_env import RobotEnv
from actors.robots.client import RemoteRobot
from actors.robots.driving import Driving
from actors.robots.faults import FaultyLink
from actors.robots.limits import Limits
from actors.robots.supervisor import MOVING
from experiments.chaos.robot_witness import QUIET, Witness

TOKEN = "of the drill, long enough"
EPISODE, EARLY = 25, 5
"""Steps of an episode, and those after which faults are injected."""
GOES_ON_S, BUSY_S = 60.0, 60.0


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
            self.place = 0
            self.env.reset()
            self.unended += 1
            for _ in range(EPISODE):
                if self._ended.is_set():
                    break
                time.sleep(self.pause_s)
                action = self.rng.uniform(-1.0, 1.0, self.env.action_space.shape or ()) * self.env.action_space.high  # type: ignore[attr-defined]
                _, _, terminated, truncated, infos = self.env.step(action * np.nan if self.nonsense else action)
                self.cut_off += bool(infos["lost"])
                if infos["lost"]:
                    break
                self.steps, self.place = self.steps + 1, self.place + 1
                if infos["by"] == "policy":
                    self.reported.append(infos["executed"])
                if terminated or truncated:
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
