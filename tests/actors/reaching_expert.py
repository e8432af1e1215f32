"""An expert for Reaching."""

from __future__ import annotations

import gymnasium
import numpy as np


class Forward:
    """Goes on until it is there."""

    stages = ("go", "arrive")

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        self.stage = 0

    def act(self, env: gymnasium.Env) -> np.ndarray:
        self.stage = int(env.unwrapped.x > 0.5)  # type: ignore[attr-defined]
        return np.array([0.5], np.float32)
