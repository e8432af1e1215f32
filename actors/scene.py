"""ManiSkill's tabletop tasks on the CPU, rendering only our cameras.

Importing this file imports torch and SAPIEN; `actors.maniskill` does so when an environment is built, not before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

# Mesa reads its thread budget when the driver is loaded. Rendering shares the machine with a policy and a simulator.
os.environ.setdefault("LP_NUM_THREADS", "1")

import numpy as np
import sapien
import torch
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.sensors.camera import CameraConfig
from mani_skill.utils import sapien_utils
from mani_skill.utils.registration import REGISTERED_ENVS
from numpy.typing import NDArray

from actors.tasks.task import Camera, Task
from dopamine_rl.errors import BadInput, RenderingUnavailable
from dopamine_rl.types import Views

NO_VULKAN = "no usable Vulkan driver; run: bash scripts/ensure_vulkan.sh <python of this environment>"

SHUT_M = -0.01
"""Target of the fingers when the gripper presses, metres from the middle."""


class Appearance(Protocol):
    """What a built scene looks like (actors.looks)."""

    def change(self, rng: np.random.Generator) -> None:
        """Show an episode's look, whatever was shown before."""


class TabletopScene(BaseEnv):
    """Put before one of ManiSkill's tasks among a class's bases: that task with our cameras, a Panda and delta poses.

    Args:
        cameras: the fixed ones by name; `wrist` belongs to the robot.
        views: names of the cameras to render, in the order of the V axis; without any, no Vulkan driver is needed.
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
        try:
            super().__init__(
                robot_uids="panda_wristcam",
                obs_mode="none",
                reward_mode="none",
                control_mode="pd_ee_delta_pose",
                sim_backend="physx_cpu",
                render_backend="cpu" if views else "none",
                sensor_configs={"width": image_size, "height": image_size},
                reconfiguration_freq=1 if rebuild_at_reset else 0,
            )
        except RuntimeError as error:
            if views and ("vk" in str(error).lower() or "vulkan" in str(error).lower()):
                raise RenderingUnavailable(NO_VULKAN) from error
            raise
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
        # The wrist camera's own mesh has three quarters of the scene's triangles and is in nobody's view.
        for component in self.agent.robot.links_map["camera_link"]._objs[0].entity.components:
            if isinstance(component, sapien.render.RenderBodyComponent):
                component.visibility = 0.0
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

    def pictures(self) -> Views:
        """Render the views now: uint8 [V, H, W, 3]."""
        self.scene.update_render(update_sensors=True, update_human_render_cameras=False)
        cameras = [self.scene.sensors["hand_camera" if name == "wrist" else name] for name in self.views]
        for camera in cameras:
            camera.capture()
        return np.stack([camera.camera.get_picture(["Color"])[0][0, ..., :3].numpy() for camera in cameras])


def build_scene(
    task: Task, views: Sequence[str], image_size: int, appearance: Callable[[TabletopScene], Appearance]
) -> TabletopScene:
    """ManiSkill's scene of a task, rebuilt at every reset, which also clears the engine's contact cache."""
    simulator = REGISTERED_ENVS[task.name].cls
    scene = type(simulator.__name__, (TabletopScene, simulator), {})
    return scene(task.cameras, views, image_size, appearance, rebuild_at_reset=True)
