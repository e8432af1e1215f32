"""What a person does with a robot becomes a demonstration: the executed actions, and who moved."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from actors.robot_env import make
from actors.robot_record import check_recording, record_episode
from actors.robots.client import RemoteRobot
from actors.robots.example import TARGET_M, ExampleArm
from dopamine_rl.episodes.motion import PERIODS
from dopamine_rl.episodes.raw import read_demonstration
from dopamine_rl.errors import BadInput
from tests.actors.robots.arms import served
from tests.actors.test_robot_env import LIMITS


def drive_to_the_target(address: str, began: threading.Event, says: str) -> None:
    with RemoteRobot(address, "", "person", "Kim") as hand:
        began.wait(5.0)
        hand.take()
        at = hand.get_observation()
        for step in range(80):
            if step == 5:
                hand.label("stage")
            target = dict(zip(("x.pos", "y.pos"), TARGET_M, strict=True))
            executed = hand.send_action(
                {name: at[name] + float(np.clip(target[name] - at[name], -0.02, 0.02)) for name in target}
            )
            at = {**hand.get_observation(), **executed}
            if np.hypot(*(target[name] - at[name] for name in target)) < 0.01:
                break
        hand.label(says)


@pytest.mark.parametrize(
    ("says", "outcome"), [("success", "success"), ("failure", "failure"), ("discard", "discarded")]
)
def test_a_persons_episode_is_recorded_with_what_was_executed(
    tmp_path: Path, says: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(ExampleArm(), limits=LIMITS) as server:
        env, began = make(server.address, success="key", image_size=16), threading.Event()
        step = env.step
        monkeypatch.setattr(env, "step", lambda action: began.set() or step(action))
        hand = threading.Thread(target=drive_to_the_target, args=(server.address, began, says))
        hand.start()
        assert record_episode(env, tmp_path, "robot_000000", "reach", ("top",), 400, seed=2) == outcome
        hand.join()
        env.close()
    if outcome == "discarded":
        assert not (tmp_path / "robot_000000").exists()
        return
    episode = read_demonstration(tmp_path / "robot_000000")
    assert (episode.success, episode.instructions, len(episode.stages)) == (says == "success", ("reach",), 2)
    moved = np.diff(episode.observations[:, :2], axis=0) / 0.03
    np.testing.assert_allclose(episode.actions, moved.clip(-1.0, 1.0), atol=1e-3)
    assert np.abs(episode.actions[0]).max() > 0.0
    periods = json.loads((tmp_path / "robot_000000" / PERIODS).read_text())
    assert len(periods["by"]) == len(episode.actions)
    assert periods["by"].count("person") > 0.5 * len(periods["by"])
    assert (np.diff(periods["observed_s"]) > 0.0).all()


def test_cameras_that_the_robot_does_not_have_are_named() -> None:
    with served(ExampleArm(), limits=LIMITS) as server:
        env = make(server.address, image_size=16)
        check_recording(env, ("top",))
        for views in (("front",), (), ("top", "top")):
            with pytest.raises(BadInput):
                check_recording(env, views)
        env.close()
