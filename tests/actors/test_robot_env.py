"""A robot behind a real server as an environment, checked by the suite for environments of a user's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from gymnasium.spaces import Dict

from actors.contract.check import check_environment
from actors.envs import make_env
from actors.maniskill import EnvConfig
from actors.robot_env import RobotEnv, make, square
from actors.robots.client import RemoteRobot
from actors.robots.example import ExampleArm
from actors.robots.limits import AxisLimits, Limits
from actors.robots.server import Listening, RobotServer
from dopamine_rl.errors import BadInput
from tests.actors.robots.arms import served

LIMITS = Limits(
    50.0, 3000.0, 6000.0, {name: AxisLimits("position", 1.5, 300.0, 0.0, 0.9) for name in ("x.pos", "y.pos")}
)


@pytest.fixture
def server() -> Iterator[RobotServer]:
    with served(ExampleArm(), limits=LIMITS) as made:
        yield made


@pytest.fixture
def env(server: RobotServer) -> Iterator[RobotEnv]:
    made = make(server.address, success="sensor:success", image_size=16)
    yield made
    made.close()


def test_it_keeps_to_the_contract_of_environments(server: RobotServer) -> None:
    findings = check_environment(lambda: make(server.address, success="sensor:success", image_size=16), steps=8)
    assert [finding for finding in findings if finding.state == "broken"] == []


def test_actions_are_displacements_and_the_sensor_ends_the_episode(env: RobotEnv) -> None:
    observation, _ = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    assert (list(env.observation_space), env.proprioception) == (["proprioception", "top"], ("x.pos", "y.pos"))  # type: ignore[call-overload]
    np.testing.assert_allclose(env.action_space.high, 0.03)  # type: ignore[attr-defined]
    target, terminated, count = np.array([0.4, 0.3], np.float32), False, 0
    while not terminated and count < 60:
        before = observation["proprioception"]
        observation, reward, terminated, truncated, info = env.step(target - before)
        assert np.abs(info["executed"]).max() <= 0.03 + 1e-6
        np.testing.assert_allclose(observation["proprioception"] - before, info["executed"], atol=1e-6)
        assert (truncated, info["by"], reward, info["success"]) == (False, "policy", float(terminated), terminated)
        count += 1
    assert info["success"]
    assert abs(time.monotonic() - info["observed_s"]) < 1.0


def test_periods_that_passed_without_an_action_are_counted(env: RobotEnv) -> None:
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))
    before = env.counts["overruns"]
    time.sleep(0.12)
    env.step(np.zeros(2, np.float32))
    assert env.counts["overruns"] - before >= 4
    assert "missed" in env.status_line()


def test_a_lost_robot_truncates_and_the_next_reset_finds_it_again() -> None:
    arm = ExampleArm()
    with served(arm, limits=LIMITS) as server:
        env = make(server.address, success="sensor:success", image_size=16)
        env.reset(seed=0)
        env.step(np.zeros(2, np.float32))
        port = int(server.address.split(":")[1])
    _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
    assert (reward, terminated, truncated, info["lost"], info["success"]) == (0.0, False, True, True, False)
    assert env.step(np.zeros(2, np.float32))[3]
    again = threading.Thread(target=env.reset, kwargs={"seed": 1})
    again.start()
    with served(arm, Listening(port=port), limits=LIMITS):
        again.join(5.0)
        assert not again.is_alive()
        assert not env.step(np.zeros(2, np.float32))[3]
        env.close()


def test_a_person_resets_and_says_success(server: RobotServer) -> None:
    env = make(server.address, success="key", reset="person", image_size=16)
    with RemoteRobot(server.address, "", rank="person", name="Kim") as person:
        waiting = threading.Thread(target=env.reset)
        waiting.start()
        while not person.status()["asked"]:
            time.sleep(0.01)
        assert waiting.is_alive()
        person.label("ready")
        waiting.join(5.0)
        assert not env.step(np.zeros(2, np.float32))[2]
        person.label("success")
        _, reward, terminated, _, info = env.step(np.zeros(2, np.float32))
        assert (reward, terminated, info["success"]) == (1.0, True, True)
    env.close()


def test_what_a_person_drives_is_what_was_executed(env: RobotEnv, server: RobotServer) -> None:
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))
    with RemoteRobot(server.address, "", rank="person", name="Kim") as person:
        person.take()
        held = person.get_observation()
        driving = threading.Thread(
            target=lambda: [
                person.send_action({"x.pos": held["x.pos"] + 0.2, "y.pos": held["y.pos"]}) for _ in range(8)
            ]
        )
        driving.start()
        infos = [env.step(np.array([-0.03, -0.03], np.float32))[4] for _ in range(6)]
        driving.join()
    moved = [info["executed"] for info in infos if info["by"] == "person"]
    assert len(moved) >= 3
    assert all(step[0] > 0.0 and abs(step[1]) < 1e-6 for step in moved[1:])
    assert env.counts["interventions"] == len(moved)


def test_a_script_of_the_user_resets(server: RobotServer) -> None:
    env = make(
        server.address, success="sensor:success", reset="tests.actors.test_robot_env:to_the_start", image_size=16
    )
    observation, _ = env.reset()
    np.testing.assert_allclose(observation["proprioception"], 0.1, atol=1e-6)
    env.close()


def to_the_start(robot: RemoteRobot) -> None:
    robot.get_observation()
    while abs(robot.send_action({"x.pos": 0.1, "y.pos": 0.1})["x.pos"] - 0.1) > 1e-6:
        pass


def test_the_main_jobs_environment_is_made_of_it(server: RobotServer) -> None:
    keywords = f'{{"address": "{server.address}", "success": "sensor:success", "image_size": 16}}'
    config = EnvConfig(make="actors.robot_env:make", kwargs=keywords, views=("top",), horizon=5, observation="pictures")
    env = make_env(config)
    assert isinstance(env.observation_space, Dict)
    _, info = env.reset(seed=0)
    assert info["scored_views"].shape == (1, 16, 16, 3)
    flags = [env.step(np.zeros(2, np.float32))[3] for _ in range(5)]
    assert flags == [False, False, False, False, True]
    env.close()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"success": "sensor:succes"}, "success"),
        ({"success": "keys"}, "success"),
        ({"reset": "drivers"}, "reset"),
        ({"reset": "no_module_here:f"}, "reset"),
    ],
)
def test_what_cannot_be_used_is_named(server: RobotServer, arguments: dict[str, str], field: str) -> None:
    with pytest.raises(BadInput) as error:
        make(server.address, **arguments)  # type: ignore[arg-type]
    assert error.value.field == field


def test_pictures_are_cropped_to_squares_and_resized() -> None:
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    np.testing.assert_array_equal(square(picture, 4), picture[:, 1:5])
    np.testing.assert_array_equal(square(picture, 2)[0, 0], picture[:2, 1:3].mean((0, 1)).astype(np.uint8))
    assert square(picture, 3).shape == (3, 3, 3)
