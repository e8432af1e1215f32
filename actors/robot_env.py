"""A robot as an environment: `dopamine train --preset own --env.make actors.robot_env:make` learns on it.

    --env.kwargs '{"address": "192.168.0.7:5601", "success": "key", "reset": "person"}'

It keeps to dopamine_rl.interfaces.MakeEnvironment, on a robot behind a server (actors.robots.server), at its control
rate. An action in the space's bounds is a displacement per control period: of the last commanded position where the
robot takes positions. A robot that is lost truncates the episode; the next reset waits until it is back.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from actors.robots.client import RemoteRobot
from actors.robots.limits import Limits
from dopamine_rl.callables import load_callable
from dopamine_rl.encoders.eyes import PROPRIOCEPTION
from dopamine_rl.errors import BadInput, RobotError, RobotLost
from dopamine_rl.spelling import one_of

logger = logging.getLogger(__name__)
RETRY_S = 1.0
RETRIES_PER_LINE = 10
RESETS = ("driver", "person", "none")
ENDS = {"success": True, "failure": False, "discard": False}
"""Labels that end an episode, and whether they mean success."""


def make(
    address: str,
    success: str = "key",
    reset: str = "driver",
    token_file: str = "",
    tls_ca: str = "",
    image_size: int = 112,
    name: str = "policy",
) -> RobotEnv:
    """The environment of a robot behind a server.

    Args:
        address: HOST:PORT.
        success: "key" (a person says so), "sensor:NAME" (that observation is above 0.5), or "none".
        reset: "driver" (its own `reset`), "person" (asked, says ready), "none", or MODULE:CALLABLE, a script that gets
            the robot and drives it to a start.
        token_file: with the server's token; "": the environment variable DOPAMINE_TOKEN.
        tls_ca: PEM file of the server's certificate.
        image_size: height and width of the pictures, which are cropped to squares.
        name: shown to others.
    Raises:
        BadInput: a value cannot be used. RobotError: the robot does not answer.
    """
    token = Path(token_file).read_text(encoding="utf-8").strip() if token_file else None
    robot = RemoteRobot(address, token, name=name, tls_ca=Path(tls_ca) if tls_ca else None)
    return RobotEnv(robot, success, reset, image_size)


class RobotEnv(gymnasium.Env[Any, NDArray[np.float32]]):
    """One robot with a task.

    Observation: a Dict of proprioception (float32 [D], every number that the robot measures, in the order of
    `proprioception`, but that of a success sensor) and its pictures (uint8 [S, S, 3]). Action: float32 [A] within plus
    and minus the step of each axis (Limits.step_of), in the order of `actions`. Reward: 1 at success, which terminates,
    else 0.

    infos hold `success` (bool), `executed` (float32 [A], in the action's units), `by` (who moved: "policy", "person",
    "brake", "nobody"), `observed_s` (time.monotonic() of the observation), `label` (what a person said in this episode,
    or ""), and `lost` (bool).

    Args:
        robot: connected by this environment.
        success, reset, image_size: see `make`.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, robot: RemoteRobot, success: str = "key", reset: str = "driver", image_size: int = 112) -> None:
        self.robot, self._size, self.counts = robot, image_size, Counter[str]()
        self._reset_how = reset
        self._script: Callable[[RemoteRobot], None] | None = load_callable("reset", reset) if ":" in reset else None
        robot.connect()
        self.limits: Limits = robot.limits
        features = robot.observation_features
        numbers = [name for name, kind in features.items() if not isinstance(kind, tuple)]
        self._sensor = _sensor(success, numbers)
        self._by_key = success == "key"
        self.proprioception = tuple(name for name in numbers if name != self._sensor)
        self.pictures = tuple(name for name, kind in features.items() if isinstance(kind, tuple))
        if reset not in RESETS and self._script is None:
            raise BadInput("reset", reset, f"{one_of(reset, RESETS)}, or MODULE:CALLABLE")
        if reset == "driver" and not robot.about["resettable"]:
            raise BadInput("reset", reset, "write person or MODULE:CALLABLE: this robot's driver has no `reset`")
        self.actions = tuple(robot.action_features)
        step = np.array([self.limits.step_of(name) for name in self.actions], np.float32)
        self.action_space = Box(-step, step, dtype=np.float32)
        vector = Box(-np.inf, np.inf, (len(self.proprioception),), np.float32)
        picture = Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.observation_space = Dict({PROPRIOCEPTION: vector, **dict.fromkeys(self.pictures, picture)})
        self._ended, self._labels, self._period = True, 0, 0
        self._commanded: dict[str, float] = {}
        self._observed = {name: space.sample() * 0 for name, space in self.observation_space.items()}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Bring the robot to a start; waits for the robot, and for the person, for as long as that takes."""
        super().reset(seed=seed)
        seed = int(self.np_random.integers(1 << 31)) if seed is None else seed
        attempt = 0
        while True:
            try:
                self._begin(seed)
                break
            except RobotError as error:
                if attempt % RETRIES_PER_LINE == 0:
                    logger.warning("%s: waiting for the robot: %s", self.robot.address, error)
                attempt += 1
                time.sleep(RETRY_S)
        self._ended = False
        return self._observed, self._infos(success=False)

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act for one control period; where the robot is lost or stopped, the episode is truncated."""
        if self._ended:
            return self._observed, 0.0, False, True, self._infos(success=False, lost=True)
        wanted = np.clip(np.asarray(action, np.float64), self.action_space.low, self.action_space.high)  # type: ignore[attr-defined]
        before = dict(self._commanded)
        try:
            self.robot.send_action(self._targets(wanted))
            self._read(self.robot.get_observation())
        except RobotError as error:
            self.counts["lost"] += 1
            logger.warning("%s: the episode is cut off: %s", self.robot.address, error)
            self._ended = True
            return self._observed, 0.0, False, True, self._infos(success=False, lost=True)
        self._count()
        infos = self._infos(success=self._succeeded(), executed=self._displacement(before))
        self._ended = infos["success"] or infos["label"] in ENDS
        truncated = self._ended and not infos["success"]
        return self._observed, float(infos["success"]), infos["success"], truncated, infos

    def close(self) -> None:
        """Give the robot back; it holds."""
        self.robot.disconnect()

    def status_line(self) -> str:
        """One line for people: what happened so far."""
        counts = self.counts
        periods = max(1, counts["periods"])
        return (
            f"{self.robot.address}: {counts['periods']} periods, {counts['overruns']} missed "
            f"({100 * counts['overruns'] / periods:.2g} %), {counts['interventions']} driven by a person, "
            f"{counts['lost']} losses"
        )

    def _begin(self, seed: int) -> None:
        """Connect if need be, reset, take control, and observe."""
        if not self.robot.is_connected:
            self.robot.connect()
        if self._reset_how == "person":
            self._ask_person()
        self.robot.take()
        if self._reset_how == "driver":
            self.robot.begin_reset(seed)
            while self.robot.status()["resetting"]:
                time.sleep(self.limits.period_s)
        elif self._script is not None:
            self._script(self.robot)
        self.robot.get_observation()
        self._read(self.robot.get_observation())
        self._labels, self._period = self.robot.observed.label[0], self.robot.observed.period

    def _ask_person(self) -> None:
        """Give control away and wait until a person says ready."""
        self.robot.give()
        given = int(self.robot.status()["label"][0])
        self.robot.ask("reset the scene, then say ready")
        while True:
            count, word = self.robot.status()["label"]
            if count > given and word == "ready":
                self.robot.ask("")
                return
            time.sleep(0.1)

    def _targets(self, wanted: NDArray[np.float64]) -> dict[str, float]:
        """The robot's action for displacements."""
        axes = self.limits.axes
        return {
            name: float(value) + (self._commanded[name] if axes[name].kind == "position" else 0.0)
            for name, value in zip(self.actions, wanted, strict=True)
        }

    def _displacement(self, before: Mapping[str, float]) -> NDArray[np.float32]:
        """What was executed since the last observation, in the action's units."""
        executed, axes = self.robot.executed.values, self.limits.axes
        moved = [
            self._commanded[name] - before[name] if axes[name].kind == "position" else executed[name]
            for name in self.actions
        ]
        return np.array(moved, np.float32)

    def _read(self, observation: Mapping[str, Any]) -> None:
        """Keep an observation. Raises RobotLost for one that is not finite."""
        numbers = np.array([observation[name] for name in self.proprioception], np.float32)
        if not np.isfinite(numbers).all():
            raise RobotLost("the robot measures what is not finite")
        self._commanded = dict(self.robot.observed.values)
        pictures = {name: square(observation[name], self._size) for name in self.pictures}
        self._observed = {PROPRIOCEPTION: numbers, **pictures}
        self._sensed = self._sensor is not None and observation[self._sensor] > 0.5

    def _count(self) -> None:
        last = self.robot.executed
        passed = last.period - self._period
        self.counts["periods"] += passed
        self.counts["overruns"] += max(0, passed - 1)
        self.counts["interventions"] += last.by == "person"
        self.counts["held"] += last.by == "nobody"
        self._period = last.period

    @property
    def _label(self) -> str:
        """What a person has said in this episode; "" if nothing."""
        count, word = self.robot.observed.label
        return word if count > self._labels else ""

    def _succeeded(self) -> bool:
        return bool(self._sensed) or (self._by_key and self._label == "success")

    def _infos(self, success: bool, executed: NDArray[np.float32] | None = None, lost: bool = False) -> dict[str, Any]:
        return {
            "success": success,
            "executed": np.zeros(len(self.actions), np.float32) if executed is None else executed,
            "by": self.robot.executed.by,
            "observed_s": self.robot.observed.observed_s,
            "label": self._label,
            "lost": lost,
        }


def square(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The middle square of a picture [H, W, 3], as [size, size, 3]: means of areas where it shrinks by whole numbers,
    else the nearest pixels."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = picture[top : top + side, left : left + side]
    if side == size:
        return np.array(middle)
    if side % size == 0:
        share = side // size
        return middle.reshape(size, share, size, share, 3).mean((1, 3)).astype(np.uint8)
    nearest = ((np.arange(size) + 0.5) * side / size).astype(int)
    return np.array(middle[nearest][:, nearest])


def _sensor(success: str, numbers: list[str]) -> str | None:
    """The observation that says success; None if none does. Raises BadInput."""
    kind, _, name = success.partition(":")
    if kind != "sensor":
        if success not in ("key", "none"):
            raise BadInput("success", success, "write key, none, or sensor:NAME")
        return None
    if name not in numbers:
        raise BadInput("success", success, one_of(name, numbers))
    return name
