"""The replay buffer: transitions in preallocated columns. Rewards are computed at sampling time from the stored labels.

All columns lie side by side in one float32 table, so sampling a batch is a single gather of rows; packed observations
lie in a second table, each once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.encoders.packing import Packing
from dopamine_rl.errors import BadInput
from dopamine_rl.shaping import FULL, Shaping, shaped_reward
from dopamine_rl.types import LabelColumns, RewardMode
from learner.observations import ObservationTable
from learner.rows import AFTER, LABELS, OBSERVATIONS, ReplayColumns, RowLayout
from learner.windows import UNIFORM, Sampling, best_of, follow, level_after, link, n_step_returns


@dataclass
class _Episode:
    serial: int
    version: str
    steps: int = 0
    stored: int = 0
    last: int = -1  # row of its newest transition


class ColumnarReplay:
    """A ring buffer of transitions, indexed by episode.

    Columns: obs, next_obs float32 [D]; actions float32 [A] in [−1, 1]; task_reward, potential, next_potential, phase,
    next_phase (types.LabelColumns), valid and terminated (1 or 0). Truncation is not stored; truncated transitions
    bootstrap. With a packing, obs and next_obs are packed, uint8 [N]; `add` packs vectors.

    Args:
        capacity: number of transitions; the oldest are overwritten.
        observation_size, action_size: D and A.
        gamma: discount of learner and shaping.
        mode, shaping: reward of sampled batches (`dopamine_rl.shaping.shaped_reward`).
        packing: how observations are stored; None as float32.
    """

    def __init__(
        self,
        capacity: int,
        observation_size: int,
        action_size: int,
        gamma: float,
        mode: RewardMode,
        shaping: Shaping = FULL,
        packing: Packing | None = None,
    ) -> None:
        self.layout = RowLayout(observation_size, action_size, packing)
        self.capacity, self.gamma, self.mode, self.shaping = capacity, gamma, mode, shaping
        self.size = 0
        self._rows = np.zeros((capacity, self.layout.width), np.float32)
        self._observations = ObservationTable(capacity, packing.width) if packing else None
        self._serial = np.full(capacity, -1, np.int64)
        self._time = np.zeros(capacity, np.int64)
        self._successors = np.full(capacity, -1, np.int64)
        self._cursor = 0
        self._next_serial = 0
        self._episodes: dict[str, _Episode] = {}
        self._ids: dict[int, str] = {}

    def __len__(self) -> int:
        return self.size

    @property
    def nbytes(self) -> int:
        """Bytes of its tables when they are full."""
        return self._rows.nbytes + (self._observations.nbytes if self._observations is not None else 0)

    @property
    def episodes(self) -> dict[str, str]:
        """Maps episode ids to the model version of their labels, for all episodes with stored transitions."""
        return {name: episode.version for name, episode in self._episodes.items()}

    def add(self, columns: Mapping[str, NDArray[Any]], episode_id: str, t_started: int = 0, version: str = "") -> None:
        """Store the next T transitions of an episode.

        Args:
            columns: arrays of T rows; potential, next_potential, valid, phase and next_phase may be left out.
            t_started: environment step of the first transition. Gaps (lost fragments) are allowed.
            version: model version of the labels; the same for the whole episode.
        Raises:
            BadInput: wrong columns, steps that are already stored, a second version, or more rows than the capacity.
        """
        rows, observations = self.layout.pack(columns), self.layout.packed(columns)
        if len(rows) > self.capacity:
            raise BadInput("columns", len(rows), f"give at most {self.capacity} transitions at once")
        earlier = self._episodes.get(episode_id)
        if earlier and t_started < earlier.steps:
            raise BadInput("t_started", t_started, f"start at {earlier.steps} or later; earlier steps are stored")
        if earlier and version != earlier.version:
            raise BadInput("version", version, f"use one model version per episode, {earlier.version!r} here")
        slots = (self._cursor + np.arange(len(rows))) % self.capacity
        self._evict(slots)
        episode = self._register(episode_id, version)
        self._rows[slots] = rows
        self._serial[slots] = episode.serial
        self._time[slots] = t_started + np.arange(len(rows))
        if self._observations is not None and observations is not None:
            self._observations.store(slots, *observations, episode.last if t_started == episode.steps else -1)
        self._chain(episode, slots, t_started)
        episode.steps, episode.stored = t_started + len(rows), episode.stored + len(rows)
        self._cursor = (self._cursor + len(rows)) % self.capacity
        self.size = min(self.size + len(rows), self.capacity)

    def copy(self, other: ColumnarReplay) -> None:
        """Add all episodes of another buffer. Raises BadInput as `add` does."""
        for name, version in other.episodes.items():
            self.add(other.columns(other.rows(name)), name, version=version)

    def _register(self, episode_id: str, version: str) -> _Episode:
        if episode_id not in self._episodes:
            self._episodes[episode_id] = _Episode(self._next_serial, version)
            self._ids[self._next_serial] = episode_id
            self._next_serial += 1
        return self._episodes[episode_id]

    def _chain(self, episode: _Episode, slots: NDArray[np.int64], t_started: int) -> None:
        """Link new rows to each other, and the episode's newest row to the first of them unless steps are missing."""
        if not len(slots):
            return
        self._successors[slots[:-1]], self._successors[slots[-1]] = slots[1:], -1
        if episode.last >= 0 and t_started == episode.steps:  # rows are overwritten oldest first: it is still there
            self._successors[episode.last] = slots[0]
        episode.last = int(slots[-1])

    def _evict(self, slots: NDArray[np.int64]) -> None:
        serials, counts = np.unique(self._serial[slots], return_counts=True)
        for serial, count in zip(serials.tolist(), counts.tolist(), strict=True):
            if serial < 0:
                continue
            episode = self._episodes[self._ids[serial]]
            episode.stored -= count
            if episode.stored == 0:
                del self._episodes[self._ids.pop(serial)]

    def rows(self, episode_id: str) -> NDArray[np.int64]:
        """Row indices of an episode, ordered by time, int [T].

        Raises:
            BadInput: the episode is not stored.
        """
        if episode_id not in self._episodes:
            raise BadInput("episode_id", episode_id, "name a stored episode")
        rows = np.flatnonzero(self._serial == self._episodes[episode_id].serial)
        return rows[np.argsort(self._time[rows])]

    def times(self, episode_id: str) -> NDArray[np.int64]:
        """Environment steps of an episode's stored transitions, increasing, int [T]."""
        return self._time[self.rows(episode_id)]

    def columns(self, rows: NDArray[np.int64] | slice = slice(None)) -> ReplayColumns:
        """Copies of the columns of some rows, without rewards."""
        chosen = np.arange(self.size)[rows]
        return self.layout.unpack(self.transitions(chosen)) | self.observations(chosen)

    def relabel(self, episode_id: str, labels: LabelColumns) -> None:
        """Replace the labels of a whole episode, from its first environment step on.

        Raises:
            BadInput: the episode is not stored, or has another number of environment steps than the labels.
        """
        rows = self.rows(episode_id)
        episode = self._episodes[episode_id]
        if len(labels.task_reward) != episode.steps:
            raise BadInput("labels", len(labels.task_reward), f"give labels for all {episode.steps} environment steps")
        fresh = np.stack([np.asarray(getattr(labels, name), np.float32) for name in LABELS], axis=1)
        if not np.isfinite(fresh).all():
            raise BadInput("labels", "nan or inf", "mask invalid values before storing them")
        first, last = self.layout.slices[LABELS[0]].start, self.layout.slices[LABELS[-1]].stop
        self._rows[rows, first:last] = fresh[self._time[rows]]
        episode.version = labels.model_version

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, sampling: Sampling = UNIFORM) -> NDArray[np.int64]:
        """Row indices, int of this shape, sampled uniformly or by `sampling.prefer`.

        Preferred transitions get no importance weights: Q-learning's targets are right for any distribution of
        transitions, which only decides where the critics fit best (as the share of demonstrations does).
        """
        if sampling.prefer == "uniform":
            return rng.integers(self.size, size=shape)
        candidates = rng.integers(self.size, size=(sampling.prefer_candidates, *shape))
        rising = sampling.prefer == "rising_potential"
        signal = self.gains(candidates, sampling.progress_window) if rising else self._cells(candidates, "potential")
        return best_of(candidates, signal, rng)

    def _cells(self, rows: NDArray[np.int64], name: str) -> NDArray[np.float32]:
        """A scalar column at some rows, float32 [...]."""
        return self._rows[rows, self.layout.slices[name].start]

    def gains(self, rows: NDArray[np.int64], window: int) -> NDArray[np.float32]:
        """Progress gained from before a row's step to the end of its window of environment steps, [...] in [−1, 1]."""
        last = follow(self._successors, rows, window)[0][-1]
        ends = {name: self._cells(last, name) for name in ("task_reward", "next_potential", "terminated")}
        return level_after(ends) - self._cells(rows, "potential")

    def transitions(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Copies of whole rows, float32 [..., width]."""
        return self._rows.take(rows, axis=0)

    def observations(self, rows: NDArray[np.int64], n: int = 1) -> ReplayColumns:
        """Packed observations before some rows' steps and after their windows of up to n, copies uint8 [..., N].

        Empty without a packing: `transitions` and `windows` hold them.
        """
        if self._observations is None:
            return {}
        last = rows if n == 1 else follow(self._successors, rows, n)[0][-1]
        return dict(zip(OBSERVATIONS, self._observations.take(rows, last), strict=True))

    def rewards(self, columns: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Shaped reward of each step, float32 [...], from its label columns."""
        task, before, after = (columns[name] for name in ("task_reward", "potential", "next_potential"))
        return shaped_reward(task, before, after, self.gamma, self.mode, self.shaping)

    def windows(
        self, rows: NDArray[np.int64], n: int, rewards_by: ColumnarReplay
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Transitions over up to n environment steps: from a row's observation to the one after its window.

        Args:
            rewards_by: the buffer whose discount and shaping count.
        Returns:
            Rows float32 [..., width] whose columns after the step are those at the window's end; and the n-step
            returns and discounts of `n_step_returns`, [...] each.
        """
        spanned, inside = follow(self._successors, rows, n)
        rewards = rewards_by.rewards({name: self._cells(spanned, name) for name in LABELS[:3]})
        returns, discounts = n_step_returns(rewards, inside, rewards_by.gamma)
        first, last = self.transitions(rows), self.transitions(spanned[-1])
        for name in AFTER:
            if name not in self.layout.slices:
                continue
            span = self.layout.slices[name]
            first[..., span] = last[..., span]
        return first, returns, discounts

    def empty(self, capacity: int) -> ColumnarReplay:
        """An empty buffer for the same transitions and rewards."""
        sizes = capacity, self.layout.observation_size, self.layout.action_size
        return ColumnarReplay(*sizes, self.gamma, self.mode, self.shaping, self.layout.packing)

    def sample(self, n: int, rng: np.random.Generator) -> ReplayColumns:
        """Sample n transitions uniformly: all columns, and the shaped `rewards` float32 [n].

        Raises:
            BadInput: the buffer is empty.
        """
        return sample_mixed(None, self, n, 0.0, rng)

    def get_state(self) -> dict[str, Any]:
        """The whole buffer, oldest transition first, as arrays that need no pickle."""
        order = (self._cursor - self.size + np.arange(self.size)) % self.capacity
        names, episodes = list(self._episodes), list(self._episodes.values())
        seen = {} if self._observations is None else self._observations.get_state(order)
        return {
            **seen,
            "rows": self._rows[order],
            "serial": self._serial[order],
            "time": self._time[order],
            "episode_ids": np.array(names, np.str_),
            "versions": np.array([episode.version for episode in episodes], np.str_),
            "counts": np.array([(e.serial, e.steps, e.stored) for e in episodes], np.int64).reshape(-1, 3),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `get_state`; gamma and mode stay the buffer's own.

        Raises:
            BadInput: the state has another row width, or more transitions than the capacity.
        """
        size, width = state["rows"].shape
        if width != self.layout.width or size > self.capacity:
            fix = (
                f"give at most {self.capacity} rows of {self.layout.width} floats; where other code wrote this "
                "checkpoint, resume with that code, or give --fresh to start over"
            )
            raise BadInput("rows", (size, width), fix)
        if self._observations is not None:
            self._observations.set_state(state)
        self._rows[:size], self._time[:size] = state["rows"], state["time"]
        self._serial[:] = -1
        self._serial[:size] = state["serial"]
        self.size, self._cursor = size, size % self.capacity
        counts = state["counts"].tolist()
        self._episodes = {
            str(name): _Episode(serial, str(version), steps, stored)
            for name, version, (serial, steps, stored) in zip(
                state["episode_ids"], state["versions"], counts, strict=True
            )
        }
        self._ids = {episode.serial: name for name, episode in self._episodes.items()}
        self._successors, lasts = link(self._serial, self._time)
        for episode in self._episodes.values():
            episode.last = lasts[episode.serial]
        self._next_serial = max(self._ids, default=-1) + 1


def sample_mixed(
    demo: ColumnarReplay | None,
    online: ColumnarReplay,
    n: int,
    demo_share: float,
    rng: np.random.Generator,
    batches: int | None = None,
    sampling: Sampling = UNIFORM,
) -> ReplayColumns:
    """Sample n transitions, a fixed share of them demonstrations; if one buffer is empty, all come from the other.

    Args:
        demo, online: the buffers; discount, reward mode and scale are those of `online`.
        demo_share: in [0, 1]; the first round(n · demo_share) rows are demonstrations.
        batches: number of batches to sample at once, as a leading axis of every column; None samples one without it.
        sampling: length of the sampled transitions, and which online ones are preferred.
    Returns:
        All columns and `rewards`, [n, ...] or [batches, n, ...]; for n_step > 1 also `discounts`, γ to the number of
        environment steps spanned; with `sampling.gains` also `gains`.
    Raises:
        BadInput: both buffers are empty.
    Source: arXiv:2302.02948, symmetric sampling (demo_share = 0.5).
    """
    demos = 0 if not demo else n if not online else round(n * demo_share)
    lead = () if batches is None else (batches,)
    shares = [(buffer, count) for buffer, count in ((demo, demos), (online, n - demos)) if buffer is not None and count]
    if not all(len(buffer) for buffer, _ in shares):
        raise BadInput("replay", "empty", "store transitions before sampling")
    chosen = [
        (buffer, buffer.draw((*lead, count), rng, sampling if buffer is online else UNIFORM))
        for buffer, count in shares
    ]
    columns = _transitions(online, chosen) if sampling.n_step == 1 else _windows(online, chosen, sampling.n_step)
    if sampling.gains:
        gains = [buffer.gains(rows, sampling.progress_window) for buffer, rows in chosen]
        columns["gains"] = np.concatenate(gains, axis=-1)
    return columns


_Chosen = Sequence[tuple[ColumnarReplay, NDArray[np.int64]]]
"""Buffers, and the rows to take from each."""


def _transitions(online: ColumnarReplay, chosen: _Chosen) -> ReplayColumns:
    """Columns of single transitions, with `rewards`."""
    parts = [buffer.transitions(rows) for buffer, rows in chosen]
    columns = online.layout.unpack(_joined(parts)) | _observed(chosen)
    return {**columns, "rewards": online.rewards(columns)}


def _windows(online: ColumnarReplay, chosen: _Chosen, n_step: int) -> ReplayColumns:
    """Columns of windows of up to n_step environment steps, with `rewards` and `discounts`."""
    parts = [buffer.windows(rows, n_step, online) for buffer, rows in chosen]
    transitions, returns, discounts = zip(*parts, strict=True)
    columns = online.layout.unpack(_joined(transitions)) | _observed(chosen, n_step)
    return {**columns, "rewards": np.concatenate(returns, axis=-1), "discounts": np.concatenate(discounts, axis=-1)}


def _observed(chosen: _Chosen, n_step: int = 1) -> ReplayColumns:
    """The packed observations of `chosen`; none without a packing."""
    parts = [buffer.observations(rows, n_step) for buffer, rows in chosen]
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Rows [..., n, width] of several buffers behind one another."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-2)
