"""Any ManiSkill id by its name: spaces, ends, seeds, pictures; and what is wrong is named."""

import subprocess
import sys
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest

from actors.any_config import ManiSkillConfig, read_config
from actors.any_maniskill import AnyManiSkill, make
from dopamine_rl.errors import BadInput

TASKS = {
    "LiftPegUpright-v1": (32, 7, 50),
    "PokeCube-v1": (54, 7, 50),
    "PlaceSphere-v1": (39, 7, 50),
    "RollBall-v1": (44, 7, 80),
    "PullCubeTool-v1": (39, 7, 100),
    "StackPyramid-v1": (64, 7, 250),
    "PushT-v1": (31, 6, 100),  # a robot with a stick, and a scene that must be drawn
    "TwoRobotPickCube-v1": (66, 14, 100),  # two robots
    "RotateValveLevel0-v1": (51, 9, 80),  # three fingers
    "TriFingerRotateCubeLevel0-v1": (62, 9, 250),
    "PickCubeSO100-v1": (36, 6, 50),
    "UnitreeG1PlaceAppleInBowl-v1": (74, 25, 100),
}
"""Length of the state and of an action, and ManiSkill's horizon."""


@pytest.fixture(scope="module")
def push() -> Iterator[AnyManiSkill]:
    """One scene without pictures for most tests."""
    env = make("PushCube-v1", cameras=(), horizon=6, action_scale=0.3, report_dense=True)
    yield env
    env.close()


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=pytest.mark.slow if i < 3 else pytest.mark.long) for i, task in enumerate(TASKS)]
)
def test_any_id_is_an_environment_of_the_contract(task: str) -> None:
    env = make(task, cameras=())
    try:
        assert (*env.observation_space.shape, *env.action_space.shape, env.horizon) == TASKS[task]
        first, info = env.reset(seed=3)
        assert env.observation_space.contains(first)
        assert info == {"success": False}
        moved = env.step(np.full(env.action_space.shape, 0.5, np.float32))
        assert env.observation_space.contains(moved[0])
        assert (moved[0] != first).any()
        success = moved[4]["success"]  # TriFingerRotateCubeLevel0-v1 can begin with it
        assert moved[1:] == (float(success), success, False, {"success": success})
        assert env.reset(seed=3)[0].tobytes() == first.tobytes()
        assert env.reset(seed=4)[0].tobytes() != first.tobytes()
    finally:
        env.close()


def test_the_horizon_truncates_and_infos_are_plain_numbers(push: AnyManiSkill) -> None:
    push.reset(seed=0)
    steps = [push.step(np.zeros(7, np.float32)) for _ in range(6)]
    assert [(reward, terminated, truncated) for _, reward, terminated, truncated, _ in steps] == [
        *[(0.0, False, False)] * 5,
        (0.0, False, True),
    ]
    info = steps[-1][-1]
    assert {name: type(value) for name, value in info.items()} == {"success": bool, "dense_reward": float}
    assert 0.0 < info["dense_reward"] < 1.0


def test_success_terminates_and_pays_one(push: AnyManiSkill, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    push.reset(seed=0)
    evaluate = push.scene.evaluate
    monkeypatch.setattr(push.scene, "evaluate", lambda: {**evaluate(), "success": torch.ones(1, dtype=torch.bool)})
    _, reward, terminated, truncated, info = push.step(np.zeros(7, np.float32))
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


def test_a_scale_shrinks_movements_and_leaves_the_gripper(push: AnyManiSkill) -> None:
    whole = push.scene.actions.to_simulator(np.full((1, 7), 2.0, np.float32)).numpy()
    np.testing.assert_allclose(whole[0], [*[0.3] * 6, 1.0], atol=1e-6)
    np.testing.assert_allclose(push.scene.actions.from_simulator(whole), np.ones((1, 7)), atol=1e-6)

    def advanced(scale: float) -> float:
        before = push.reset(seed=0)[0]
        for _ in range(4):
            after, *_ = push.step(np.array([scale, 0, 0, 0, 0, 0, -1], np.float32))
        return float(np.abs(after - before)[:7].max())

    assert advanced(1.0) > 1.5 * advanced(0.3)


def test_an_unseeded_episode_follows_from_the_seed_before_it(push: AnyManiSkill) -> None:
    def later() -> bytes:
        push.reset(seed=7)
        return bytes(push.reset()[0].tobytes())

    assert later() == later()


def test_an_action_of_another_shape_is_refused(push: AnyManiSkill) -> None:
    push.reset(seed=0)
    with pytest.raises(BadInput, match="action"):
        push.step(np.zeros(6, np.float32))
    with pytest.raises(BadInput, match="cameras"):
        push.render_views()


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("PushCub-v1", {}, "task = 'PushCub-v1': write PushCube-v1"),
        ("Empty-v1", {}, "ManiSkill defines none for this one"),
        ("PushCube-v1", {"control_mode": "pd_joint"}, "control_mode = 'pd_joint': .*pd_joint_delta_pos"),
        ("PushCube-v1", {"robot": "so100"}, "robot = 'so100': give one of panda, fetch, panda_wristcam"),
        ("StackPyramid-v1", {"reward": "dense"}, "no dense reward for StackPyramid-v1"),
        ("PickSingleYCB-v1", {}, "mani_skill.utils.download_asset"),
        ("AnymalC-Reach-v1", {}, "mani_skill.utils.download_asset anymal_c"),
    ],
)
def test_what_maniskill_lacks_is_named(task: str, settings: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make(task, cameras=(), **settings)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"horizn": 5}, "horizn"),
        ({"horizon": 0}, "horizon"),
        ({"stride": 0}, "stride"),
        ({"action_scale": 1.5}, "action_scale"),
        ({"cameras": ["front", "front"]}, "cameras"),
        ({"cameras": [], "observation": "pictures"}, "cameras"),
        ({"poses": {"side": {"eye": [1, 0, 1]}}}, "poses.side"),
    ],
)
def test_bad_settings_are_named(settings: dict, field: str) -> None:
    with pytest.raises(BadInput, match=field):
        read_config("PushCube-v1", **settings)


def test_settings_as_json_has_them() -> None:
    pose = {"eye": [0.6, 0, 0.5], "target": [0, 0, 0], "field_of_view_rad": 1.0}
    config = read_config("PushCube-v1", cameras=["side"], poses={"side": pose})
    assert config == ManiSkillConfig("PushCube-v1", cameras=("side",), poses=config.poses)
    assert config.poses["side"].eye == (0.6, 0, 0.5)


@pytest.mark.render
def test_pictures_and_proprioception_and_each_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pose = {"eye": [0.6, 0.3, 0.4], "target": [0, 0, 0], "field_of_view_rad": 1.0}
    cameras = ["wrist", "front", "side"]
    env = make("LiftPegUpright-v1", observation="pictures", cameras=cameras, poses={"side": pose}, image_size=32)
    rendered = []
    pictures = env.scene.pictures
    monkeypatch.setattr(env.scene, "pictures", lambda: rendered.append(1) or pictures())
    observation, info = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    assert list(observation) == ["proprioception", *cameras]
    assert observation["proprioception"].shape == (9 + 9 + 7,)
    tool = observation["proprioception"][18:]
    assert 0.4 < tool[0] < 0.8  # metres before the robot's base
    assert np.linalg.norm(tool[3:]) == pytest.approx(1.0, abs=1e-4)
    assert len({observation[name].tobytes() for name in cameras}) == 3
    assert min(observation[name].std() for name in cameras) > 5
    assert [len(rendered), info["scored_views"].shape] == [1, (3, 32, 32, 3)]
    assert all((info["scored_views"][i] == observation[name]).all() for i, name in enumerate(cameras))
    infos = [env.step(np.zeros(7, np.float32))[-1] for _ in range(4)]
    assert ["scored_views" in info for info in infos] == [False, False, False, True]
    assert len(rendered) == 5
    with pytest.raises(BadInput, match=r"cameras = 'left': .*base_camera"):
        make("LiftPegUpright-v1", cameras=["left"])
    env.close()


@pytest.mark.render
def test_a_state_renders_the_scored_frames_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("PokeCube-v1", stride=3, horizon=5, image_size=32)
    rendered = []
    pictures = env.scene.pictures
    monkeypatch.setattr(env.scene, "pictures", lambda: rendered.append(1) or pictures())

    def scored(**options: object) -> list[int]:
        infos = [env.reset(seed=1, options=options)[-1]]
        infos += [env.step(np.zeros(7, np.float32))[-1] for _ in range(5)]
        return [step for step, info in enumerate(infos) if "scored_views" in info]

    assert (scored(), len(rendered)) == ([0, 3, 5], 3)
    assert (scored(stride=2), len(rendered)) == ([0, 2, 4, 5], 7)
    assert (scored(pictures=False), len(rendered)) == ([], 7)
    assert (scored(horizon=4)[:3], len(rendered)) == ([0, 3, 4], 11)
    assert env.render().shape == (32, 32, 3)
    env.close()


def test_the_settings_import_neither_torch_nor_the_simulator() -> None:
    code = "import sys, actors.any_maniskill; assert not {'torch', 'mani_skill', 'sapien'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_gymnasium_finds_nothing_to_complain_about(push: AnyManiSkill) -> None:
    assert isinstance(push, gymnasium.Env)
    assert push.unwrapped is push
    assert push.render_mode in push.metadata["render_modes"]
