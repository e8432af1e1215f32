"""ManiSkill's batched simulation as a vector of environments with numpy values: hundreds of robots in one process.

    envs = make_batched("PushCube-v1", num_envs=256, cameras=("front", "wrist"))   # needs an NVIDIA GPU
    envs = VectorProgressReward(envs, client, reference, gamma=0.99)

Observations, rewards and pictures stay on the simulator's device; what is read of them is copied once a step for all.
"""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from actors.any_config import ManiSkillConfig, read_config
from actors.any_maniskill import observation_space
from dopamine_rl.encoders.eyes import PROPRIOCEPTION
from dopamine_rl.errors import BadInput

MODES = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)


class ActionMap(Protocol):
    """Actions in [−1, 1] in the simulator's units (actors.any_scene.Actions)."""

    size: int

    def to_simulator(self, actions: NDArray[np.float32] | torch.Tensor) -> Any:
        """The simulator's actions for [N, A]."""


class BatchedSimulator(Protocol):
    """N environments that are simulated together: actors.any_scene.AnyScene, with tensors on its device."""

    num_envs: int
    own_horizon: int
    observed_numbers: int
    device: torch.device

    @property
    def actions(self) -> ActionMap:
        """What actions mean."""

    def reset(self, seed: int | list[int] | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin episodes, in those environments alone that options["env_idx"] (int [n]) lists: (state [N, D], info)."""

    def step(self, action: Any) -> Any:
        """One control period of all: state [N, D], dense reward [N], terminated [N], truncated [N], info; `success`
        bool [N] in the info."""

    def proprioception(self) -> torch.Tensor:
        """float32 [N, D]."""

    def pictures(self) -> torch.Tensor:
        """uint8 [N, V, H, W, 3]."""

    def close(self) -> None:
        """Free its memory."""


def make_batched(
    task: str,
    num_envs: int,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    sim_backend: str = "physx_cuda",
    **settings: Any,
) -> BatchedManiSkill:
    """Build N environments of any ManiSkill task on a GPU.

    Args:
        task, settings: as for actors.any_maniskill.make; `rebuild` is without effect, as some are reset without others.
        num_envs: how many; on the CPU, with sim_backend physx_cpu, ManiSkill has one.
        autoreset_mode: of the VectorEnv; RLlib needs NEXT_STEP.
    Raises:
        BadInput, RenderingUnavailable: as `make` does; there is no GPU.
    """
    config = read_config(task, **settings)
    if num_envs < 1:
        raise BadInput("num_envs", num_envs, "give at least 1")
    if sim_backend == "physx_cpu" and num_envs > 1:
        raise BadInput("num_envs", num_envs, "give 1: ManiSkill simulates one environment a process on the CPU")
    if sim_backend != "physx_cpu" and not torch.cuda.is_available():
        raise BadInput("sim_backend", sim_backend, "run this where torch finds an NVIDIA GPU, or write physx_cpu")
    from actors.any_scene import build_scene

    return BatchedManiSkill(config, build_scene(config, num_envs, sim_backend), autoreset_mode)


class BatchedManiSkill(VectorEnv[Any, Any, Any]):
    """N robots with a task of ManiSkill; spaces, rewards and ends of each are those of AnyManiSkill.

    infos hold `success` (bool [N]); where a frame is due in some environments `scored_views` (uint8 [N, V, H, W, 3],
    zeros elsewhere) with the mask `_scored_views`; and `dense_reward` (float32 [N]), where the config asks for it. With
    SAME_STEP what belongs to an ended episode is in `final_obs` and `final_info`, as gymnasium has it.

    Rendering is for all environments at once, so a step renders if a frame is due in any, and copies those due alone.

    Args:
        config: the task.
        simulator: closed with this.
        autoreset_mode: NEXT_STEP or SAME_STEP.
    Raises:
        BadInput: another mode.
    """

    def __init__(
        self,
        config: ManiSkillConfig,
        simulator: BatchedSimulator,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        self.config, self.simulator, self.num_envs = config, simulator, simulator.num_envs
        mode = AutoresetMode(autoreset_mode)
        if mode not in MODES:
            raise BadInput("autoreset_mode", mode.value, f"give one of {', '.join(one.value for one in MODES)}")
        self.horizon = config.horizon or simulator.own_horizon
        self.metadata = {"autoreset_mode": mode}
        self.autoreset_mode = mode
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (simulator.actions.size,), np.float32)
        self.single_observation_space = observation_space(config, simulator.observed_numbers)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._steps, self._ended = np.zeros(self.num_envs, np.int64), np.zeros(self.num_envs, bool)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every environment.

        Args:
            seed: of each, or of the first, which the others follow.
        """
        state, _ = self.simulator.reset(seed=seed)
        self._steps[:], self._ended[:] = 0, False
        everywhere = np.ones(self.num_envs, bool)
        observation, views = self._read(state, everywhere)
        return observation, self._infos({"success": np.zeros(self.num_envs, bool)}, views, everywhere)

    def step(self, actions: NDArray[np.float32]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Act in all environments, but for those that NEXT_STEP resets."""
        fresh = self._ended.copy()  # all False with SAME_STEP
        state, dense, terminated, _, verdict = self.simulator.step(self.simulator.actions.to_simulator(actions))
        self._steps += 1
        success = _numpy(verdict["success"]).astype(bool) & ~fresh
        ended = _numpy(terminated).astype(bool) & ~fresh & self.config.terminates
        truncated = ~ended & ~fresh & (self._steps >= self.horizon)
        infos: dict[str, Any] = {"success": success}
        if self.config.dense:
            infos["dense_reward"] = np.where(fresh, 0.0, _numpy(dense)).astype(np.float32)
        rewards = infos["dense_reward"] if self.config.reward == "dense" else success.astype(np.float32)
        if fresh.any():
            state = self._begin(fresh)
        done = ended | truncated
        due = fresh | done | (self._steps % self.config.stride == 0)
        observation, views = self._read(state, due)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and done.any():
            observation, infos = self._begin_at_once(done, due, observation, views, infos)
        else:
            infos = self._infos(infos, views, due)
            self._ended = done
        return observation, rewards.astype(np.float64), ended, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Release the simulator's memory."""
        self.simulator.close()

    def _begin(self, fresh: NDArray[np.bool_]) -> torch.Tensor:
        """Begin episodes in some environments; returns the state of all."""
        indices = torch.as_tensor(np.flatnonzero(fresh), device=self.simulator.device)
        self._steps[fresh] = 0
        state: torch.Tensor = self.simulator.reset(options={"env_idx": indices})[0]
        return state

    def _begin_at_once(
        self, done: NDArray[np.bool_], due: NDArray[np.bool_], last: Any, views: Any, infos: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new episodes where one has just ended; what the old ones leave goes to final_obs and final_info."""
        final = self._infos({name: values[:] for name, values in infos.items()}, views, due)
        observation, first = self._read(self._begin(done), done)
        names = {name: np.where(done, np.zeros_like(values), values) for name, values in infos.items()}
        if views is not None:
            views = np.where(done[:, None, None, None, None], first, views)
        infos = self._infos(names, views, due)
        infos |= {"final_info": _masked(final, done), "_final_info": done, "_final_obs": done}
        infos["final_obs"] = _each(last, self.num_envs, done)
        return observation, infos

    def _read(self, state: torch.Tensor, due: NDArray[np.bool_]) -> tuple[Any, NDArray[np.uint8] | None]:
        """Observations as numpy, and the pictures of the environments that are due, zeros elsewhere."""
        observed, scored = self.config.observation == "pictures", self.config.sees and bool(due.any())
        if not observed:
            views = self._copied(self.simulator.pictures(), due) if scored else None
            return _numpy(state).astype(np.float32), views
        pictures = _numpy(self.simulator.pictures())
        joints = {PROPRIOCEPTION: _numpy(self.simulator.proprioception()).astype(np.float32)}
        of_each = {name: pictures[:, i] for i, name in enumerate(self.config.cameras)}
        return joints | of_each, pictures if scored else None

    def _copied(self, pictures: torch.Tensor, due: NDArray[np.bool_]) -> NDArray[np.uint8]:
        if due.all():
            return _numpy(pictures)
        copied = np.zeros(tuple(pictures.shape), np.uint8)
        rows = torch.as_tensor(np.flatnonzero(due), device=pictures.device)
        copied[due] = _numpy(pictures[rows])
        return copied

    def _infos(self, infos: dict[str, Any], views: NDArray[np.uint8] | None, due: NDArray[np.bool_]) -> dict[str, Any]:
        infos = infos | {f"_{name}": np.ones(self.num_envs, bool) for name in infos}
        return infos if views is None else infos | {"scored_views": views, "_scored_views": due.copy()}


def _numpy(tensor: torch.Tensor) -> NDArray[Any]:
    values: NDArray[Any] = tensor.detach().cpu().numpy()
    return values


def _masked(infos: dict[str, Any], done: NDArray[np.bool_]) -> dict[str, Any]:
    """Infos that say to hold for some environments alone."""
    return {name: values & done if name.startswith("_") else values for name, values in infos.items()}


def _each(observations: Any, count: int, done: NDArray[np.bool_]) -> NDArray[np.object_]:
    """The observations of some environments, one each, as gymnasium has final_obs: object [N]."""
    final = np.full(count, None, object)
    for i in np.flatnonzero(done):
        final[i] = (
            {name: values[i] for name, values in observations.items()}
            if isinstance(observations, dict)
            else observations[i]
        )
    return final
