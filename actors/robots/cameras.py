"""Notices a camera that has stopped: while the robot moves, its picture stays the same, bit by bit.

A camera's noise makes every picture new, and a simulated one shows the motion.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np


class FrozenCameras:
    """Follows the pictures of one robot.

    Args:
        most_periods: control periods of motion in which a picture may stay the same; 0: any number.
    """

    def __init__(self, most_periods: float) -> None:
        self._most, self._sums, self._same = most_periods, dict[str, int](), dict[str, int]()

    def frozen(self, observation: Mapping[str, Any], moved: bool) -> str:
        """What is wrong with the pictures after a control period; "" if nothing is.

        Args:
            moved: whether the robot moved in it.
        """
        if not self._most:
            return ""
        for name, value in observation.items():
            if not isinstance(value, (np.ndarray, bytes, bytearray)):
                continue
            # A driver may fill the same array again and again, so what is kept is not the picture.
            total = zlib.crc32(value if isinstance(value, (bytes, bytearray)) else np.ascontiguousarray(value).data)
            if self._sums.get(name) != total:
                self._sums[name], self._same[name] = total, 0
            else:
                self._same[name] += moved
        names = [name for name, count in self._same.items() if count >= self._most]
        return f"camera {', '.join(names)} shows the same picture while the robot moves" if names else ""
