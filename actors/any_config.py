"""Settings of an environment of any ManiSkill task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from actors.tasks.task import Camera
from dopamine_rl.encoders.eyes import PROPRIOCEPTION
from dopamine_rl.errors import BadInput, require
from dopamine_rl.spelling import one_of


@dataclass(frozen=True)
class ManiSkillConfig:
    """A task of ManiSkill: robot, actions, length of an episode, and what is seen."""

    task: str
    """ManiSkill's id, such as LiftPegUpright-v1."""
    observation: Literal["state", "pictures"] = "state"
    """State: all that the simulator knows, as ManiSkill's obs_mode "state" has it. Pictures: those of `cameras`, and
    the robot's proprioception."""
    reward: Literal["success", "dense"] = "success"
    """Success: 1 at success, else 0. Dense: ManiSkill's normalised dense reward."""
    terminates: bool = True
    """Success and ManiSkill's own failures end the episode. Without, it goes on to the horizon, as training on the
    dense reward wants, which pays for staying."""
    report_dense: bool = False
    """Also give ManiSkill's normalised dense reward as info["dense_reward"], for comparisons."""
    robot: str | None = None
    """ManiSkill's name of the robot. None: the task's own; with the camera `wrist`, its variant that has one, such as
    panda_wristcam, whose hand starts turned by 90 degrees: a policy is for one of the two."""
    control_mode: str | None = None
    """ManiSkill's name of what actions mean. None: pd_ee_delta_pose, or the first one of a robot without it."""
    action_scale: float = 1.0
    """Shrinks movements: an action of 1 moves this share of the most that the control mode allows, in (0, 1]. Absolute
    positions, such as the gripper's, keep their range."""
    horizon: int | None = None
    """Environment steps after which an episode is truncated; None: ManiSkill's own."""
    cameras: tuple[str, ...] = ("front",)
    """In the order of the V axis; with none, nothing is rendered. `front`: the task's first camera. `wrist`: the
    robot's first camera. Others: names of `poses`, or ManiSkill's own names."""
    poses: Mapping[str, Camera] = field(default_factory=dict)
    """Fixed cameras by name; one called `front` takes the place of the task's own."""
    image_size: int = 112
    """Height and width of a picture, pixels."""
    stride: int = 4
    """A frame is scored every so many environment steps, and at the episode's end. Only the pictures of scored frames
    and of observations are rendered."""
    rebuild: bool = False
    """Build all bodies anew at every reset. Without, ManiSkill does so only for tasks that draw their geometry: a seed
    names the same start, but the last contacts, which the physics engine remembers, can change later steps' rounding.
    """

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("observation", self.observation in ("state", "pictures"), "write state or pictures"),
            ("reward", self.reward in ("success", "dense"), "write success or dense"),
            ("action_scale", 0.0 < self.action_scale <= 1.0, "choose above 0 and up to 1"),
            ("horizon", self.horizon is None or self.horizon >= 1, "choose at least 1"),
            ("cameras", self.sees or self.observation == "state", "name at least one camera"),
            ("cameras", len(set(self.cameras)) == len(self.cameras), "name each camera once"),
            ("cameras", PROPRIOCEPTION not in self.cameras, "choose another name"),
            ("image_size", 16 <= self.image_size <= 1024, "choose 16 to 1024"),
            ("stride", self.stride >= 1, "choose at least 1"),
        )

    @property
    def sees(self) -> bool:
        """Whether anything is rendered."""
        return bool(self.cameras)

    @property
    def dense(self) -> bool:
        """Whether ManiSkill's dense reward is computed."""
        return self.reward == "dense" or self.report_dense


def read_config(task: str, **settings: Any) -> ManiSkillConfig:
    """The config of settings, as `make` takes them. Raises BadInput."""
    names = [setting.name for setting in fields(ManiSkillConfig)]
    for name in settings:
        if name not in names:
            raise BadInput(name, settings[name], one_of(name, names))
    given: dict[str, Any] = {name: tuple(value) if name == "cameras" else value for name, value in settings.items()}
    if "poses" in given:
        given["poses"] = {name: _camera(name, pose) for name, pose in given["poses"].items()}
    return ManiSkillConfig(task, **given)


def _camera(name: str, pose: Camera | Mapping[str, Any]) -> Camera:
    if isinstance(pose, Camera):
        return pose
    try:
        return Camera(tuple(pose["eye"]), tuple(pose["target"]), float(pose["field_of_view_rad"]))
    except (KeyError, TypeError, ValueError):
        fix = "give eye and target as [x, y, z] in metres, and field_of_view_rad"
        raise BadInput(f"poses.{name}", pose, fix) from None
