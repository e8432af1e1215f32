"""Any of ManiSkill's tasks with the cameras that a config names, for one environment on the CPU or many on a GPU.

Importing this file imports torch and SAPIEN; `actors.any_maniskill` does so when an environment is built, not before.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mani_skill.envs  # noqa: F401  (registers the tasks)
import numpy as np
import torch
from mani_skill import format_path, logger
from mani_skill.agents.multi_agent import MultiAgent
from mani_skill.agents.registration import REGISTERED_AGENTS
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.sensors.camera import CameraConfig, parse_camera_configs
from mani_skill.utils import assets, sapien_utils
from mani_skill.utils.registration import REGISTERED_ENVS, EnvSpec
from numpy.typing import NDArray

from actors.any_config import ManiSkillConfig
from actors.rendering import NO_VULKAN, capture, hide_wrist_camera, render_backend, vulkan_needed
from dopamine_rl.episodes.maniskill import EnvStates
from dopamine_rl.errors import BadInput, RenderingUnavailable
from dopamine_rl.spelling import one_of

# Most of what it warns of is about its own tasks, at every reset.
logger.setLevel(logging.ERROR)

PREFERRED_CONTROL_MODE = "pd_ee_delta_pose"
USUAL_HORIZON = 100
"""Environment steps of an episode of a task for which ManiSkill names none."""
WRIST = "_wristcam"
"""Ending of ManiSkill's names of robots with a wrist camera."""


class AnyScene(BaseEnv):
    """Put before one of ManiSkill's tasks among a class's bases: that task with the cameras of a config.

    Args:
        config: the task, its robot and cameras.
        own_horizon: ManiSkill's, environment steps.
        num_envs: how many environments are simulated together; more than one needs a GPU.
        sim_backend, render_backend: ManiSkill's.
    """

    def __init__(
        self, config: ManiSkillConfig, own_horizon: int, num_envs: int, sim_backend: str, render_backend: str
    ) -> None:
        self.config, self.own_horizon = config, own_horizon
        self.cameras: tuple[str, ...] = ()
        robot = {} if config.robot is None else {"robot_uids": config.robot}
        unpaid = "none" if "none" in self.SUPPORTED_REWARD_MODES else "sparse"
        with vulkan_needed():
            super().__init__(
                num_envs=num_envs,
                obs_mode="none" if config.observation == "pictures" and not config.dense else "state",
                reward_mode="normalized_dense" if config.dense else unpaid,
                sim_backend=sim_backend,
                render_backend=render_backend,
                sensor_configs={"width": config.image_size, "height": config.image_size},
                reconfiguration_freq=_rebuilding(config, num_envs),
                **robot,
            )
        if config.sees and not self.scene.can_render():
            raise RenderingUnavailable(NO_VULKAN)
        if "success" not in self.get_info():
            raise BadInput("task", config.task, "choose a task with a success: ManiSkill defines none for this one")
        self.actions = Actions(self.agents, config.action_scale, isinstance(self.agent, MultiAgent), self.device)
        pictures = config.observation == "pictures"
        self.observed_numbers: int = (self.proprioception() if pictures else self.get_obs()).shape[-1]

    @property
    def agents(self) -> list[Any]:
        """The robots."""
        return list(self.agent.agents) if isinstance(self.agent, MultiAgent) else [self.agent]

    def _load_agent(self, options: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        for name in (self.robot_uids,) if isinstance(self.robot_uids, str) else self.robot_uids or ():
            if isinstance(name, str) and not _has_files(name):
                fix = f"download its robot: python -m mani_skill.utils.download_asset {name}"
                raise BadInput("task", self.config.task, fix)
        super()._load_agent(options, *args, **kwargs)
        for agent in self.agents:
            modes = agent.supported_control_modes
            wanted = self.config.control_mode
            if wanted is not None and wanted not in modes:
                raise BadInput("control_mode", wanted, one_of(wanted, modes))
            agent.set_control_mode(wanted or (PREFERRED_CONTROL_MODE if PREFERRED_CONTROL_MODE in modes else modes[0]))

    @property
    def _default_sensor_configs(self) -> list[CameraConfig]:
        own = parse_camera_configs(super()._default_sensor_configs)
        configs, size = [], self.config.image_size
        for name in self.config.cameras:
            if name in self.config.poses:
                camera = self.config.poses[name]
                pose = sapien_utils.look_at(camera.eye, camera.target)
                configs.append(CameraConfig(name, pose, size, size, camera.field_of_view_rad, 0.01, 100.0))
            elif name in own:
                configs.append(own[name])
            elif name == "front" and own:
                configs.append(replace(next(iter(own.values())), uid=name))
        self._own_cameras = list(own)
        return configs

    @property
    def _default_human_render_camera_configs(self) -> list[CameraConfig]:
        return []

    def _after_reconfigure(self, options: dict[str, Any]) -> None:
        super()._after_reconfigure(options)
        for agent in self.agents:
            hide_wrist_camera(agent.robot)
        if not self.config.sees or not self.scene.can_render():
            return
        mounted = list(self._agent_sensor_configs)
        names = {name: name for name in self.scene.sensors}
        if mounted:
            names.setdefault("wrist", mounted[0])
        for name in self.config.cameras:
            if name not in names:
                have = ", ".join(dict.fromkeys([*names, *self._own_cameras])) or "none"
                raise BadInput("cameras", name, f"give its pose in poses, or name one that there is: {have}")
        self.cameras = tuple(names[name] for name in self.config.cameras)

    def pictures(self) -> torch.Tensor:
        """Render the cameras now: uint8 [N, V, H, W, 3], on the device that rendered."""
        return capture(self.scene, self.cameras)

    def restore(self, states: EnvStates) -> None:
        """Put every body into a recorded state: kind -> name -> float32 [...]. Contacts stay as they are.

        Raises:
            BadInput: a body that this scene does not have.
        """
        registry = self.scene.state_dict_registry
        bodies = {"actors": registry.actors, "articulations": registry.articulations}
        # The same robot with a wrist camera has another name.
        own = {agent.robot.name.replace(WRIST, ""): agent.robot.name for agent in self.agents}
        state: dict[str, dict[str, torch.Tensor]] = {}
        for kind, values in states.items():
            state[kind] = {}
            for recorded, value in values.items():
                name = recorded if recorded in bodies[kind] else own.get(recorded, recorded)
                if name not in bodies[kind]:
                    known = ", ".join(bodies[kind])
                    raise BadInput(f"env_states/{kind}/{recorded}", recorded, f"give a trajectory with {known} alone")
                state[kind][name] = torch.as_tensor(value)[None]
        self.set_state_dict(state)

    def proprioception(self) -> torch.Tensor:
        """What the robots' joints tell: float32 [N, D], as AnyManiSkill has it."""
        parts = []
        for agent in self.agents:
            parts += [agent.robot.get_qpos(), agent.robot.get_qvel()]
            tool = getattr(agent, "tcp", None)
            if tool is not None and hasattr(tool, "pose"):
                parts.append((agent.robot.pose.inv() * tool.pose).raw_pose)
        return torch.cat(parts, -1).float()


class Actions:
    """The actions of some robots as one vector in [−1, 1].

    Args:
        agents: ManiSkill's, each with its control mode.
        scale: share of their range that controllers of differences and velocities get.
        named: ManiSkill takes a dictionary, by the robots' names and places.
        device: of the simulator.
    Raises:
        BadInput: an action has no range.
    """

    def __init__(self, agents: Sequence[Any], scale: float, named: bool, device: torch.device) -> None:
        spaces = [agent.single_action_space for agent in agents]
        low = np.concatenate([space.low for space in spaces]).astype(np.float32)
        high = np.concatenate([space.high for space in spaces]).astype(np.float32)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            modes = sorted({mode for agent in agents for mode in agent.supported_control_modes})
            raise BadInput("control_mode", agents[0].control_mode, f"choose one with limits among {', '.join(modes)}")
        moves = np.concatenate(
            [_moves(agent.controller, space.shape[0]) for agent, space in zip(agents, spaces, strict=True)]
        )
        half = (high - low) / 2 * np.where(moves, scale, 1.0)
        self._middle = torch.as_tensor((high + low) / 2, device=device)
        self._half = torch.as_tensor(half, dtype=torch.float32, device=device)
        self._sizes = [space.shape[0] for space in spaces]
        self._names = [f"{agent.uid}-{place}" for place, agent in enumerate(agents)] if named else None
        self.size = len(low)

    def to_simulator(self, actions: NDArray[np.float32] | torch.Tensor) -> Any:
        """What ManiSkill takes for actions [N, A] in [−1, 1]; those beyond are clipped."""
        given = torch.as_tensor(actions, dtype=torch.float32, device=self._half.device).clamp(-1.0, 1.0)
        scaled = self._middle + self._half * given
        if self._names is None:
            return scaled
        return dict(zip(self._names, scaled.split(self._sizes, -1), strict=True))

    def from_simulator(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """The actions [N, A] in [−1, 1] that give ManiSkill's; a range without width gives 0."""
        middle, half = self._middle.cpu().numpy(), self._half.cpu().numpy()
        scaled = np.divide(actions - middle, half, out=np.zeros_like(actions, np.float32), where=half > 0)
        return np.clip(scaled, -1.0, 1.0).astype(np.float32)


def _moves(controller: Any, size: int) -> NDArray[np.bool_]:
    """Which entries of a robot's action are differences or velocities, bool [A]."""
    moves = np.zeros(size, bool)
    for name, part in getattr(controller, "controllers", {"": controller}).items():
        start, end = getattr(controller, "action_mapping", {}).get(name, (0, size))
        velocity = "vel" in type(part).__name__.lower() and "pos" not in type(part).__name__.lower()
        moves[start:end] = getattr(part.config, "use_delta", False) or velocity
    return moves


def build_scene(config: ManiSkillConfig, num_envs: int = 1, sim_backend: str = "physx_cpu") -> AnyScene:
    """ManiSkill's scene of a config.

    Raises:
        BadInput, RenderingUnavailable: as `actors.any_maniskill.make` does.
    """
    spec = find_task(config.task)
    if config.dense and spec.cls.compute_normalized_dense_reward is BaseEnv.compute_normalized_dense_reward:
        field = "reward" if config.reward == "dense" else "report_dense"
        raise BadInput(field, getattr(config, field), f"leave it out: ManiSkill has no dense reward for {config.task}")
    scene = type(spec.cls.__name__, (AnyScene, spec.cls), {})
    config = replace(config, robot=_robot(config, spec))
    horizon = spec.max_episode_steps or USUAL_HORIZON
    built: AnyScene
    if not config.sees:
        try:
            built = scene(config, horizon, num_envs, sim_backend, "none")
        except AttributeError:  # some tasks, such as PushT-v1, look at their bodies' shapes and colours
            built = scene(config, horizon, num_envs, sim_backend, render_backend())
    else:
        built = scene(config, horizon, num_envs, sim_backend, render_backend())
    return built


def _rebuilding(config: ManiSkillConfig, num_envs: int) -> int | None:
    """ManiSkill's reconfiguration_freq; None: the task's own. Of many environments some are reset without others."""
    if num_envs > 1:
        return 0
    return 1 if config.rebuild else None


def _has_files(robot: str) -> bool:
    """Whether a robot's description is here; ManiSkill asks on the terminal where it is not."""
    agent = REGISTERED_AGENTS[robot].agent_cls
    path = agent.urdf_path or agent.mjcf_path
    return path is None or os.path.exists(format_path(str(path)))


def find_task(task: str) -> EnvSpec:
    """ManiSkill's entry of an id. Raises BadInput: there is none, or files are missing that ManiSkill downloads."""
    if task not in REGISTERED_ENVS:
        raise BadInput("task", task, one_of(task, sorted(REGISTERED_ENVS)))
    spec = REGISTERED_ENVS[task]
    for name in spec.asset_download_ids or ():
        sources = (
            assets.expand_data_group_into_individual_data_source_ids(name) if name in assets.DATA_GROUPS else [name]
        )
        if not all(map(assets.is_data_source_downloaded, sources)):
            raise BadInput("task", task, f"download its files: python -m mani_skill.utils.download_asset {name}")
    return spec


def _robot(config: ManiSkillConfig, spec: EnvSpec) -> str | None:
    """The robot to name to ManiSkill; None: the task's own. Raises BadInput if there is no such robot."""
    parameter = inspect.signature(spec.cls.__init__).parameters.get("robot_uids")
    own = None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default
    if config.robot is None:
        seeing = f"{own}{WRIST}"
        return seeing if "wrist" in config.cameras and config.sees and seeing in REGISTERED_AGENTS else None
    supported = [name for name in spec.cls.SUPPORTED_ROBOTS or REGISTERED_AGENTS if isinstance(name, str)]
    usable = [*supported, *(name + WRIST for name in supported if name + WRIST in REGISTERED_AGENTS)]
    if config.robot not in usable:
        raise BadInput("robot", config.robot, one_of(config.robot, list(dict.fromkeys(usable))))
    return config.robot
