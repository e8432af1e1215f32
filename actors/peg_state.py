"""What the simulator knows of a peg insertion, and the two things computed from it: observation and true progress.

Poses are float64 [4, 4] matrices in the robot's base-aligned world frame, metres. The peg's and the hole's x axes point
the way the peg goes in; the tool's z axis points at the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.geometry import Matrix, inverse, pose, rotation_vector
from dopamine_rl.errors import BadInput

OBSERVATION_SIZE = 30
GRASP_OFFSET_M = 0.06
"""How far behind the peg's middle the gripper holds it: it stays clear of the box when the peg is in."""
FITS_M = 0.004
"""A head further off than this cannot be in the hole: 3 mm clearance, and what contact gives way."""
GRASP_ROTATION = np.diag([1.0, -1.0, -1.0])
"""The tool's rotation in the peg's frame when it holds the peg from above, wrist camera towards the hole."""


@dataclass(frozen=True, eq=False, slots=True)
class PegState:
    """The simulator's true state.

    Args:
        tool: pose of the point between the finger tips.
        peg: pose of the peg's middle.
        hole: pose of the middle of the hole; the box's plate is `half_length` before it.
        twist: float64 [6], the tool's velocity, m/s and rad/s.
        qpos: float64 [9], arm joints in rad and two fingers in m.
        half_length: of peg and box alike, m.
        radius: half of the peg's width, m; the hole's is 3 mm more.
    """

    tool: Matrix
    peg: Matrix
    hole: Matrix
    twist: Matrix
    qpos: Matrix
    half_length: float
    radius: float

    @property
    def head(self) -> Matrix:
        """Pose of the peg's front end in the hole's frame; it goes in along x, the plate is at x = −half_length."""
        return inverse(self.hole) @ self.peg @ pose([self.half_length, 0.0, 0.0])

    @property
    def grasp(self) -> Matrix:
        """Pose of the tool in the peg's frame."""
        return inverse(self.peg) @ self.tool


def observation(state: PegState) -> NDArray[np.float32]:
    """The policy's observation, float32 [30], every entry of order one.

    asinh(x / scale) is linear below the scale and logarithmic above: millimetres count near the hole, and half a metre
    is still a small number. Layout: peg's head in the hole's frame, metres / 0.01 (3) and rad / 0.05 (3); tool against
    its nominal grasp in the peg's frame, / 0.01 (3) and / 0.05 (3); tool velocity, m/s / 0.1 (3) and rad/s / 0.5 (3);
    arm joints, rad (7); finger, m / 0.04; cosine and sine of the hole's heading; peg's half length and radius,
    centred and scaled to ±1.
    """
    head, grasp, hole = state.head, state.grasp, state.hole
    parts = (
        np.arcsinh(head[:3, 3] / 0.01),
        np.arcsinh(rotation_vector(head[:3, :3]) / 0.05),
        np.arcsinh((grasp[:3, 3] + [GRASP_OFFSET_M, 0.0, 0.0]) / 0.01),
        np.arcsinh(rotation_vector(GRASP_ROTATION.T @ grasp[:3, :3]) / 0.05),
        state.twist / np.repeat([0.1, 0.5], 3),
        state.qpos[:7],
        [
            state.qpos[7] / 0.04,
            hole[0, 0],
            hole[1, 0],
            (state.half_length - 0.105) / 0.02,
            (state.radius - 0.02) / 0.005,
        ],
    )
    return np.concatenate(parts).astype(np.float32)


def true_progress(state: PegState, grasped: bool, from_grasp: bool) -> float:
    """How far along the task really is, in [0, 1]; 1 is success. For comparisons with the reward model only.

    Up to 0.2 while the peg is not held, by the gripper's distance; 0.2 … 0.6 while it is held outside, falling
    exponentially with the gap (0.1 m), the sideways error (20 mm) and the tilt (0.1 rad) together; 0.6 … 1 in
    proportion to the depth once inside. Where an episode starts with the peg held (`from_grasp`) the first fifth is cut
    off and the rest stretched to [0, 1].
    """
    head, grasp = state.head, state.grasp
    depth = head[0, 3] + state.half_length
    sideways = float(np.abs(head[1:3, 3]).max())
    if depth > 0.0 and sideways <= FITS_M:
        progress = 0.6 + 0.4 * min(1.0, depth / (state.half_length - 0.015))
    elif grasped:
        tilt = float(np.arccos(np.clip(head[0, 0], -1.0, 1.0)))
        error = max(0.0, -depth) / 0.1 + sideways / 0.02 + tilt / 0.1
        progress = 0.2 + 0.4 * float(np.exp(-1.5 * error))
    else:
        distance = float(np.linalg.norm(grasp[:3, 3] + [GRASP_OFFSET_M, 0.0, 0.0]))
        progress = 0.2 / (1.0 + distance / 0.1)
    return max(0.0, (progress - 0.2) / 0.8) if from_grasp else progress


NEAR_MISS_M = 0.01
"""A failure whose head ends closer to the hole's axis than this has nearly done it."""
AT_PLATE_M = 0.015
"""A head this close to the plate, before or behind it, has stopped there."""


def off_hole_m(observation: NDArray[np.float32]) -> float:
    """The larger sideways offset of the peg's head from the hole's axis, metres, read back from an observation [30]."""
    return float(np.abs(_head_m(observation)[1:]).max())


def near_miss(observation: NDArray[np.float32]) -> bool:
    """True if a failure that ends with this observation [30] ends at the plate, less than 1 cm off the hole's axis."""
    depth_m = _head_m(observation)[0] + 0.105 + 0.02 * float(observation[28])  # the last two are the half length
    return off_hole_m(observation) < NEAR_MISS_M and bool(abs(depth_m) <= AT_PLATE_M)


def _head_m(observation: NDArray[np.float32]) -> Matrix:
    """The head's position in the hole's frame, float64 [3], metres: the inverse of the scaling in `observation`."""
    if np.shape(observation) != (OBSERVATION_SIZE,):
        raise BadInput("observation", np.shape(observation), f"give one observation, [{OBSERVATION_SIZE}]")
    return 0.01 * np.sinh(np.asarray(observation[:3], np.float64))
