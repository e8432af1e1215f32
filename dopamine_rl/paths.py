"""Progress beside a demonstration, from the poses of the tool.

A demonstration is labelled by time, and shows only what leads to the goal. Of a pose beside its path we know, without a
simulator, how far off the path it is: its progress is that of the place on the path which is worth most from there,
`max p(s) · exp(−d(x, s) / scale)`. So a tool that is misaligned at the goal is worth less than one that is aligned
further off. It holds as long as nothing but the robot and what it holds has moved since the demonstration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dopamine_rl.errors import BadInput, require

MOST_M = 1.0


@dataclass(frozen=True)
class PathConfig:
    """Progress of poses beside a demonstration's path. Section `[sft.path]` of a preset."""

    scale_m: float = 0.013
    """Distance from the path at which progress has fallen to 37 %, in metres. A third of how far off episodes start."""
    lever_m: float = 0.2
    """A rotation counts as the movement of a point so far from the tool's, in metres: as far as what is held sticks
    out."""

    def __post_init__(self) -> None:
        require(
            "sft.path",
            self,
            ("scale_m", 0.0 < self.scale_m <= MOST_M, f"give metres above 0, at most {MOST_M:g}"),
            ("lever_m", 0.0 <= self.lever_m <= MOST_M, f"give metres from 0 to {MOST_M:g}"),
        )


DEFAULT = PathConfig()


def path_progress(
    poses: ArrayLike, paths: Sequence[tuple[ArrayLike, ArrayLike]], config: PathConfig = DEFAULT
) -> NDArray[np.float64]:
    """The progress of poses by the demonstrations of one scene, float64 [F] in [0, 1].

    Args:
        poses: float [F, 7] of the tool (`Demonstration.tool_poses`).
        paths: of each demonstration its poses [S, 7] and their progress [S] in [0, 1].
    Raises:
        BadInput: there is no path.
    """
    if not paths:
        raise BadInput("demonstrations", 0, "give a success with the tool's poses")
    reached = [
        (np.asarray(progress, np.float64) * np.exp(-_distances(poses, path, config.lever_m) / config.scale_m)).max(1)
        for path, progress in paths
    ]
    return np.max(reached, axis=0)


def _distances(poses: ArrayLike, path: ArrayLike, lever_m: float) -> NDArray[np.float64]:
    """From each pose to each of a path, float64 [F, S] in metres."""
    here, there = (np.asarray(part, np.float64) for part in (poses, path))
    moved = np.linalg.norm(here[:, None, :3] - there[None, :, :3], axis=-1)
    # q and −q are the same rotation; the angle between two is twice that between their quaternions.
    first, second = (part[:, 3:] / np.linalg.norm(part[:, 3:], axis=1, keepdims=True) for part in (here, there))
    return moved + lever_m * 2.0 * np.arccos(np.abs(first @ second.T).clip(0.0, 1.0))
