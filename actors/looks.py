"""Visual variations of a scene: light, textures, cameras and distractors, without any effect on the simulated bodies.

A look is drawn from the episode's seed and touches what is rendered, never a body, a contact or a draw of the
simulator: the same seed gives the same episode in every look. Importing this file imports SAPIEN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import sapien
from mani_skill.utils import sapien_utils
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    from actors.scene import TabletopScene

TABLE, GROUND = "table-workspace", "ground"
"""ManiSkill's names of what every task stands on; its other actors are the task's objects."""
TEXELS = 64


class Appearance:
    """The scene as it is built. Made after every rebuild; subclasses draw an episode's look in `change`.

    Args:
        scene: built, with at least one camera.
    """

    def __init__(self, scene: TabletopScene) -> None:
        self.scene = scene

    def change(self, rng: np.random.Generator) -> None:
        """Show an episode's look, whatever was shown before."""

    @property
    def _renderer(self) -> Any:
        return self.scene.scene.sub_scenes[0]

    @property
    def _objects(self) -> list[Any]:
        """The task's objects, as ManiSkill's actors."""
        return [actor for name, actor in self.scene.scene.actors.items() if name not in (TABLE, GROUND)]


class Light(Appearance):
    """Other lamps: how bright, from where, of which colour."""

    def change(self, rng: np.random.Generator) -> None:
        """Draw ambient light and both lamps."""
        system = self._renderer.render_system
        system.ambient_light = rng.uniform(0.1, 0.5) * rng.uniform(0.8, 1.2, 3)
        for lamp in system.lights:
            lamp.color = rng.uniform(0.3, 1.8) * rng.uniform(0.7, 1.3, 3)
            azimuth, elevation = rng.uniform(-np.pi, np.pi), rng.uniform(0.4, np.pi / 2)
            # A lamp shines along its x axis: turned down by the elevation, then about the vertical.
            x, y, z, w = Rotation.from_euler("YZ", [elevation, azimuth]).as_quat()
            lamp.entity.pose = sapien.Pose([0.0, 0.0, 0.0], [w, x, y, z])


class Texture(Appearance):
    """Another table top, and task objects of slightly other colours: red stays red, since instructions name colours."""

    def __init__(self, scene: TabletopScene) -> None:
        super().__init__(scene)
        bodies = [_body(actor) for actor in self._objects]
        materials = [material for body in bodies for shape in body.render_shapes for material in _materials(shape)]
        self._colours = [(material, np.array(material.base_color)) for material in materials]
        self._table = _materials(_body(scene.scene.actors[TABLE]).render_shapes[0])[0]

    def change(self, rng: np.random.Generator) -> None:
        """Draw the table's pattern in two colours, and each object's tint."""
        texels = np.full((TEXELS, TEXELS, 4), 255, np.uint8)
        texels[..., :3] = _pattern(rng)
        self._table.base_color_texture = sapien.render.RenderTexture2D(texels, "R8G8B8A8Unorm", srgb=True)
        for material, colour in self._colours:
            tint = rng.uniform(0.8, 1.2, 3)
            material.base_color = [*np.clip(colour[:3] * tint, 0.0, 1.0), colour[3]]


class Cameras(Appearance):
    """Displaces the fixed cameras: by at most 3 cm, 3 degrees and 5 % of the field of view. The wrist camera stays."""

    def change(self, rng: np.random.Generator) -> None:
        """Draw the pose of every fixed camera, rendered or not, so that one does not depend on the others' choice."""
        for name, camera in self.scene.cameras.items():
            shift_m, turn_rad, zoom = rng.uniform(-0.03, 0.03, 3), rng.uniform(-0.05, 0.05, 3), rng.uniform(0.95, 1.05)
            if name not in self.scene.views:
                continue
            at = sapien_utils.look_at(camera.eye, camera.target).sp
            x, y, z, w = Rotation.from_rotvec(turn_rad).as_quat()
            sensor = self.scene.scene.sensors[name].camera
            sensor.set_local_pose(sapien.Pose(at.p + shift_m, (at * sapien.Pose(q=[w, x, y, z])).q))
            sensor.set_fovy(camera.field_of_view_rad * zoom, True)


class Distractors(Appearance):
    """Adds objects unrelated to the task. They are rendered only, and cannot be touched."""

    COUNT = (4, 8)
    CLEAR_M = 0.08
    """Their distance from the rectangle around robot and task objects."""
    TABLE_M = ((-0.4, 0.2), (-0.45, 0.5))
    """The visible part of the table, along x and y."""

    def __init__(self, scene: TabletopScene) -> None:
        super().__init__(scene)
        self._strewn: list[sapien.Entity] = []

    def change(self, rng: np.random.Generator) -> None:
        """Replace the last episode's distractors by new ones."""
        for thing in self._strewn:
            self._renderer.remove_entity(thing)
        low, high = self._occupied()
        self._strewn = [self._strew(rng, low, high) for _ in range(rng.integers(*self.COUNT))]

    def _strew(self, rng: np.random.Generator, low: NDArray[np.float64], high: NDArray[np.float64]) -> sapien.Entity:
        material = sapien.render.RenderMaterial()
        material.base_color = [*rng.uniform(0.05, 1.0, 3), 1.0]
        size = rng.uniform(0.015, 0.045, 3)
        shapes = (
            sapien.render.RenderShapeBox(size, material),
            sapien.render.RenderShapeSphere(size[2], material),
            sapien.render.RenderShapeCapsule(size[2], size[0], material),
        )
        place = low
        while np.all((place >= low) & (place <= high)):
            place = np.array([rng.uniform(*side) for side in self.TABLE_M])
        angle = rng.uniform(0.0, np.pi)
        body = sapien.render.RenderBodyComponent()
        body.attach(shapes[rng.integers(len(shapes))])
        thing = sapien.Entity()
        thing.add_component(body)
        thing.set_pose(sapien.Pose([*place, size[2]], [np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)]))
        self._renderer.add_entity(thing)
        return thing

    def _occupied(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Corners of the rectangle that is left free, metres [2] each."""
        agent = self.scene.agent
        positions = np.array([body.pose.p[0, :2].tolist() for body in (*self._objects, agent.tcp, agent.robot)])
        return positions.min(axis=0) - self.CLEAR_M, positions.max(axis=0) + self.CLEAR_M


APPEARANCES: dict[str, type[Appearance]] = {
    "plain": Appearance,
    "light": Light,
    "texture": Texture,
    "camera": Cameras,
    "distractors": Distractors,
}
"""By the name of `EnvConfig.look`."""


def _body(actor: Any) -> Any:
    """What is rendered of one of ManiSkill's actors."""
    return actor._objs[0].find_component_by_type(sapien.render.RenderBodyComponent)


def _materials(shape: Any) -> list[Any]:
    """The materials of a shape: a mesh has one a part."""
    return [part.material for part in shape.parts] if hasattr(shape, "parts") else [shape.material]


def _pattern(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A table top of two colours, uint8 [TEXELS, TEXELS, 3]: one alone, stripes, checks or speckles."""
    first, second = rng.uniform(20, 235, (2, 3))
    kind, width = rng.integers(4), int(rng.integers(4, 17))
    rows, columns = np.indices((TEXELS, TEXELS)) // width
    speckles = rng.random((TEXELS, TEXELS))
    share = (0 * speckles, columns % 2, (rows + columns) % 2, speckles)[kind][..., None]
    return (first + share * (second - first)).astype(np.uint8)
