"""Transitions in preallocated columns; rewards are computed when sampled, from what was stored beside each transition.

All columns live side by side in one float32 table, so that drawing a batch is one gather of whole rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput
from dopamine_rl.shaping import shaped_reward
from dopamine_rl.types import LabelColumns, RewardMode

Columns = dict[str, NDArray[Any]]
LABELS = ("task_reward", "potential", "next_potential", "valid", "phase", "next_phase")
"""The columns that a labelling pass writes and relabelling replaces."""
SCALARS = (*LABELS, "terminated")
OPTIONAL = {"potential": 0.0, "next_potential": 0.0, "valid": 1.0, "phase": 0.0, "next_phase": 0.0}
"""What a column holds where the caller gives none: no potential, nothing invalid."""


@dataclass(frozen=True)
class Layout:
    """Where each column lies in a row of the table.

    Args:
        observation_size, action_size: D and A.
    """

    observation_size: int
    action_size: int

    @property
    def slices(self) -> dict[str, slice]:
        """Column name to its slice of a row; scalars are one wide."""
        sizes = {"obs": self.observation_size, "next_obs": self.observation_size, "actions": self.action_size}
        sizes |= dict.fromkeys(SCALARS, 1)
        ends = np.cumsum(list(sizes.values())).tolist()
        return {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}

    @property
    def width(self) -> int:
        """Floats in a row."""
        return 2 * self.observation_size + self.action_size + len(SCALARS)

    def pack(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Columns of T transitions as a table, float32 [T, width].

        Raises:
            BadInput: a column is missing, has another shape or holds a value that is not finite.
        """
        count = len(columns["actions"])
        rows = np.empty((count, self.width), np.float32)
        for name, where in self.slices.items():
            if name not in columns and name not in OPTIONAL:
                raise BadInput(name, None, "give this column")
            values = np.asarray(columns.get(name, np.full(count, OPTIONAL.get(name, 0.0))), np.float32)
            wanted = (count,) if name in SCALARS else (count, where.stop - where.start)
            if values.shape != wanted:
                raise BadInput(name, values.shape, f"give shape {wanted}")
            if not np.isfinite(values).all():
                raise BadInput(name, "nan or inf", "mask what has no value before it is stored")
            rows[:, where] = values.reshape(count, -1)
        return rows

    def unpack(self, rows: NDArray[np.float32]) -> Columns:
        """Views of the table's columns: [..., D] and [..., A], scalars [...]."""
        return {name: rows[..., s.start] if name in SCALARS else rows[..., s] for name, s in self.slices.items()}


@dataclass
class _Episode:
    serial: int
    version: str
    steps: int = 0
    kept: int = 0


class ColumnarReplay:
    """A ring of transitions with an index of the episodes they belong to.

    Columns: obs, next_obs float32 [D]; actions float32 [A] in [−1, 1]; task_reward, potential, next_potential, phase,
    next_phase (types.LabelColumns), valid and terminated (1 or 0). Truncation is not stored: such a transition bootstraps.

    Args:
        capacity: transitions kept; the oldest are overwritten.
        observation_size, action_size: D and A.
        gamma: the learner's discount, used for shaping as well.
        mode: which reward sampled batches carry.
    """

    def __init__(self, capacity: int, observation_size: int, action_size: int, gamma: float, mode: RewardMode) -> None:
        self.layout = Layout(observation_size, action_size)
        self.capacity, self.gamma, self.mode = capacity, gamma, mode
        self.size = 0
        self._rows = np.zeros((capacity, self.layout.width), np.float32)
        self._serial = np.full(capacity, -1, np.int64)
        self._time = np.zeros(capacity, np.int64)
        self._cursor = 0
        self._next_serial = 0
        self._episodes: dict[str, _Episode] = {}
        self._ids: dict[int, str] = {}

    def __len__(self) -> int:
        return self.size

    @property
    def episodes(self) -> dict[str, str]:
        """Episode id to the model version behind its labels, for every episode that still has a row."""
        return {name: episode.version for name, episode in self._episodes.items()}

    def add(self, columns: Mapping[str, NDArray[Any]], episode_id: str, t_started: int = 0, version: str = "") -> None:
        """Store the next T transitions of an episode.

        Args:
            columns: arrays of T rows; potential, next_potential, valid, phase and next_phase may be absent.
            t_started: environment step of the first one. A gap (a lost fragment) is kept as a gap.
            version: model version of the labels, one for the whole episode.
        Raises:
            BadInput: wrong columns, a time that is already stored, a second version, or more rows than the ring has.
        """
        rows = self.layout.pack(columns)
        if len(rows) > self.capacity:
            raise BadInput("columns", len(rows), f"give at most {self.capacity} transitions at once")
        known = self._episodes.get(episode_id)
        if known and t_started < known.steps:
            raise BadInput("t_started", t_started, f"give a time from {known.steps} on; earlier ones are stored")
        if known and version != known.version:
            raise BadInput("version", version, f"keep one model version an episode, {known.version!r} here")
        where = (self._cursor + np.arange(len(rows))) % self.capacity
        self._evict(where)
        episode = self._register(episode_id, version)
        self._rows[where] = rows
        self._serial[where] = episode.serial
        self._time[where] = t_started + np.arange(len(rows))
        episode.steps, episode.kept = t_started + len(rows), episode.kept + len(rows)
        self._cursor = (self._cursor + len(rows)) % self.capacity
        self.size = min(self.size + len(rows), self.capacity)

    def _register(self, episode_id: str, version: str) -> _Episode:
        if episode_id not in self._episodes:
            self._episodes[episode_id] = _Episode(self._next_serial, version)
            self._ids[self._next_serial] = episode_id
            self._next_serial += 1
        return self._episodes[episode_id]

    def _evict(self, where: NDArray[np.int64]) -> None:
        serials, counts = np.unique(self._serial[where], return_counts=True)
        for serial, count in zip(serials.tolist(), counts.tolist(), strict=True):
            if serial < 0:
                continue
            episode = self._episodes[self._ids[serial]]
            episode.kept -= count
            if episode.kept == 0:
                del self._episodes[self._ids.pop(serial)]

    def rows(self, episode_id: str) -> NDArray[np.int64]:
        """Table rows of an episode in order of time, int [T].

        Raises:
            BadInput: none of its transitions is stored.
        """
        if episode_id not in self._episodes:
            raise BadInput("episode_id", episode_id, "name an episode that is stored")
        found = np.flatnonzero(self._serial == self._episodes[episode_id].serial)
        return found[np.argsort(self._time[found])]

    def times(self, episode_id: str) -> NDArray[np.int64]:
        """Environment steps of an episode's stored transitions, increasing, int [T]."""
        return self._time[self.rows(episode_id)]

    def columns(self, rows: NDArray[np.int64] | slice = slice(None)) -> Columns:
        """Copies of the columns at these rows, without rewards."""
        return self.layout.unpack(self._rows[: self.size][rows].copy())

    def relabel(self, episode_id: str, labels: LabelColumns) -> None:
        """Replace the labels of a whole episode, from its first environment step.

        Raises:
            BadInput: unknown episode, or labels for another number of environment steps than it has.
        """
        rows = self.rows(episode_id)
        episode = self._episodes[episode_id]
        if len(labels.task_reward) != episode.steps:
            raise BadInput("labels", len(labels.task_reward), f"give labels for all {episode.steps} environment steps")
        fresh = np.stack([np.asarray(getattr(labels, name), np.float32) for name in LABELS], axis=1)
        if not np.isfinite(fresh).all():
            raise BadInput("labels", "nan or inf", "mask what has no value before it is stored")
        first, last = self.layout.slices[LABELS[0]].start, self.layout.slices[LABELS[-1]].stop
        self._rows[rows, first:last] = fresh[self._time[rows]]
        episode.version = labels.model_version

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
        """Uniformly drawn rows, float32 [*shape, width]."""
        return self._rows.take(rng.integers(self.size, size=shape), axis=0)

    def sample(self, n: int, rng: np.random.Generator) -> Columns:
        """n transitions drawn uniformly, every column and `rewards` float32 [n] shaped from them.

        Raises:
            BadInput: nothing is stored.
        """
        return sample_mixed(None, self, n, 0.0, rng)

    def get_state(self) -> dict[str, Any]:
        """Everything stored, oldest first, as arrays that need no pickle."""
        order = (self._cursor - self.size + np.arange(self.size)) % self.capacity
        names = list(self._episodes)
        found = [self._episodes[name] for name in names]
        return {
            "rows": self._rows[order],
            "serial": self._serial[order],
            "time": self._time[order],
            "episode_ids": np.array(names, np.str_),
            "versions": np.array([episode.version for episode in found], np.str_),
            "counts": np.array([(e.serial, e.steps, e.kept) for e in found], np.int64).reshape(-1, 3),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state from `get_state`; the ring keeps its own gamma and mode.

        Raises:
            BadInput: the state has another row width, or more transitions than this ring has room for.
        """
        size, width = state["rows"].shape
        if width != self.layout.width or size > self.capacity:
            raise BadInput("rows", (size, width), f"give at most {self.capacity} rows of {self.layout.width} floats")
        self._rows[:size], self._time[:size] = state["rows"], state["time"]
        self._serial[:] = -1
        self._serial[:size] = state["serial"]
        self.size, self._cursor = size, size % self.capacity
        counts = state["counts"].tolist()
        self._episodes = {
            str(name): _Episode(serial, str(version), steps, kept)
            for name, version, (serial, steps, kept) in zip(
                state["episode_ids"], state["versions"], counts, strict=True
            )
        }
        self._ids = {episode.serial: name for name, episode in self._episodes.items()}
        self._next_serial = max(self._ids, default=-1) + 1


def sample_mixed(
    demo: ColumnarReplay | None,
    online: ColumnarReplay,
    n: int,
    demo_share: float,
    rng: np.random.Generator,
    batches: int | None = None,
) -> Columns:
    """Draw n transitions of which a fixed share are demonstrations; where one source is empty the other gives all.

    Args:
        demo, online: sources; `online` names the discount and the reward mode.
        demo_share: in [0, 1]; round(n · demo_share) rows come first and are demonstrations.
        batches: draw that many batches at once; every column then has a leading axis of this length.
    Returns:
        every column and `rewards`, [n, ...] or [batches, n, ...].
    Raises:
        BadInput: both sources are empty.
    Source: arXiv:2302.02948, symmetric sampling (demo_share = 0.5).
    """
    demos = 0 if not demo else n if not online else round(n * demo_share)
    lead = () if batches is None else (batches,)
    parts = [(source, count) for source, count in ((demo, demos), (online, n - demos)) if source is not None and count]
    if not all(len(source) for source, _ in parts):
        raise BadInput("replay", "empty", "store transitions before sampling")
    drawn = [source.draw((*lead, count), rng) for source, count in parts]
    rows = drawn[0] if len(drawn) == 1 else np.concatenate(drawn, axis=-2)
    columns = online.layout.unpack(rows)
    reward = shaped_reward(
        columns["task_reward"], columns["potential"], columns["next_potential"], online.gamma, online.mode
    )
    columns["rewards"] = np.asarray(reward, np.float32)
    return columns
