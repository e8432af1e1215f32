"""Feeds the learner: holds online and demonstration buffer, counts the updates due, and samples their batches.

Good own episodes may join the demonstrations (`promote`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dopamine_rl.errors import BadInput
from dopamine_rl.types import LabelColumns
from learner.config import LearnerConfig
from learner.promotion import bar_of, episode_score, is_whole, joined
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
        self.promoted: dict[str, float] = {}
        """Own episodes among the demonstrations, with their scores."""

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

    def finish(self, episode_id: str) -> None:
        """Let an own episode that has ended join the demonstrations, if it is among the `promote` best so far."""
        if not self._config.promote or not is_whole(self.online, episode_id):
            return
        self._judge({**self.promoted, episode_id: self.online})

    def relabel(self, episode_id: str, labels: LabelColumns) -> None:
        """Replace the labels of a whole episode in both buffers; one that joined the demonstrations is judged again.

        Raises:
            BadInput: neither holds the episode, or the labels have another number of environment steps.
        """
        buffers = [buffer for buffer in (self.demo, self.online) if buffer is not None]
        holding = [buffer for buffer in buffers if episode_id in buffer.episodes]
        if not holding:
            raise BadInput("episode_id", episode_id, "name a stored episode")
        for buffer in holding:
            buffer.relabel(episode_id, labels)
        if self.promoted:
            self._judge(self.promoted)

    def _judge(self, candidates: Iterable[str]) -> None:
        """Keep the best candidates among the demonstrations: those already there, and any from the online buffer."""
        old = [name for name in self.demo.episodes if name not in self.promoted] if self.demo else []
        bar = bar_of(self.demo, old)
        places = {name: self.demo if name in self.promoted and self.demo else self.online for name in candidates}
        scores = {}
        for name, place in places.items():
            score = episode_score(place.columns(place.rows(name)), self.online.gamma, bar)
            if score is not None:
                scores[name] = score
        best = sorted(scores, key=lambda name: -scores[name])[: self._config.promote]  # stable: ties keep the older
        if set(best) != set(self.promoted):
            sources = {name: self.demo for name in old if self.demo} | {name: places[name] for name in best}
            self.demo = joined(self.online, sources)
        self.promoted = {name: scores[name] for name in best}

    def get_state(self) -> dict[str, Any]:
        """Both buffers, which episodes joined the demonstrations, the random generator and the update schedule."""
        return {
            "online": self.online.get_state(),
            "demo": self.demo.get_state() if self.demo else None,
            "generator": self._rng.bit_generator.state,
            "owed": self._owed,
            "warmed": self._warmed,
            "promoted": self.promoted,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `get_state`."""
        self.online.set_state(state["online"])
        self.promoted = dict(state.get("promoted", {}))
        if state["demo"] is not None and self.promoted:  # they take more room than the demonstrations
            self.demo = self.online.empty(len(state["demo"]["rows"]))
        if self.demo is not None and state["demo"] is not None:
            self.demo.set_state(state["demo"])
        self._rng.bit_generator.state = state["generator"]
        self._owed, self._warmed = state["owed"], state["warmed"]
