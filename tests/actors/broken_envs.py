"""Environments that break one rule of the contract each, and vectors of environments."""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import Autoreset

from tests.actors.reaching import Reaching


class Good(Reaching):
    """Keeps every rule."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(start=0.4, **kwargs)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"success": terminated}


class Wide(Good):
    """Keeps every rule; its actions are in units of its own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.action_space = Box(-3.0, 5.0, (1,), np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return super().step((action - 1.0) / 4.0)


class Wrong(Good):
    """Keeps every rule but those that `how` changes about what step returns."""

    def step(self, action: Any) -> Any:
        return self.change(*super().step(action))

    def change(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
        raise NotImplementedError


class Old(Wrong):
    def change(self, observation, reward, terminated, truncated, info):  # type: ignore[no-untyped-def]
        return observation, reward, terminated or truncated, info


class NoNumber(Wrong):
    def change(self, observation, reward, terminated, truncated, info):  # type: ignore[no-untyped-def]
        return observation, float("nan"), terminated, truncated, info


class NoFlag(Wrong):
    def change(self, observation, reward, terminated, truncated, info):  # type: ignore[no-untyped-def]
        return observation, reward, None, truncated, info


class Words(Wrong):
    def change(self, observation, reward, terminated, truncated, info):  # type: ignore[no-untyped-def]
        return observation, reward, terminated, truncated, info | {"success": "yes"}


class Infinite(Wrong):
    def change(self, observation, reward, terminated, truncated, info):  # type: ignore[no-untyped-def]
        return observation | {"proprioception": np.array([np.inf], np.float32)}, reward, terminated, truncated, info


class Shrinking(Wrong):
    def change(self, observation, reward, terminated, truncated, info):  # type: ignore[no-untyped-def]
        return observation | {"front": observation["front"][:4]}, reward, terminated, truncated, info


class Partial(Wrong):
    def change(self, observation, reward, terminated, truncated, info):  # type: ignore[no-untyped-def]
        return {"front": observation["front"]}, reward, terminated, truncated, info


class Returning(Wrong):
    def change(self, observation, reward, terminated, truncated, info):  # type: ignore[no-untyped-def]
        if terminated or truncated:
            info |= {"final_observation": observation}
        return observation, reward, terminated, truncated, info


class Floats(Good):
    """Its pictures are floats in infos."""

    def __init__(self) -> None:
        super().__init__(gives="infos")

    def _frame(self) -> np.ndarray:
        return super()._frame() / 255.0


class GoesOn(Wrong):
    def change(self, observation, reward, terminated, truncated, info):  # type: ignore[no-untyped-def]
        return observation, reward, False, truncated, info | {"success": True}


class Discretely(Good):
    def __init__(self) -> None:
        super().__init__()
        self.action_space: Any = Discrete(2)


class Unbounded(Good):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = Box(-np.inf, np.inf, (1,), np.float32)


class Flat(Good):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Box(0, 255, (8, 8, 3), np.uint8)


class Unseeded(Good):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=None)


class OldReset(Good):
    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**kwargs)[0]


class NoOptions(Good):
    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:  # type: ignore[override]
        return super().reset(seed=seed)


class Raising(Good):
    def step(self, action: Any) -> Any:
        if self.t == 3:
            raise RuntimeError("the gripper is stuck")
        return super().step(action)


class Crashing(Good):
    def step(self, action: Any) -> Any:
        os.abort()


class Hanging(Good):
    def step(self, action: Any) -> Any:
        time.sleep(600)


def resetting() -> gymnasium.Env:
    """Resets by itself."""
    return Autoreset(Good())


def vector(mode: str = "NEXT_STEP", gives: str = "observation") -> SyncVectorEnv:
    """Two environments that reset in a mode."""
    return SyncVectorEnv([lambda: Good(gives=gives)] * 2, autoreset_mode=AutoresetMode[mode])


class Tensors(SyncVectorEnv):
    """Speaks torch, as simulators on a GPU do."""

    def __init__(self, mode: str = "SAME_STEP") -> None:
        super().__init__([lambda: Good()] * 2, autoreset_mode=AutoresetMode[mode])

    def reset(self, **kwargs: Any) -> Any:
        return tuple(map(tensors, super().reset(**kwargs)))

    def step(self, actions: Any) -> Any:
        return tuple(map(tensors, super().step(actions)))


class Nameless(SyncVectorEnv):
    """Does not say how it resets."""

    def __init__(self) -> None:
        super().__init__([Good] * 2)
        self.metadata = {}
        self.autoreset_mode = None  # type: ignore[assignment]


class Forgetful(SyncVectorEnv):
    """Resets in the same step and keeps the last observation to itself."""

    def __init__(self) -> None:
        super().__init__([Good] * 2, autoreset_mode=AutoresetMode.SAME_STEP)

    def step(self, actions: Any) -> Any:
        *rest, infos = super().step(actions)
        return (*rest, {name: value for name, value in infos.items() if name != "final_obs"})


def tensors(value: Any) -> Any:
    """Numbers as torch tensors, at any depth."""
    import torch

    if isinstance(value, dict):
        return {name: tensors(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray) and value.dtype != object:
        return torch.as_tensor(value.copy())
    return value
