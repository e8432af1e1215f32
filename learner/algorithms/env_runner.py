"""RLlib's env runner with contained environment crashes: a crash costs the current fragment, not the process."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from ray.rllib.env.env_runner import ENV_STEP_FAILURE
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils.debug import update_global_seed_if_necessary

logger = logging.getLogger(__name__)

FAILURES = 10
"""Consecutive failures of the environment after which the env runner gives up, and is restarted as a whole."""


def environment_seed(seed: int, runner: int, environments: int, restarts: int = 0, recreated: int = 0) -> int:
    """The seed of an env runner's first environment; its other environments have the seeds that follow.

    RLlib's own seeds overlap between env runners with several environments, and a restarted env runner repeats its.

    Args:
        seed: of the training.
        runner: number of the env runner, from 1; 0 for the driver's.
        environments: per env runner.
        restarts: how often the env runner was restarted.
        recreated: how often its process has recreated its environments.
    """
    first = seed + runner + max(runner - 1, 0) * (environments - 1)
    if not (restarts or recreated):
        return first
    return int(np.random.SeedSequence((first, restarts, recreated)).generate_state(1)[0] % 2**30)


class ActingEnvRunner(SingleAgentEnvRunner):
    """Never repeats a start state: environments that failed are recreated with new seeds, as are those of a restart."""

    config: Any
    env: Any
    _failures = 0
    _restarts: int | None = None
    _recreated = 0

    def continues(self, restarts: int, first: bool) -> bool:
        """Called before each fragment. False in a process that has replaced another one since the fragment before.

        Args:
            restarts: how often this env runner was restarted, as far as the driver knows.
            first: it is the first fragment since then.
        """
        if first and restarts:
            self._restarts = restarts
            update_global_seed_if_necessary(self.config.framework_str, self._new_seed())
        elif first:
            self._restarts = 0
        return self._restarts == restarts

    def make_env(self) -> None:
        """Recreate the environment. RLlib's version fails if closing the old one raises an error without arguments."""
        if self.env is not None:
            try:
                self.env.close()
            except Exception:
                logger.warning("A failed environment could not be closed.", exc_info=True)
            self.env = None
            self._recreated += 1
        self._new_seed()
        super().make_env()

    def _new_seed(self) -> int:
        self._seed = environment_seed(
            self.config.seed or 0,
            self.worker_index or 0,
            self.config.num_envs_per_env_runner,
            self._restarts or 0,
            self._recreated,
        )
        return self._seed

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
