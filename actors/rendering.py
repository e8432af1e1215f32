"""What all of ManiSkill's scenes share: the Vulkan driver that renders, and pictures of their cameras as numpy.

Importing this file imports torch and SAPIEN; it limits the threads of a driver on the CPU before that is loaded.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

# Mesa reads its thread budget when the driver is loaded. Rendering shares the machine with a policy and a simulator.
os.environ.setdefault("LP_NUM_THREADS", "1")

import sapien
import torch

from dopamine_rl.errors import RenderingUnavailable

NO_VULKAN = "no usable Vulkan driver; run: bash scripts/ensure_vulkan.sh <python of this environment>"

RenderBackend = Literal["cpu", "gpu", "none"]


@functools.cache
def render_backend() -> RenderBackend:
    """ManiSkill's name of the device that can render here: the CPU where it has a driver, else an NVIDIA GPU.

    Raises:
        RenderingUnavailable: neither has one.
    """
    devices: tuple[tuple[RenderBackend, str], ...] = (("cpu", "cpu"), ("gpu", "cuda"))
    for backend, device in devices:
        try:
            sapien.render.RenderSystem(sapien.Device(device))
        except RuntimeError:  # no such device, or no driver for it
            continue
        return backend
    raise RenderingUnavailable(NO_VULKAN)


@contextmanager
def vulkan_needed() -> Iterator[None]:
    """Turn the simulator's complaint about a missing Vulkan driver into RenderingUnavailable."""
    try:
        yield
    except RuntimeError as error:
        if any(word in str(error).lower() for word in ("vk", "vulkan", "rendering device")):
            raise RenderingUnavailable(NO_VULKAN) from error
        raise


def capture(scene: Any, cameras: Sequence[str]) -> torch.Tensor:
    """Render some cameras of a ManiSkillScene, and no others.

    Args:
        cameras: names of sensors, in the order of the V axis.
    Returns:
        uint8 [N, V, H, W, 3], of all N environments, on the device that rendered.
    """
    scene.update_render(update_sensors=True, update_human_render_cameras=False)
    sensors = [scene.sensors[name] for name in cameras]
    for sensor in sensors:
        sensor.capture()
    return torch.stack([sensor.camera.get_picture(["Color"])[0][..., :3] for sensor in sensors], 1)


def hide_wrist_camera(robot: Any) -> None:
    """Hide the mesh of a Panda's wrist camera: three quarters of the scene's triangles, and in nobody's view."""
    if "camera_link" not in robot.links_map:
        return
    for link in robot.links_map["camera_link"]._objs:
        for component in link.entity.components:
            if isinstance(component, sapien.render.RenderBodyComponent):
                component.visibility = 0.0
