"""Camera names, and the choice of the cameras that a reward model gets, front view first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dopamine_rl.errors import BadInput
from dopamine_rl.texts import one_line

MAX_VIEWS = 3
"""Most views that a reward model gets: the front view, then up to two more (METHOD.md section 4)."""


@dataclass(frozen=True, slots=True)
class CameraName:
    """The names of one camera.

    Args:
        name: in code, settings and messages.
        view: its label in the embedded models' prompt, which they were trained with; also accepted as a video's name.
        video: its video in a raw episode, without .mp4, as the released pipeline expects.
    """

    name: str
    view: str
    video: str


CAMERA_NAMES = (
    CameraName("front", "front", "cam_high"),
    CameraName("wrist", "wrist", "cam_left_wrist"),
    CameraName("close", "close-up", "cam_right_wrist"),
)
"""Our cameras in the order of the V axis."""
VIEW_NAMES = tuple(camera.view for camera in CAMERA_NAMES)
VIDEO_NAMES = tuple(camera.video for camera in CAMERA_NAMES)
WRIST = frozenset(
    ("wrist", "wrists", "hand", "handeye", "inhand", "gripper", "grip", "eef", "ee", "effector", "endeffector", "tool",
     "tcp", "palm", "finger", "arm")
)  # fmt: skip
"""Words in the names of cameras on the arm: second and third view."""
FRONT = frozenset(
    ("front", "high", "top", "head", "overhead", "external", "exterior", "scene", "third", "base", "static", "fixed",
     "main", "agentview")
)  # fmt: skip
"""Words in the names of fixed cameras that see the whole scene: front view."""


def order_cameras(names: Sequence[str]) -> tuple[str, ...]:
    """Order a dataset's cameras as views of a reward model.

    The front view is the first camera with a FRONT word in its name (front, top, cam_high, …), else the first without a
    WRIST word, else the first. Wrist cameras follow, the left one first, then all others, in the listed order.

    Args:
        names: features or names of the cameras, in the order of the dataset.
    Returns:
        All of them, reordered.
    """
    if not names:
        return ()
    words = {name: _words(name) for name in names}
    front = min(names, key=lambda name: (bool(words[name] & WRIST), not words[name] & FRONT))
    rest = [name for name in names if name != front]
    rest.sort(key=lambda name: (not words[name] & WRIST, "right" in words[name] and bool(words[name] & WRIST)))
    return (front, *rest)


def find_cameras(wanted: Sequence[str], available: Sequence[str], owner: str) -> tuple[str, ...]:
    """Resolve the names of cameras, in the order given.

    Args:
        wanted: names, or unique parts of them: `wrist` for `observation.images.wrist`.
        available: full names of all cameras.
        owner: the episode or dataset, for error messages.
    Raises:
        BadInput: a name matches no camera or several, or is given twice.
    """
    cameras = [_find(name, wanted, available, owner) for name in wanted]
    if not cameras or len(set(cameras)) < len(cameras):
        raise BadInput("--cameras", ",".join(wanted), f"name each camera once, of {', '.join(available)}")
    return tuple(cameras)


def _find(name: str, wanted: Sequence[str], available: Sequence[str], owner: str) -> str:
    if name in available:
        return name
    parts = name.split(".")
    matches = [full for full in available if full.endswith(f".{name}")]
    matches = matches or [full for full in available if _contains(full.split("."), parts)]
    if len(matches) != 1:
        fault = f"several cameras of {owner} are called {name}" if matches else f"{owner} has no camera {name}"
        raise BadInput("--cameras", ",".join(wanted), f"{fault}: choose from {', '.join(available) or 'none'}")
    return matches[0]


def _contains(whole: list[str], parts: list[str]) -> bool:
    return any(whole[start : start + len(parts)] == parts for start in range(len(whole) - len(parts) + 1))


def describe_cameras(owner: str, used: Sequence[str], available: Sequence[str]) -> str:
    """One line on which camera is the front view, which follow, and which are not used."""
    line = f"{owner}: front view {used[0]}"
    if len(used) > 1:
        line += f", then {', '.join(used[1:])}"
    unused = [name for name in available if name not in used]
    if unused:
        line += f"; not used: {', '.join(unused)}"
    return one_line(f"{line} (--cameras chooses others)" if len(available) > 1 else line)


def describe_left_out(owner: str, names: Sequence[str]) -> str:
    """One line on the episodes that are skipped because they are too short."""
    return one_line(f"{owner}: left out, because an episode needs at least 2 frames: {', '.join(names)}")


def _words(name: str) -> set[str]:
    """The words of a camera's name: cam, left, wrist for `observation.images.cam_left_wrist`."""
    last = re.sub(r"^observation\.(images?\.)?", "", name)
    cut = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", last)
    words = {word.lower() for word in re.split(r"[^A-Za-z]+", cut) if word}
    joined = "".join(re.findall(r"[a-z]+", last.lower()))
    return words | {word for word in ("inhand", "endeffector", "handeye", "agentview") if word in joined}
