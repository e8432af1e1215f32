"""A simulated robot behind a robot's server: the peg insertion of actors.envs, at a wall-clock rate.

It is driven over the network, within its limits (actors/robots/twin.toml), as a real one is. A control period simulates
50 ms, whatever its length on the wall; between periods the simulation stands.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.robots.driving import Driving
from actors.robots.faults import Faults, FaultyLink, FaultyRobot
from actors.robots.limits import Limits, load_limits
from actors.robots.server import Listening, RobotServer
from dopamine_rl.encoders.eyes import PROPRIOCEPTION

LIMITS = Path(__file__).resolve().parent / "robots" / "twin.toml"
TOOL = ("tool.x", "tool.y", "tool.z")
FEELS = (
    *(f"tool.{name}" for name in ("vx", "vy", "vz", "wx", "wy", "wz")),
    *(f"joint{number}.pos" for number in range(1, 8)),
    "finger.pos",
)
"""Names of what TabletopScene.proprioception measures, in its units."""
ACTIONS = tuple(f"{name}.delta" for name in ("x", "y", "z", "rx", "ry", "rz"))
SUCCESS = "success"


@dataclass(frozen=True)
class TwinConfig:
    """The simulated robot.

    Args:
        views: its cameras.
        image_size: height and width of their pictures.
        lateral_m, angle_rad, standoff_m: where episodes start (actors.maniskill.EnvConfig).
    """

    views: tuple[str, ...] = ("front", "wrist")
    image_size: int = 112
    lateral_m: float = 0.015
    angle_rad: float = 0.087
    standoff_m: float = 0.03


class TwinArm:
    """The driver of the simulated robot: an arm that holds a peg before a hole. See dopamine_rl.interfaces.Robot."""

    def __init__(self, config: TwinConfig = TwinConfig()) -> None:
        from actors.maniskill import EnvConfig

        self._config = EnvConfig(
            observation="pictures",
            views=(),
            policy_views=config.views,
            image_size=config.image_size,
            horizon=1 << 30,
            lateral_m=config.lateral_m,
            angle_rad=config.angle_rad,
            standoff_m=config.standoff_m,
        )
        numbers = dict.fromkeys((*FEELS, *TOOL, SUCCESS), float)
        self.observation_features = {
            **numbers,
            **dict.fromkeys(config.views, (config.image_size, config.image_size, 3)),
        }
        self.action_features = dict.fromkeys(ACTIONS, float)
        self._scale = np.repeat([self._config.translation_m, self._config.rotation_rad], 3)
        self._env: Any = None
        self._observed: Mapping[str, Any] = {}
        self._fresh, self._success, self._stopped = False, False, threading.Event()

    @property
    def is_connected(self) -> bool:
        """See Robot."""
        return self._env is not None

    def connect(self) -> None:
        """Build the scene."""
        from actors.envs import make_env

        self._env = make_env(self._config)
        self.reset(0)

    def get_observation(self) -> dict[str, Any]:
        """What is measured after the period; where no action came, the arm stood still for it."""
        if not self._fresh and not self._stopped.is_set():
            self._simulate(np.zeros(len(ACTIONS)))
        self._fresh = False
        numbers = dict(zip(FEELS, map(float, self._observed[PROPRIOCEPTION]), strict=True))
        tool = dict(zip(TOOL, map(float, self._env.tool_pose()[:3]), strict=True))
        return {**numbers, **tool, SUCCESS: float(self._success), **_pictures(self._observed)}

    def send_action(self, action: Mapping[str, float]) -> dict[str, float]:
        """Simulate one period."""
        self._stopped.clear()
        wanted = np.array([action[name] for name in ACTIONS]) / self._scale
        executed = np.clip(wanted, -1.0, 1.0)
        self._simulate(executed)
        return dict(zip(ACTIONS, map(float, executed * self._scale), strict=True))

    def hold(self) -> None:
        """Nothing: no displacement outlasts its period."""

    def stop(self) -> None:
        """Let the simulation stand until the next action."""
        self._stopped.set()

    def disconnect(self) -> None:
        """Release the scene."""
        env, self._env = self._env, None
        env.close()

    def reset(self, seed: int) -> None:
        """Put the peg before the hole."""
        self._observed, infos = self._env.reset(seed=seed, options={"ends_on_success": False})
        self._fresh, self._success = True, bool(infos["success"])

    def tool_after(self, observation: Mapping[str, Any], action: Mapping[str, float] | None) -> Sequence[float]:
        """See KinematicRobot."""
        moved = [0.0] * 3 if action is None else [action[name] for name in ACTIONS[:3]]
        return [observation[name] + step for name, step in zip(TOOL, moved, strict=True)]

    def _simulate(self, action: NDArray[np.float64]) -> None:
        self._observed, _, _, _, infos = self._env.step(action.astype(np.float32))
        self._fresh, self._success = True, bool(infos["success"])


def limits_at(rate_hz: float) -> Limits:
    """The twin's limits at a control rate: the steps of a period are those of twin.toml."""
    limits = load_limits(LIMITS)
    faster = rate_hz / limits.rate_hz
    axes = {
        name: replace(axis, velocity=axis.velocity * faster, acceleration=axis.acceleration * faster**2)
        for name, axis in limits.axes.items()
    }
    hold_after_ms = max(limits.hold_after_ms, 2e3 / rate_hz)
    stop_after_ms = max(limits.stop_after_ms, hold_after_ms)
    return replace(limits, rate_hz=rate_hz, axes=axes, hold_after_ms=hold_after_ms, stop_after_ms=stop_after_ms)


def _pictures(observation: Mapping[str, Any]) -> dict[str, Any]:
    return {name: picture for name, picture in observation.items() if name != PROPRIOCEPTION}


@contextmanager
def twin(
    config: TwinConfig = TwinConfig(),
    faults: Faults = Faults(),  # noqa: B008
    listening: Listening = Listening(),  # noqa: B008
    limits: Limits | None = None,
) -> Iterator[tuple[str, Driving]]:
    """Serve a simulated robot; yields the address that clients connect to, and the robot.

    Args:
        faults: of the robot and, where it has any, of the way to it.
        limits: its limits; None: those of twin.toml.
    """
    limits = load_limits(LIMITS) if limits is None else limits
    with ExitStack() as stack:
        driving = stack.enter_context(Driving(FaultyRobot(TwinArm(config), faults), limits))
        address = stack.enter_context(RobotServer(driving, listening)).address
        if faults.on_the_way:
            address = stack.enter_context(FaultyLink(address, faults)).address
        yield address, driving
