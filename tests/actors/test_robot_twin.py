"""The simulated twin is driven over the network as a robot is, and solves its task there."""

from __future__ import annotations

import numpy as np
import pytest

from actors.robot_env import make
from actors.robot_twin import LIMITS, TOOL, TwinArm, TwinConfig, twin
from actors.robots.check import check_driver
from actors.robots.limits import load_limits

pytestmark = pytest.mark.render


def test_the_peg_is_inserted_over_the_network_within_the_limits() -> None:
    """By the scripted expert, who looks at the simulation; its actions go the way of a policy's."""
    from actors.experts.peg import PegInsertionExpert

    limits = load_limits(LIMITS)
    with twin(TwinConfig(image_size=32, lateral_m=0.005, angle_rad=0.02)) as (address, driving):
        env = make(address, success="sensor:success", image_size=32)
        observation, _ = env.reset(seed=4)
        simulation = driving.robot._robot._env  # type: ignore[attr-defined]
        expert = PegInsertionExpert()
        expert.reset(simulation, np.random.default_rng(0))
        names, terminated, steps, before = env.proprioception, False, 0, None
        while not terminated and steps < 60:
            action = expert.act(simulation)[:6] * env.action_space.high  # type: ignore[attr-defined]
            observation, reward, terminated, truncated, info = env.step(action)
            assert (truncated, info["lost"]) == (False, False)
            assert (np.abs(info["executed"]) <= env.action_space.high + 1e-6).all()  # type: ignore[attr-defined]
            tool = observation["proprioception"][[names.index(name) for name in TOOL]]
            assert all(limits.axes[f"{n}.delta"].low < x < limits.axes[f"{n}.delta"].high for n, x in zip("xyz", tool))
            assert before is None or not np.array_equal(before, observation["wrist"])
            before, steps = observation["wrist"], steps + 1
        assert (terminated, reward) == (True, 1.0)
        env.close()


def test_the_twins_driver_keeps_to_the_contract() -> None:
    findings = check_driver(TwinArm(TwinConfig(image_size=32)), load_limits(LIMITS), move=True)
    assert [finding for finding in findings if finding.state == "broken"] == []
