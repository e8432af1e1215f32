"""Definition of a simulated task: its instructions, cameras, scripts, and the true progress of a state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.geometry import Matrix, to_matrix
from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import Expert
from dopamine_rl.spelling import one_of

EXPERT = "expert"
"""Name of the script that solves a task."""
NEAR_MISS = "near_miss"
"""Name of the script that nearly succeeds."""
SUCCEEDING = (EXPERT, "pause", "retry")
"""Names of the scripts that solve their task; the others are meant to fail."""
DROPPING = ("drop", "drop_at_end")
"""Names of those that open the gripper, which the insertion start keeps shut."""
BASELINES = ("straight_push",)
"""Names of those that are compared with policies, and not recorded by their name."""

STANDARD = "standard"
"""The start from which every script can be run."""

HELD = 0.3
"""True progress when the object has just been grasped; before, it is this times the share of the distance covered."""


@dataclass(frozen=True, slots=True)
class Camera:
    """A fixed camera.

    Args:
        eye, target: its position and the point it looks at, metres in the world frame (aligned with the base).
        field_of_view_rad: vertical.
    """

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    field_of_view_rad: float


@dataclass(frozen=True, kw_only=True)
class PrecisePlace:
    """Where a task asks for precision: the mouth that the held object goes into, and where the object is put before it
    to learn whether a reward model sees it aligned.

    Args:
        put: puts the object of a scene, held and turned the right way, at [gap, y, z] before the mouth: metres from its
            tip to the mouth, and to both sides of the axis.
        where: [gap, y, z] of a state.
        gaps_m: from far to near.
        offsets_m: distances from the axis, from 0 on.
    """

    put: Callable[[Any, Matrix], None]
    where: Callable[[Any], Matrix]
    gaps_m: tuple[float, ...] = (0.03, 0.015, 0.003)
    offsets_m: tuple[float, ...] = (0.0, 0.003, 0.005, 0.008, 0.011, 0.014, 0.017, 0.02, 0.025, 0.03)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task of ManiSkill with our cameras and scripts.

    Args:
        name: in ManiSkill.
        instructions: wordings of the task; the first is the canonical one.
        cameras: `front`, and `close` for details; the wrist camera is part of the robot.
        scripts: constructors of the scripted behaviours by name. Those in SUCCEEDING solve the task, the others should
            fail. A script's random numbers depend on its place: a new one comes last.
        failures: names of the scripts that failures are recorded with, in turn. Half are near misses.
        horizon: environment steps of an episode from the standard start, about twice what an expert needs.
        stride: environment steps from one recorded frame to the next.
        held: true progress at the end of the expert's first stage: the object is grasped, or reached to be pushed.
        near_miss: whether a failure that ends with this observation [D] nearly succeeded; None if the observation does
            not tell. Failures of the script `near_miss` always count as near misses.
        place: where it asks for precision; None where it does nowhere.
    """

    name: str
    instructions: tuple[str, ...]
    cameras: Mapping[str, Camera]
    scripts: Mapping[str, Callable[[], Expert]]
    failures: tuple[str, ...]
    horizon: int
    stride: int
    held: float = HELD
    near_miss: Callable[[NDArray[np.float32]], bool] | None = None
    place: PrecisePlace | None = None

    @property
    def kinds(self) -> list[str]:
        """Names of the scripts that can be recorded instead of the expert, sorted."""
        return sorted(set(self.scripts) - {EXPERT, *BASELINES})


@dataclass(frozen=True, eq=False, slots=True)
class ObjectState:
    """The simulator's true state in a task that brings one object to a goal.

    Args:
        tool: pose of the point between the finger tips.
        item: pose of the object.
        goal: target pose of the object; whether its rotation counts depends on the task.
        grasped: whether both fingers press on the object.
    """

    tool: Matrix
    item: Matrix
    goal: Matrix
    grasped: bool

    @property
    def error_m(self) -> Matrix:
        """Vector [3] from the object to its goal."""
        return self.goal[:3, 3] - self.item[:3, 3]


@dataclass(frozen=True, kw_only=True)
class ObjectTask(Task):
    """A task that brings one object to a goal.

    Args:
        read: returns the true state of ManiSkill's scene.
        progress: true progress in [0, 1] of a state, given the episode's first state; success itself is 1.
    """

    read: Callable[[Any], ObjectState]
    progress: Callable[[ObjectState, ObjectState], float]


def read_object(scene: Any, item: Any, goal: Matrix) -> ObjectState:
    """The state of a scene with an object `item` (ManiSkill's actor) and its goal."""
    grasped = bool(scene.agent.is_grasping(item, max_angle=30)[0])
    return ObjectState(to_matrix(scene.agent.tcp.pose.raw_pose), to_matrix(item.pose.raw_pose), goal, grasped)


def share_covered(distance: float, first_distance: float) -> float:
    """Share of a distance that is covered, in [0, 1]: 0 at the start or further away, 1 at the goal."""
    return float(np.clip(1.0 - distance / max(first_distance, 1e-6), 0.0, 1.0))


def reaching(state: ObjectState, first: ObjectState) -> float:
    """Progress before the object is grasped: HELD times the share of the distance to it that is covered."""
    distances = [float(np.linalg.norm(s.tool[:3, 3] - s.item[:3, 3])) for s in (state, first)]
    return HELD * share_covered(*distances)


def usable_scripts(names: Iterable[str], start: str) -> list[str]:
    """Those scripts of some that can be run from a start."""
    return [name for name in names if start == STANDARD or name not in DROPPING]


def check_script(field: str, name: str, names: Iterable[str], start: str, remedy: str) -> None:
    """Check that a script is one of some, and can be run from a start.

    Args:
        field: what names the script.
        remedy: how to get the standard start, as an imperative.
    Raises:
        BadInput: naming `field`.
    """
    names = list(names)
    usable = usable_scripts(names, start)
    if name in names and name not in usable:
        fault = f"nothing can be dropped from the {start} start, whose gripper stays shut"
        raise BadInput(field, name, f"{fault}: {remedy}, or give one of {', '.join(usable)}")
    if name not in usable:
        raise BadInput(field, name, one_of(name, usable))
