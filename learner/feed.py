"""What the learner is fed: online and demonstrated transitions, how many updates are due, and the batches for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from learner.config import LearnerConfig
from learner.replay import ColumnarReplay, Columns, sample_mixed

HELD_COLUMNS = ("potential", "next_potential", "phase", "next_phase")
BATCH_COLUMNS = ("obs", "next_obs", "actions", "rewards", "terminated", *HELD_COLUMNS)


class ReplayFeed:
    """Two replays, a generator, and the count of updates that are owed.

    Nothing is owed before `learning_starts` transitions *lie in the replay*: a lifetime counter would be met at once
    after a restart that lost them.

    Args:
        online: transitions of the running policy.
        demo: demonstrations, or None.
        config: batch size, share of demonstrations, updates per environment step.
        seed: of the sampling.
    """

    def __init__(self, online: ColumnarReplay, demo: ColumnarReplay | None, config: LearnerConfig, seed: int) -> None:
        self.online, self.demo, self._config = online, demo, config
        self._rng = np.random.default_rng(seed)
        self._owed = 0.0
        self._warmed = False

    def due(self, environment_steps: int) -> int:
        """Updates to do now that so many more environment steps are stored; the first time with the warm-up."""
        if len(self.online) < self._config.learning_starts:
            return 0
        if not self._warmed:
            self._warmed = True
            return self._config.critic_warmup_updates
        self._owed += environment_steps * self._config.updates_per_step
        whole = int(self._owed)
        self._owed -= whole
        return whole

    def draw(self, updates: int) -> Columns:
        """Batches for so many updates, BATCH_COLUMNS; float32 [updates, B, ...]."""
        config = self._config
        columns = sample_mixed(self.demo, self.online, config.batch_size, config.demo_share, self._rng, updates)
        return {name: columns[name] for name in BATCH_COLUMNS}

    def get_state(self) -> dict[str, Any]:
        """Both replays, the generator and what is owed."""
        return {
            "online": self.online.get_state(),
            "demo": self.demo.get_state() if self.demo else None,
            "generator": self._rng.bit_generator.state,
            "owed": self._owed,
            "warmed": self._warmed,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state from `get_state`."""
        self.online.set_state(state["online"])
        if self.demo is not None and state["demo"] is not None:
            self.demo.set_state(state["demo"])
        self._rng.bit_generator.state = state["generator"]
        self._owed, self._warmed = state["owed"], state["warmed"]
