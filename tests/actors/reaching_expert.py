"""An expert for Reaching."""

from __future__ import annotations

import gymnasium
import numpy as np


class Forward:
    """Goes on until it is there."""

    stages = ("go", "arrive")
    pace = 0.5

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        self.stage = 0

    def act(self, env: gymnasium.Env) -> np.ndarray:
        self.stage = int(env.unwrapped.x > 0.5)  # type: ignore[attr-defined]
        return np.array([self.pace], np.float32)


class Slowly(Forward):
    """Takes its time: enough frames to judge an order by."""

    pace = 0.15
