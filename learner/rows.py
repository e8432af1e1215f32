"""Transitions as rows of a float32 table: which column lies where.

Short observations lie in the row, before and after the step: one gather takes all, which is faster than to look the
next one up. Packed ones (`Packing`) lie in a table of their own, each once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.encoders.packing import Packing
from dopamine_rl.errors import BadInput

ReplayColumns = dict[str, NDArray[Any]]
OBSERVATIONS = ("obs", "next_obs")
LABELS = ("task_reward", "potential", "next_potential", "valid", "phase", "next_phase")
"""Columns written by the labeller and replaced by `relabel`."""
SCALARS = (*LABELS, "terminated")
AFTER = ("next_obs", "next_potential", "next_phase", "terminated")
"""Columns that describe the end of a step."""
OPTIONAL = {"potential": 0.0, "next_potential": 0.0, "valid": 1.0, "phase": 0.0, "next_phase": 0.0}
"""Defaults of columns that may be left out: potential 0, all valid."""


@dataclass(frozen=True)
class RowLayout:
    """The position of each column in a row of the table.

    Args:
        observation_size, action_size: D and A.
        packing: of the observations, which then lie in a table of their own; None leaves them in the row.
    """

    observation_size: int
    action_size: int
    packing: Packing | None = None

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Column name to its slice of a row; scalars are one wide."""
        sizes = {} if self.packing else dict.fromkeys(OBSERVATIONS, self.observation_size)
        sizes |= {"actions": self.action_size, **dict.fromkeys(SCALARS, 1)}
        ends = np.cumsum(list(sizes.values())).tolist()
        return {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}

    @property
    def width(self) -> int:
        """Floats in a row."""
        return self.slices[SCALARS[-1]].stop

    @property
    def bytes(self) -> int:
        """Bytes of a transition: its row, and the observation that it adds to a table."""
        return self.width * np.dtype(np.float32).itemsize + (self.packing.width if self.packing else 0)

    def pack(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Pack columns of T transitions into rows, float32 [T, width].

        Raises:
            BadInput: a column is missing, has the wrong shape or holds a non-finite value.
        """
        count = len(columns["actions"])
        rows = np.empty((count, self.width), np.float32)
        for name, span in self.slices.items():
            if name not in columns and name not in OPTIONAL:
                raise BadInput(name, None, "give this column")
            values = np.asarray(columns.get(name, np.full(count, OPTIONAL.get(name, 0.0))), np.float32)
            shape = (count,) if name in SCALARS else (count, span.stop - span.start)
            if values.shape != shape:
                raise BadInput(name, values.shape, f"give shape {shape}")
            if not np.isfinite(values).all():
                raise BadInput(name, "nan or inf", "mask invalid values before storing them")
            rows[:, span] = values.reshape(count, -1)
        return rows

    def packed(self, columns: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """Packed observations before and after T transitions, uint8 [T, N] each; None without a packing.

        Raises:
            BadInput: as `pack`.
        """
        if self.packing is None:
            return None
        count, observations = len(columns["actions"]), []
        for name in OBSERVATIONS:
            if name not in columns or len(columns[name]) != count:
                raise BadInput(name, None if name not in columns else len(columns[name]), f"give {count} rows")
            observations.append(self.packing.packed(columns[name], name))
        return observations[0], observations[1]

    def unpack(self, rows: NDArray[np.float32]) -> ReplayColumns:
        """Columns as views of the rows: [..., D] and [..., A], scalars [...]."""
        return {name: rows[..., s.start] if name in SCALARS else rows[..., s] for name, s in self.slices.items()}
