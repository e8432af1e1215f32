"""Packed observations of a replay buffer, each stored once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput

Rows = NDArray[np.int64]
Packed = NDArray[np.uint8]
SPARE_SHARE = 8
"""Room for one more observation in so many: those after an episode's last step, or before a missing one."""


def table_bytes(capacity: int, width: int) -> int:
    """Bytes of a table for so many transitions, with the room for episodes' last observations.

    Args:
        width: bytes of an observation.
    """
    return (capacity + _spare(capacity)) * width


def check_room(capacity: int, width: int, limit_gb: float) -> None:
    """Raise BadInput unless a table fits into the memory that the settings give it.

    Args:
        width: bytes of an observation.
        limit_gb: GB (10⁹ bytes).
    """
    if table_bytes(capacity, width) > limit_gb * 1e9:
        most = int(limit_gb * 1e9 / width / (1 + 1 / SPARE_SHARE))
        fix = (
            f"give at most {most}, or more memory (learner.replay_gb = {limit_gb:g}): an observation takes {width} "
            f"bytes, so that these need {table_bytes(capacity, width) / 1e9:.1f} GB"
        )
        raise BadInput("learner.replay_capacity", capacity, fix)


class ObservationTable:
    """The observations of a ring buffer's transitions.

    Row r holds the observation before transition r. The observation after it is that of the row which follows in its
    episode; a spare row holds it as long as there is none. Memory is taken as rows are written for the first time.

    Args:
        capacity: number of transitions.
        width: bytes of an observation.
    """

    def __init__(self, capacity: int, width: int) -> None:
        self.capacity, self.width = capacity, width
        self._table = np.zeros((capacity + _spare(capacity), width), np.uint8)
        self._next = np.full(capacity, -1, np.int64)
        self._free = list(range(len(self._table) - 1, capacity - 1, -1))

    @property
    def nbytes(self) -> int:
        """Bytes of the whole table."""
        return self._table.nbytes

    def store(self, rows: Rows, before: Packed, after: Packed, previous: int = -1) -> None:
        """Store T consecutive transitions of an episode over the oldest ones.

        Args:
            rows: int [T], their rows.
            before, after: uint8 [T, N], the observations before and after each.
            previous: the episode's transition just before them; −1 if it is not stored.
        """
        if not len(rows):
            return
        self._release(self._next[rows])
        self._table[rows] = before
        self._next[rows] = np.append(rows[1:], -1)
        alone = np.append((after[:-1] != before[1:]).any(1), True)
        for index in np.flatnonzero(alone):
            self._next[rows[index]] = self._spare_row(after[index])
        if previous >= 0 and np.array_equal(self._table[self._next[previous]], before[0]):
            self._release(self._next[[previous]])
            self._next[previous] = rows[0]

    def take(self, rows: Rows, last: Rows) -> tuple[Packed, Packed]:
        """The observations before some transitions and after others, uint8 [..., N] each."""
        before, after = self._table.take(np.stack((rows, self._next[last])), axis=0)
        return before, after

    def get_state(self, order: Rows) -> dict[str, Any]:
        """Observations of these rows, then the spare ones; and the place of each row's next one among them."""
        places = np.full(len(self._table), -1, np.int64)
        places[order] = np.arange(len(order))
        following = self._next[order]
        spare = following[following >= self.capacity]
        places[spare] = len(order) + np.arange(len(spare))
        return {"observations": self._table[np.concatenate((order, spare))], "next": places[following]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `get_state`: its rows become the first ones."""
        observations, following = np.asarray(state["observations"]), np.asarray(state["next"])
        size = len(following)
        self.__init__(self.capacity, self.width)  # type: ignore[misc]
        self._table[:size], self._next[:size] = observations[:size], following
        for row in np.flatnonzero(following >= size):
            self._next[row] = self._spare_row(observations[following[row]])

    def _spare_row(self, observation: Packed) -> int:
        """Store an observation in a spare row; returns it."""
        if not self._free:  # very short episodes
            rows = len(self._table)
            self._table = np.concatenate((self._table, np.zeros((rows - self.capacity, self.width), np.uint8)))
            self._free = list(range(len(self._table) - 1, rows - 1, -1))
        row = self._free.pop()
        self._table[row] = observation
        return row

    def _release(self, rows: Rows) -> None:
        """Free the spare rows among these."""
        self._free += rows[rows >= self.capacity].tolist()


def _spare(capacity: int) -> int:
    return capacity // SPARE_SHARE + SPARE_SHARE
