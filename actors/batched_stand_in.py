"""A batched simulator of points, with the tensors of ManiSkill's, for tests and for machines without a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

REACHED = 0.1
"""Distance to the goal at which a point has succeeded."""
SPEED = 0.2
"""Distance that an action of 1 moves a point, per axis."""


class PointActions:
    """Actions in the plane."""

    size = 2

    def to_simulator(self, actions: NDArray[np.float32] | torch.Tensor) -> torch.Tensor:
        """float32 [N, 2], clipped."""
        return torch.as_tensor(actions, dtype=torch.float32).clamp(-1.0, 1.0)


class BatchedPoints:
    """N points that are to reach the origin. Their pictures are as red as they are near it.

    A partial reset draws new starts for the listed points alone, from one generator, as ManiSkill's does.

    Args:
        num_envs: N.
        views, image_size: of the pictures.
    """

    own_horizon = 50
    observed_numbers = 2
    actions = PointActions()
    device = torch.device("cpu")

    def __init__(self, num_envs: int, views: int = 1, image_size: int = 16) -> None:
        self.num_envs, self.renders = num_envs, 0
        self._shape = (num_envs, views, image_size, image_size, 3)
        self._random = torch.Generator().manual_seed(0)
        self.points = torch.zeros(num_envs, 2)

    def reset(self, seed: int | list[int] | None = None, options: dict[str, Any] | None = None) -> Any:
        """See BatchedSimulator."""
        if seed is not None:
            self._random.manual_seed(seed if isinstance(seed, int) else seed[0])
        which = (options or {}).get("env_idx", torch.arange(self.num_envs))
        angles = torch.rand(len(which), generator=self._random) * 2 * torch.pi
        self.points[which] = torch.stack([angles.cos(), angles.sin()], -1)
        return self.points.clone(), {}

    def step(self, action: torch.Tensor) -> Any:
        """See BatchedSimulator; the dense reward is the nearness."""
        self.points += SPEED * action
        success = self.points.norm(dim=-1) < REACHED
        never = torch.zeros(self.num_envs, dtype=torch.bool)
        return self.points.clone(), self._nearness(), success.clone(), never, {"success": success}

    def proprioception(self) -> torch.Tensor:
        """The points, float32 [N, 2]."""
        return self.points.clone()

    def pictures(self) -> torch.Tensor:
        """See BatchedSimulator."""
        self.renders += 1
        pictures = torch.zeros(self._shape, dtype=torch.uint8)
        pictures[..., 0] = (250 * self._nearness()).to(torch.uint8)[:, None, None, None]
        return pictures

    def close(self) -> None:
        """Nothing to free."""

    def _nearness(self) -> torch.Tensor:
        return (1.0 - self.points.norm(dim=-1)).clamp(0.0, 1.0)
