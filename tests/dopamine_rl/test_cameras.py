"""The front view is told by names; what somebody names is found, and what is wrong with it is said."""

from __future__ import annotations

import pytest

from dopamine_rl.episodes.cameras import describe_cameras, find_cameras, order_cameras
from dopamine_rl.errors import BadInput

PREFIX = "observation.images."


@pytest.mark.parametrize(
    ("listed", "ordered"),
    [
        (["wrist", "front"], ["front", "wrist"]),
        (["front", "wrist"], ["front", "wrist"]),
        (["wrist"], ["wrist"]),
        (["left.rgb", "right.rgb"], ["left.rgb", "right.rgb"]),
        (["wrist_left", "cam_high"], ["cam_high", "wrist_left"]),
        (
            ["cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist"],
            ["cam_high", "cam_left_wrist", "cam_right_wrist", "cam_low"],
        ),
        (["cam_right_wrist", "cam_left_wrist", "cam_high"], ["cam_high", "cam_left_wrist", "cam_right_wrist"]),
        (["wrist_image", "image"], ["image", "wrist_image"]),
        (["gripper", "laptop"], ["laptop", "gripper"]),
        (["robot0_eye_in_hand", "agentview"], ["agentview", "robot0_eye_in_hand"]),
        (["exterior_1_left", "wrist_left", "exterior_2_left"], ["exterior_1_left", "wrist_left", "exterior_2_left"]),
        (["handeye.color", "side.color", "overhead.color"], ["overhead.color", "handeye.color", "side.color"]),
        (["wristCam", "sceneCam"], ["sceneCam", "wristCam"]),
        (["right_wrist", "left_wrist"], ["right_wrist", "left_wrist"]),
        (["cam0", "cam1"], ["cam0", "cam1"]),
    ],
)
def test_the_front_view_is_the_one_whose_name_says_so(listed: list[str], ordered: list[str]) -> None:
    names = [PREFIX + name for name in listed]
    assert order_cameras(names) == tuple(PREFIX + name for name in ordered)


def test_libero_and_bare_names_are_understood() -> None:
    assert order_cameras(["observation.images.image2", "observation.image"])[0] == "observation.images.image2"
    assert order_cameras(["hand", "top"]) == ("top", "hand")
    assert order_cameras([]) == ()


def test_cameras_are_found_by_what_only_one_is_called() -> None:
    there = [PREFIX + name for name in ("left.rgb", "right.rgb", "wrist")]
    assert find_cameras(["wrist", "left"], there, "set") == (there[2], there[0])
    assert find_cameras(["images.right.rgb"], there, "set") == (there[1],)
    assert find_cameras([there[1]], there, "set") == (there[1],)
    for wanted, fault in (
        (["rgb"], "several cameras of set are called rgb: choose from observation.images.left.rgb"),
        (["front"], "set has no camera front: choose from observation.images.left.rgb"),
        (["wrist", there[2]], "name each camera once"),
        ([""], "set has no camera"),
        ([], "name each camera once"),
    ):
        with pytest.raises(BadInput, match=rf"--cameras = .*{fault}"):
            find_cameras(wanted, there, "set")


def test_what_was_taken_for_what_is_one_line() -> None:
    assert describe_cameras("set", ["a", "b"], ["b", "a", "c"]) == (
        "set: front view a, then b; not used: c (--cameras chooses others)"
    )
    assert describe_cameras("set", ["a"], ["a"]) == "set: front view a"
