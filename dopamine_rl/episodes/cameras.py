"""Which of a recording's cameras is the front view, which come after it, and what is said of the choice."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dopamine_rl.errors import BadInput

MAX_VIEWS = 3
"""A reward model is shown at most so many views: the front view, then up to two more (METHOD.md section 4)."""
WRIST = frozenset(
    ("wrist", "wrists", "hand", "handeye", "inhand", "gripper", "grip", "eef", "ee", "effector", "endeffector", "tool",
     "tcp", "palm", "finger", "arm")
)  # fmt: skip
"""Words in the names of cameras that move with the arm; the reward model's second and third view."""
FRONT = frozenset(
    ("front", "high", "top", "head", "overhead", "external", "exterior", "scene", "third", "base", "static", "fixed",
     "main", "agentview")
)  # fmt: skip
"""Words in the names of cameras that see the whole scene."""


def order_cameras(names: Sequence[str]) -> tuple[str, ...]:
    """Order a dataset's cameras as a reward model is shown them.

    The front view is the first camera whose name says so (front, top, cam_high, …), else the first one that no name
    puts on the arm, else the first one. Wrist cameras follow, the left one first, then the others; otherwise the order
    stays as it is listed.

    Args:
        names: features or names of the cameras, as the dataset lists them.
    Returns:
        All of them.
    """
    if not names:
        return ()
    words = {name: _words(name) for name in names}
    front = min(names, key=lambda name: (bool(words[name] & WRIST), not words[name] & FRONT))
    rest = [name for name in names if name != front]
    rest.sort(key=lambda name: (not words[name] & WRIST, "right" in words[name] and bool(words[name] & WRIST)))
    return (front, *rest)


def find_cameras(wanted: Sequence[str], there: Sequence[str], owner: str) -> tuple[str, ...]:
    """The cameras that somebody names, in that order.

    Args:
        wanted: names, or the parts of them that only one camera has: `wrist` for `observation.images.wrist`.
        there: all names.
        owner: of the cameras, for the error.
    Raises:
        BadInput: a name that no camera has, or several; one given twice.
    """
    found = [_find(name, wanted, there, owner) for name in wanted]
    if not found or len(set(found)) < len(found):
        raise BadInput("--cameras", ",".join(wanted), f"name each camera once, of {', '.join(there)}")
    return tuple(found)


def _find(name: str, wanted: Sequence[str], there: Sequence[str], owner: str) -> str:
    if name in there:
        return name
    parts = name.split(".")
    same = [full for full in there if full.endswith(f".{name}")]
    same = same or [full for full in there if _within(parts, full.split("."))]
    if len(same) != 1:
        fault = f"several cameras of {owner} are called {name}" if same else f"{owner} has no camera {name}"
        raise BadInput("--cameras", ",".join(wanted), f"{fault}: name some of {', '.join(there) or 'none'}")
    return same[0]


def _within(parts: list[str], whole: list[str]) -> bool:
    return any(whole[at : at + len(parts)] == parts for at in range(len(whole) - len(parts) + 1))


def describe_cameras(owner: str, used: Sequence[str], there: Sequence[str]) -> str:
    """One line that says which camera is the front view, which follow, and which are not used."""
    line = f"{owner}: front view {used[0]}"
    if len(used) > 1:
        line += f", then {', '.join(used[1:])}"
    unused = [name for name in there if name not in used]
    if unused:
        line += f"; not used: {', '.join(unused)}"
    return f"{line} (--cameras chooses others)" if len(there) > 1 else line


def describe_left_out(owner: str, names: Sequence[str]) -> str:
    """One line that names the episodes that are too short to be used."""
    return f"{owner}: left out, because an episode needs at least 2 frames: {', '.join(names)}"


def _words(name: str) -> set[str]:
    """The words of a camera's name: `observation.images.cam_left_wrist` has cam, left and wrist; wristCam has two."""
    last = re.sub(r"^observation\.(images?\.)?", "", name)
    cut = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", last)
    words = {word.lower() for word in re.split(r"[^A-Za-z]+", cut) if word}
    joined = "".join(re.findall(r"[a-z]+", last.lower()))
    return words | {word for word in ("inhand", "endeffector", "handeye", "agentview") if word in joined}
