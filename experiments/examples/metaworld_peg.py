"""Meta-World's peg insertion as an environment of your own, and its scripted policy as the expert.

    pip install metaworld && export MUJOCO_GL=osmesa           # on a machine without a GPU, with libosmesa6
    dopamine env check experiments.examples.metaworld_peg:make
    dopamine train --preset own --env.make experiments.examples.metaworld_peg:make \\
        --demonstrations.expert experiments.examples.metaworld_peg:Scripted …        # docs/your_environment.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box, Dict
from metaworld import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
from metaworld.policies import SawyerPegInsertionSideV3Policy
from numpy.typing import NDArray

CAMERAS = {"front": "corner2", "top": "topview", "wrist": "gripperPOV"}
HAND, PEG_HEIGHT = slice(0, 4), 6
"""Of the 39 numbers: position and opening of the hand; height of the peg, metres."""
LIFTED_M = 0.08
"""Height from which the peg is lifted."""


class MetaWorldPeg(gymnasium.Env[Any, NDArray[np.float32]]):
    """A Sawyer arm puts a peg into the side of a box. Every seed draws peg and box anew.

    Reward 1 at success, which ends the episode; the horizon is the training's. With `observe="state"` the observation
    is Meta-World's, with hand, peg and hole; with "pictures" it is a Dict of the hand alone and the views.

    Args:
        observe: "state" or "pictures".
        views: some of CAMERAS.
        size: height and width of a picture.
    """

    def __init__(self, observe: str = "state", views: Sequence[str] = ("front", "wrist"), size: int = 112) -> None:
        self.sawyer = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE["peg-insert-side-v3-goal-observable"]()
        self.sawyer._freeze_rand_vec, self.sawyer.seeded_rand_vec = False, True
        self.state, self._views, self._size = np.zeros(39), tuple(views), size
        self._renderer: mujoco.Renderer | None = None
        self._hints, self._time, self._dict = dict[str, Any](), 0, observe == "pictures"
        self.action_space = Box(-1.0, 1.0, (4,), np.float32)
        picture = Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = Box(-np.inf, np.inf, (39,), np.float32)
        if self._dict:
            hand: gymnasium.Space[Any] = Box(-np.inf, np.inf, (4,), np.float32)
            self.observation_space = Dict({"proprioception": hand, **dict.fromkeys(self._views, picture)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw peg and box, and begin."""
        super().reset(seed=seed)
        self._hints, self._time = options or {}, 0
        self.sawyer.seed(int(self.np_random.integers(2**31)))
        self.state, _ = self.sawyer.reset()
        return self._observe(), self._info(False)

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act for one control period (50 ms)."""
        self.sawyer.curr_path_length = 0  # its own limit of time would raise
        self.state, _, _, _, info = self.sawyer.step(action)
        self._time += 1
        success = bool(info["success"])
        return self._observe(), float(success), success, False, self._info(success)

    def close(self) -> None:
        """Release the renderer."""
        if self._renderer is not None:
            self._renderer.close()
        self.sawyer.close()

    def _observe(self) -> Any:
        numbers = self.state.astype(np.float32)
        if not self._dict:
            return numbers
        blank = np.zeros((self._size, self._size, 3), np.uint8)
        views = self._render() if self._hints.get("pictures", True) else [blank] * len(self._views)
        return {"proprioception": numbers[HAND], **dict(zip(self._views, views, strict=True))}

    def _info(self, success: bool) -> dict[str, Any]:
        last = success or self._time == self._hints.get("horizon")
        due = self._hints.get("pictures", True) and (last or self._time % self._hints.get("stride", 1) == 0)
        return {"success": success} | ({"scored_views": np.stack(self._render())} if due and not self._dict else {})

    def _render(self) -> list[NDArray[np.uint8]]:
        model = self.sawyer.model
        if self._renderer is None:  # shadows and smooth edges cost most without a GPU
            model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
            self._renderer = mujoco.Renderer(model, self._size, self._size)
        pictures = []
        for view in self._views:
            self._renderer.update_scene(self.sawyer.data, CAMERAS[view])
            pixels = self._renderer.render()
            pictures.append((pixels[::-1, ::-1] if view == "front" else pixels).copy())  # that camera hangs head down
        return pictures


make = MetaWorldPeg


class Scripted:
    """Meta-World's own policy as an Expert: it lifts the peg, then inserts it."""

    stages: ClassVar[tuple[str, ...]] = ("grasp", "insert")

    def reset(self, env: gymnasium.Env[Any, Any], rng: np.random.Generator) -> None:
        """Begin an episode."""
        self.stage, self._policy = 0, SawyerPegInsertionSideV3Policy()

    def act(self, env: gymnasium.Env[Any, Any]) -> NDArray[np.float32]:
        """What the policy does, within its bounds."""
        state = env.unwrapped.state  # type: ignore[attr-defined]
        self.stage = max(self.stage, int(state[PEG_HEIGHT] > LIFTED_M))
        return np.clip(self._policy.get_action(state), -1.0, 1.0).astype(np.float32)
