"""Feeds the learner: holds online and demonstration buffer, counts the updates due, and samples their batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from learner.config import LearnerConfig
from learner.replay import ColumnarReplay, sample_mixed
from learner.rows import ReplayColumns
from learner.windows import Sampling

HELD_COLUMNS = ("potential", "next_potential", "phase", "next_phase")
BATCH_COLUMNS = ("obs", "next_obs", "actions", "rewards", "terminated", *HELD_COLUMNS)


def batch_columns(config: LearnerConfig) -> tuple[str, ...]:
    """Names of the columns that an update needs."""
    optional = {"discounts": config.n_step > 1, "gains": config.imitation > 0.0}
    return (*BATCH_COLUMNS, *(name for name, used in optional.items() if used))


class ReplayFeed:
    """Samples batches from two replay buffers, and schedules updates by environment steps.

    No update is due before the online buffer *holds* `learning_starts` transitions: a lifetime counter would already be
    satisfied after a restart that lost them.

    Args:
        online: transitions of the current policy.
        demo: demonstrations, or None.
        config: batch size, share of demonstrations, updates per environment step.
        seed: of the sampling.
    """

    def __init__(self, online: ColumnarReplay, demo: ColumnarReplay | None, config: LearnerConfig, seed: int) -> None:
        self.online, self.demo, self._config = online, demo, config
        self._sampling = Sampling(
            config.n_step, config.prefer, config.prefer_candidates, config.progress_window, gains=config.imitation > 0.0
        )
        self._rng = np.random.default_rng(seed)
        self._owed = 0.0
        self._warmed = False

    def due(self, environment_steps: int) -> int:
        """Number of updates due after storing that many more environment steps; the first time, the warm-up."""
        if len(self.online) < self._config.learning_starts:
            return 0
        if not self._warmed:
            self._warmed = True
            return self._config.critic_warmup_updates
        self._owed += environment_steps * self._config.updates_per_step
        whole = int(self._owed)
        self._owed -= whole
        return whole

    def draw(self, updates: int) -> ReplayColumns:
        """Sample one batch per update: `batch_columns`, float32 [updates, B, ...]."""
        config = self._config
        columns = sample_mixed(
            self.demo, self.online, config.batch_size, config.demo_share, self._rng, updates, self._sampling
        )
        return {name: columns[name] for name in batch_columns(config)}

    def get_state(self) -> dict[str, Any]:
        """Both buffers, the random generator and the update schedule."""
        return {
            "online": self.online.get_state(),
            "demo": self.demo.get_state() if self.demo else None,
            "generator": self._rng.bit_generator.state,
            "owed": self._owed,
            "warmed": self._warmed,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `get_state`."""
        self.online.set_state(state["online"])
        if self.demo is not None and state["demo"] is not None:
            self.demo.set_state(state["demo"])
        self._rng.bit_generator.state = state["generator"]
        self._owed, self._warmed = state["owed"], state["warmed"]
