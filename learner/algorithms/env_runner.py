"""RLlib's env runner with contained environment crashes: a crash costs the current fragment, not the process."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from ray.rllib.env.env_runner import ENV_STEP_FAILURE
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

logger = logging.getLogger(__name__)

FAILURES = 10
"""Consecutive failures of the environment after which the env runner gives up, and is restarted as a whole."""


class ActingEnvRunner(SingleAgentEnvRunner):
    """Recreates a failed environment with a new seed, so that a start state that crashes is not repeated."""

    env: Any
    _failures = 0

    def make_env(self) -> None:
        """Recreate the environment. RLlib's version fails if closing the old one raises an error without arguments."""
        if self.env is not None:
            try:
                self.env.close()
            except Exception:
                logger.warning("A failed environment could not be closed.", exc_info=True)
            self.env = None
            self._seed = int(np.random.SeedSequence().generate_state(1)[0] // 2)
        super().make_env()

    def _try_env_step(self, actions: Any) -> Any:
        results = super()._try_env_step(actions)
        if isinstance(results, str) and results == ENV_STEP_FAILURE:
            self._count("step")
        else:
            self._failures = 0
        return results

    def _try_env_reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Reset, with retries. RLlib's version recurses without bound and fails on exceptions without arguments."""
        while True:
            try:
                result: tuple[Any, Any] = self.env.reset(seed=seed, options=options)
                return result
            except Exception:
                if not self.config.restart_failed_sub_environments:
                    raise
                logger.exception("Resetting an environment failed; it is recreated.")
                self._count("reset")
                self.make_env()
                seed = self._seed

    def _count(self, call: str) -> None:
        self._failures += 1
        if self._failures >= FAILURES:
            raise RuntimeError(f"the environment failed {self._failures} times in a row, the last time at {call}()")
