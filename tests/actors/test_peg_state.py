"""What can be read back from a policy's observation of the peg."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from actors.geometry import pose
from actors.peg_state import PegState, near_miss, observation, off_hole_m
from dopamine_rl.errors import BadInput


def held(depth_m: float, y_m: float, z_m: float, half_length: float = 0.1, turn: float = 0.0) -> PegState:
    """A peg whose head is `depth_m` behind the plate of a turned hole, and off its axis."""
    hole = pose([0.1, 0.3, 0.15], Rotation.from_euler("z", 0.7).as_matrix())
    head = pose([depth_m - half_length, y_m, z_m], Rotation.from_euler("y", turn).as_matrix())
    peg = hole @ head @ pose([-half_length, 0.0, 0.0])
    return PegState(peg, peg, hole, np.zeros(6), np.zeros(9), half_length, 0.02)


def test_the_offset_is_the_one_that_was_observed() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        y, z = rng.uniform(-1.0, 1.0, 2) * 10.0 ** rng.uniform(-4.0, 0.0)
        state = held(rng.uniform(-0.3, 0.1), y, z, rng.uniform(0.085, 0.125), rng.uniform(-0.3, 0.3))
        expected = np.abs(state.head[1:3, 3]).max()
        assert off_hole_m(observation(state)) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("half_length", [0.085, 0.125])
@pytest.mark.parametrize(
    ("depth_m", "y_m", "z_m", "expected"),
    [
        (0.0, 0.006, -0.003, True),
        (-0.001, -0.002, 0.0095, True),
        (-0.014, 0.0, 0.0, True),
        (-0.001, 0.0105, 0.0, False),
        (-0.001, 0.0, -0.0105, False),
        (-0.016, 0.0, 0.0, False),
        (0.06, 0.001, 0.0, False),
    ],
)
def test_a_near_miss_stands_at_the_plate_beside_the_hole(
    depth_m: float, y_m: float, z_m: float, expected: bool, half_length: float
) -> None:
    assert near_miss(observation(held(depth_m, y_m, z_m, half_length))) is expected


def test_other_observations_are_refused() -> None:
    for read in (off_hole_m, near_miss):
        with pytest.raises(BadInput, match="observation"):
            read(np.zeros((2, 30), np.float32))
