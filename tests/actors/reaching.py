"""A small environment whose pictures show its progress."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dopamine_rl.types import TaskReference
from tests.fakes import SIDE, frame, picture

REFERENCE = TaskReference("reach", picture(0.0), picture(1.0), frame(1.0))
NAMES = ("front", "wrist")


def enlarged(pixels: np.ndarray, times: int) -> np.ndarray:
    """[..., H, W, 3] with every pixel repeated."""
    return pixels.repeat(times, -3).repeat(times, -2)


class Reaching(gymnasium.Env[Any, Any]):
    """A point at 0 moves by a third of the action; 1 is success, the horizon truncates.

    Args:
        gives: where its pictures are: "observation" (a Dict), "infos" (every `stride` steps and at the end), "nowhere".
        reuses: draws every picture into the same array.
        start: reset draws the start below it.
        larger: every picture is this many times as large.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        gives: str = "observation",
        horizon: int = 10,
        stride: int = 1,
        reuses: bool = False,
        start: float = 0.0,
        larger: int = 1,
    ) -> None:
        self._gives, self._horizon, self._stride, self._start = gives, horizon, stride, start
        self._buffer, self._larger = frame(0.0) if reuses else None, larger
        vector = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        pixels = spaces.Box(0, 255, (SIDE * larger, SIDE * larger, 3), np.uint8)
        self.observation_space: Any = vector
        if gives == "observation":
            self.observation_space = spaces.Dict({"proprioception": vector, **dict.fromkeys(NAMES, pixels)})
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.t = float(self.np_random.uniform(0.0, self._start)), 0
        return self._observe(), self._info(scored=True)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x = float(np.clip(self.x + action[0] / 3, 0.0, 1.0))
        self.t += 1
        success = self.x > 0.99
        truncated = not success and self.t >= self._horizon
        scored = success or truncated or self.t % self._stride == 0
        return self._observe(), float(success), success, truncated, self._info(scored)

    def _frame(self) -> np.ndarray:
        if self._buffer is None:
            return enlarged(frame(self.x), self._larger)
        self._buffer[:] = frame(self.x)
        return self._buffer

    def _observe(self) -> Any:
        vector = np.array([self.x], np.float32)
        if self._gives != "observation":
            return vector
        return {"proprioception": vector, **dict(zip(NAMES, self._frame(), strict=True))}

    def _info(self, scored: bool) -> dict[str, Any]:
        return {"scored_views": self._frame()} if scored and self._gives == "infos" else {}
