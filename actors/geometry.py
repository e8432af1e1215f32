"""Rigid poses as float64 [4, 4] matrices, metres; x, y and z are columns of the rotation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

Matrix = NDArray[np.float64]


def pose(position: ArrayLike, rotation: Matrix | None = None) -> Matrix:
    """A pose from position [3] in metres and rotation [3, 3] (identity where left out)."""
    result = np.eye(4)
    result[:3, 3] = np.asarray(position, np.float64)
    if rotation is not None:
        result[:3, :3] = rotation
    return result


def inverse(matrix: Matrix) -> Matrix:
    """The inverse of a rigid pose."""
    rotation = matrix[:3, :3].T
    return pose(-rotation @ matrix[:3, 3], rotation)


def rotation_vector(rotation: Matrix) -> Matrix:
    """Rotation [3, 3] as axis times angle, [3] in rad."""
    return Rotation.from_matrix(rotation).as_rotvec()


def to_matrix(raw_pose: Any) -> Matrix:
    """ManiSkill's tensor [1, 7], position and quaternion (w first), as a pose."""
    raw = raw_pose[0].numpy().astype(np.float64)
    return pose(raw[:3], Rotation.from_quat(raw[[4, 5, 6, 3]]).as_matrix())


def position_and_quaternion(matrix: Matrix) -> NDArray[np.float32]:
    """A pose as float32 [7]: position in metres, then the rotation as a quaternion (x, y, z, w)."""
    return np.concatenate([matrix[:3, 3], Rotation.from_matrix(matrix[:3, :3]).as_quat()]).astype(np.float32)
