"""The simulated twin is driven over the network as a robot is, and solves its task there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from actors.robot_env import RobotEnv
from actors.robot_twin import TOOL, TwinConfig, limits_at, twin
from actors.robots.client import RemoteRobot

pytestmark = pytest.mark.render


def test_the_peg_is_inserted_over_the_network_within_the_limits() -> None:
    """By the scripted expert, who looks at the simulation; its actions go the way of a policy's. Where a computer is
    slower than the rate the twin is late, not wrong; so the watchdog is patient here."""
    from actors.experts.peg import PegInsertionExpert

    limits = replace(limits_at(10.0), hold_after_ms=60e3, stop_after_ms=90e3)
    config = TwinConfig(views=("wrist",), image_size=32, lateral_m=0.004, angle_rad=0.02)
    with twin(config, limits=limits) as (address, driving):
        env = RobotEnv(RemoteRobot(address, "", timeout_s=120.0), success="sensor:success", image_size=32)
        observation, _ = env.reset(seed=4)
        simulation = driving.robot._robot._env  # type: ignore[attr-defined]
        expert, high = PegInsertionExpert(), env.action_space.high  # type: ignore[attr-defined]
        expert.reset(simulation, np.random.default_rng(0))
        tools = [env.proprioception.index(name) for name in TOOL]
        terminated, reward, steps = False, 0.0, 0
        while not terminated and steps < 60:
            before = observation["wrist"]
            observation, reward, terminated, truncated, info = env.step(expert.act(simulation)[:6] * high)
            assert (truncated, info["lost"]) == (False, False)
            assert (np.abs(info["executed"]) <= high + 1e-6).all()
            for name, place in zip("xyz", observation["proprioception"][tools], strict=True):
                assert limits.axes[f"{name}.delta"].low < place < limits.axes[f"{name}.delta"].high
            assert not np.array_equal(before, observation["wrist"])
            steps += 1
        assert (terminated, reward) == (True, 1.0)
        env.close()


def test_the_twin_is_as_fast_per_period_at_any_rate() -> None:
    slow, fast = limits_at(1.0), limits_at(20.0)
    assert slow.step_of("x.delta") == pytest.approx(fast.step_of("x.delta")) == pytest.approx(0.015)
    assert slow.hold_after_ms == 2000.0
