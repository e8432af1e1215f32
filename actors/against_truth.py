"""An environment that charges for true progress: with a learned reward beside it, only what that overvalues pays."""

from __future__ import annotations

from typing import Any

import gymnasium
from numpy.typing import NDArray


class AgainstTruth(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Pays T − T' at each step, T being the simulator's true progress, instead of the task's reward.

    With Φ' − Φ on top (reward mode naive) an episode's return is how far Φ has risen above the truth.

    Args:
        env: reports `oracle_progress` in its infos.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._truth = 0.0

    def reset(self, **kwargs: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin an episode."""
        observation, infos = self.env.reset(**kwargs)
        self._truth = float(infos["oracle_progress"])
        return observation, infos

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act; the reward is what true progress has lost."""
        observation, _, terminated, truncated, infos = self.env.step(action)
        before, self._truth = self._truth, float(infos["oracle_progress"])
        return observation, before - self._truth, terminated, truncated, infos
