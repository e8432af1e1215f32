"""ManiSkill's tabletop tasks on the CPU, rendering only our cameras.

Importing this file imports torch and SAPIEN; `actors.maniskill` does so when an environment is built, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import sapien
import torch
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.sensors.camera import CameraConfig
from mani_skill.utils import sapien_utils
from mani_skill.utils.registration import REGISTERED_ENVS
from mani_skill.utils.structs import Pose
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from actors.geometry import Matrix, inverse, pose, to_matrix
from actors.rendering import NO_VULKAN, capture, hide_wrist_camera, render_backend, vulkan_needed
from actors.tasks.task import Camera, Task
from dopamine_rl.errors import BadInput, RenderingUnavailable
from dopamine_rl.types import Views

SHUT_M = -0.01
"""Target of the fingers when the gripper presses, metres from the middle."""
OPEN_M = 0.04
"""Target of the open fingers."""
SETTLING_STEPS = 20
"""Simulation steps (10 ms each) in which an object put between the fingers comes to rest in the grasp."""
POSTURE_RAD = (0.0, np.pi / 8, 0.0, -np.pi * 5 / 8, 0.0, np.pi * 3 / 4)
"""The arm's joints but the last at rest; poses are reached near this posture."""


def to_pose(matrix: Matrix) -> sapien.Pose:
    """A pose as SAPIEN's."""
    x, y, z, w = Rotation.from_matrix(matrix[:3, :3]).as_quat()
    return sapien.Pose(matrix[:3, 3].astype(np.float32), np.array([w, x, y, z], np.float32))


class Appearance(Protocol):
    """What a built scene looks like (actors.looks)."""

    def change(self, rng: np.random.Generator) -> None:
        """Show an episode's look, whatever was shown before."""


class TabletopScene(BaseEnv):
    """Put before one of ManiSkill's tasks among a class's bases: that task with our cameras, a Panda and delta poses.

    Args:
        cameras: the fixed ones by name; `wrist` belongs to the robot.
        views: names of the cameras to render, in the order of the V axis. Without any no picture is rendered, but the
            simulator's materials need a Vulkan driver all the same.
        image_size: height and width, pixels.
        appearance: made after every rebuild; what pictures show beside the bodies. Without views it is never made.
        rebuild_at_reset: build all bodies anew at every reset; geometry that a task draws is drawn then.
    """

    def __init__(
        self,
        cameras: Mapping[str, Camera],
        views: Sequence[str],
        image_size: int,
        appearance: Callable[[TabletopScene], Appearance],
        rebuild_at_reset: bool,
    ) -> None:
        self.cameras, self.views, self.image_size = cameras, tuple(views), image_size
        self._make_appearance = appearance
        with vulkan_needed():
            super().__init__(
                robot_uids="panda_wristcam",
                obs_mode="none",
                reward_mode="none",
                control_mode="pd_ee_delta_pose",
                sim_backend="physx_cpu",
                render_backend=render_backend() if views else "none",
                sensor_configs={"width": image_size, "height": image_size},
                reconfiguration_freq=1 if rebuild_at_reset else 0,
            )
        if views and not self.scene.can_render():
            raise RenderingUnavailable(NO_VULKAN)

    @property
    def _default_sensor_configs(self) -> list[CameraConfig]:
        size = self.image_size
        return [
            CameraConfig(
                name, sapien_utils.look_at(camera.eye, camera.target), size, size, camera.field_of_view_rad, 0.01, 10.0
            )
            for name, camera in self.cameras.items()
            if name in self.views
        ]

    @property
    def _default_human_render_camera_configs(self) -> list[CameraConfig]:
        return []

    def _after_reconfigure(self, options: dict[str, Any]) -> None:
        hide_wrist_camera(self.agent.robot)
        if self.views:
            self._appearance = self._make_appearance(self)

    def show(self, seed: int) -> None:
        """Take on the look of the episode that a seed names."""
        self._appearance.change(np.random.default_rng(seed))

    def restore(self, states: Mapping[str, Mapping[str, NDArray[np.float32]]]) -> None:
        """Put every body into a recorded state: kind -> name -> float32 [...], so that it is known what touches what.

        Contacts are not part of a state. One simulation step (10 ms), with the arm still and the gripper closing,
        detects them; then the state is restored again. Grasps detected this way start and end within one environment
        step of the true ones.

        Raises:
            BadInput: a body that this scene does not have.
        """
        state = {
            kind: {self._body_name(kind, name): torch.as_tensor(body)[None] for name, body in bodies.items()}
            for kind, bodies in states.items()
        }
        self.set_state_dict(state)
        arm, gripper = (self.agent.controller.controllers[name] for name in ("arm", "gripper"))
        arm.set_drive_targets(self.agent.robot.get_qpos()[:, :-2])
        gripper.set_drive_targets(torch.full((1, 2), SHUT_M))
        self.scene.step()
        self.set_state_dict(state)

    def _body_name(self, kind: str, name: str) -> str:
        """This scene's name of a recorded body. ManiSkill records most tasks with a Panda without wrist camera."""
        registry = self.scene.state_dict_registry
        name = self.agent.robot.name if name == "panda" else name
        bodies = {"actors": registry.actors, "articulations": registry.articulations}[kind]
        if name not in bodies:
            raise BadInput(
                f"env_states/{kind}/{name}", name, f"give a trajectory of ManiSkill's Panda among {', '.join(bodies)}"
            )
        return name

    def hold(self, item: Any, at: Matrix, grasp: Matrix, finger_m: float, wrist_rad: float) -> None:
        """Put an object at a pose of the world, held by the gripper, everything at rest.

        The outcome depends on the arguments and the geometry alone, bit for bit. Two things see to it: the object is
        taken far away for a step, so that the engine drops what it remembers of the last contacts; then it meets one
        finger before the other, because the engine's solver works through contacts in the order in which they were
        found. Its weight takes it some millimetres down in the grasp.

        Args:
            item: ManiSkill's actor.
            at: where its frame shall be.
            grasp: pose of the tool in its frame.
            finger_m: of each finger from the middle when it touches.
            wrist_rad: the arm's last joint, about.
        Raises:
            RuntimeError: the arm cannot reach that.
        """
        joints = self._joints_for(at @ grasp, wrist_rad)
        arm, gripper = (self.agent.controller.controllers[name] for name in ("arm", "gripper"))
        arm.set_drive_targets(torch.as_tensor(joints[None], dtype=torch.float32))
        gripper.set_drive_targets(torch.full((1, 2), OPEN_M))
        beside_one_finger = at @ grasp @ pose([0.0, 0.1, 0.0]) @ inverse(grasp)
        for waiting in (pose([0.0, -0.6, 0.5]), beside_one_finger):
            self._set(joints, OPEN_M, item, waiting)
            self.scene.step()
        self._set(joints, finger_m, item, at)
        gripper.set_drive_targets(torch.full((1, 2), SHUT_M))
        for _ in range(SETTLING_STEPS):
            self.scene.step()
        self.agent.controller.reset()

    def _set(self, joints: NDArray[np.float64], finger_m: float, item: Any, at: Matrix) -> None:
        qpos = torch.as_tensor([[*joints, finger_m, finger_m]], dtype=torch.float32)
        self.agent.robot.set_qpos(qpos)
        item.set_pose(Pose.create(to_pose(at)))
        self._clear_sim_state()

    def _joints_for(self, tool: Matrix, wrist_rad: float) -> NDArray[np.float64]:
        """The seven arm joints that bring the tool to a pose, near the posture of rest."""
        rest = torch.tensor([[*POSTURE_RAD, wrist_rad, OPEN_M, OPEN_M]])
        base = to_matrix(self.agent.robot.pose.raw_pose)
        target = Pose.create(to_pose(inverse(base) @ tool))
        joints = self.agent.controller.controllers["arm"].kinematics.compute_ik(target, rest.float())
        limits = self.agent.robot.get_qlimits()[0, :7]
        if joints is None or bool(((joints[0] < limits[:, 0]) | (joints[0] > limits[:, 1])).any()):
            raise RuntimeError(f"the arm cannot reach {tool[:3, 3]}; choose another geometry seed or smaller offsets")
        return joints[0].numpy().astype(np.float64)

    def proprioception(self) -> NDArray[np.float32]:
        """What the robot feels, float32 [14], every entry of order one: the tool's velocity, m/s / 0.1 (3) and rad/s /
        0.5 (3); arm joints, rad (7); finger, m / 0.04.
        """
        tool, joints = self.agent.tcp, self.agent.robot.get_qpos()[0].numpy()
        twist = torch.cat([tool.linear_velocity[0], tool.angular_velocity[0]]).numpy()
        parts = (twist / np.repeat([0.1, 0.5], 3), joints[:7], [joints[7] / 0.04])
        return np.concatenate(parts).astype(np.float32)

    def pictures(self) -> Views:
        """Render the views now: uint8 [V, H, W, 3]."""
        cameras = ["hand_camera" if name == "wrist" else name for name in self.views]
        return capture(self.scene, cameras)[0].cpu().numpy()


def build_scene(
    task: Task, views: Sequence[str], image_size: int, appearance: Callable[[TabletopScene], Appearance]
) -> TabletopScene:
    """ManiSkill's scene of a task, rebuilt at every reset, which also clears the engine's contact cache."""
    simulator = REGISTERED_ENVS[task.name].cls
    scene = type(simulator.__name__, (TabletopScene, simulator), {})
    return scene(task.cameras, views, image_size, appearance, rebuild_at_reset=True)
