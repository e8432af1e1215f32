"""Any task of ManiSkill, by its id, as an environment of its own simulator's state or of pictures.

    env = make("LiftPegUpright-v1")                                                # state; a picture every 4 steps
    env = make("PushCube-v1", observation="pictures", cameras=("front", "wrist"))  # pictures and proprioception
    env = make("PokeCube-v1", cameras=())                                          # state; nothing is rendered

Importing this file imports neither torch nor the simulator; building an environment does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.any_config import ManiSkillConfig, read_config
from actors.maniskill import Observation
from dopamine_rl.encoders.eyes import PROPRIOCEPTION
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Views

if TYPE_CHECKING:
    from actors.any_scene import AnyScene


def make(task: str, **settings: Any) -> AnyManiSkill:
    """Build an environment of any ManiSkill task on the CPU.

    Args:
        task: ManiSkill's id.
        settings: of ManiSkillConfig, also as JSON or TOML has them: lists, and a pose of a camera as a table of `eye`,
            `target` and `field_of_view_rad`.
    Raises:
        BadInput: a setting is unknown or out of range; there is no such task, robot, control mode or camera; the task
            lacks a success, a dense reward, or files that ManiSkill downloads.
        RenderingUnavailable: there is no usable Vulkan driver.
    """
    return AnyManiSkill(read_config(task, **settings))


class AnyManiSkill(gymnasium.Env[Any, NDArray[np.float32]]):
    """One simulated robot with a task of ManiSkill.

    Action: float32 [A] in [−1, 1], the control mode's own entries, each mapped onto its range; where ManiSkill's are in
    [−1, 1] too, they are the same.
    Observation: float32 [D], ManiSkill's flattened state; or a Dict of the cameras' pictures, uint8 [H, W, 3], and
    `proprioception`, float32 [D]: of each robot joint positions, joint velocities (rad or metres, and per second) and,
    where it has a tool, the tool's position (metres) and rotation (quaternion w, x, y, z) in the frame of its base.
    Reward and termination: see ManiSkillConfig. The horizon truncates; nothing resets by itself.

    infos hold `success` (bool); with cameras `scored_views` (uint8 [V, H, W, 3]) at reset, every `stride` steps and at
    the episode's last step; and `dense_reward` (float) after a step, where the config asks for it. Marks of goals
    that ManiSkill hides in pictures are shown: a picture must tell what is to be done.

    Raises:
        BadInput, RenderingUnavailable: as `make` does.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  (gymnasium's)
    render_mode = "rgb_array"

    def __init__(self, config: ManiSkillConfig) -> None:
        from actors.any_scene import build_scene  # imports torch and SAPIEN

        self.config, self.environment_step = config, 0
        self.scene: AnyScene = build_scene(config)
        self.horizon: int = config.horizon or self.scene.own_horizon
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.scene.actions.size,), np.float32)
        self.observation_space = observation_space(config, self.scene.observed_numbers)
        self._stride, self._scores, self._horizon = config.stride, config.sees, self.horizon

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; the same seed gives the same start.

        Args:
            options: of this episode alone: {"pictures": False} scores no frame, for evaluations that only count;
                {"stride": K} scores every K-th step; {"horizon": T} truncates after T steps, if the own horizon is
                longer.
        """
        super().reset(seed=seed)
        options = options or {}
        self._stride = options.get("stride", self.config.stride)
        self._horizon = min(self.horizon, options.get("horizon", self.horizon))
        self._scores = self.config.sees and options.get("pictures", True)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        state, _ = self.scene.reset(seed=seed)
        self.environment_step = 0
        return self._seen(state, {"success": False}, scored=True)

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Act for one control period of the task, 50 ms in most."""
        given = np.asarray(action, np.float32)
        if given.shape != self.action_space.shape:
            raise BadInput("action", given.shape, f"give an action of shape {self.action_space.shape}")
        state, dense, terminated, _, verdict = self.scene.step(self.scene.actions.to_simulator(given[None]))
        self.environment_step += 1
        success, ended = bool(verdict["success"][0]), self.config.terminates and bool(terminated[0])
        truncated = not ended and self.environment_step >= self._horizon
        infos: dict[str, Any] = {"success": success}
        if self.config.dense:
            infos["dense_reward"] = float(dense[0])
        scored = ended or truncated or self.environment_step % self._stride == 0
        observation, infos = self._seen(state, infos, scored)
        reward = infos["dense_reward"] if self.config.reward == "dense" else float(success)
        return observation, reward, ended, truncated, infos

    def observe(self) -> Observation:
        """The observation of the scene as it is now."""
        return self._seen(self.scene.get_obs(), {}, scored=False)[0]

    def render_views(self) -> Views:
        """Render all views now, scored or not: uint8 [V, H, W, 3]. Raises BadInput where nothing can be rendered."""
        if not self.config.sees:
            raise BadInput("cameras", self.config.cameras, "name the cameras to render")
        pictures: Views = self.scene.pictures()[0].cpu().numpy()
        return pictures

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """The first view: uint8 [H, W, 3]."""
        picture: NDArray[np.uint8] = self.render_views()[0]
        return picture

    def close(self) -> None:
        """Release the scene's memory."""
        self.scene.close()

    def _seen(self, state: Any, infos: dict[str, Any], scored: bool) -> tuple[Observation, dict[str, Any]]:
        """Observation and infos of a moment, whose pictures are rendered at most once."""
        scored, observed = scored and self._scores, self.config.observation == "pictures"
        views = self.render_views() if scored or observed else None
        if scored:
            infos["scored_views"] = views
        if not observed:
            return state[0].cpu().numpy().astype(np.float32), infos
        assert views is not None
        joints = self.scene.proprioception()[0].cpu().numpy()
        return {PROPRIOCEPTION: joints, **dict(zip(self.config.cameras, views, strict=True))}, infos


def observation_space(config: ManiSkillConfig, numbers: int) -> gymnasium.Space[Any]:
    """The space of an environment's observations.

    Args:
        numbers: length of the state, or of the proprioception.
    """
    vector = gymnasium.spaces.Box(-np.inf, np.inf, (numbers,), np.float32)
    if config.observation == "state":
        return vector
    picture = gymnasium.spaces.Box(0, 255, (config.image_size, config.image_size, 3), np.uint8)
    return gymnasium.spaces.Dict({PROPRIOCEPTION: vector, **dict.fromkeys(config.cameras, picture)})
