"""Scripted failures of peg insertion, which a reward model must not mistake for successes."""

from __future__ import annotations

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.experts.peg import ALIGN, INSERT, REACH, PegInsertionExpert, simulated
from actors.experts.steering import OPEN, SHUT
from actors.geometry import Matrix, pose
from actors.peg_state import PegState


class NearMiss(PegInsertionExpert):
    """Jams: keeps pushing the aligned peg against the plate, 5 to 10 mm beside the hole."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws where it pushes."""
        super().reset(env, rng)
        angle, off_m = rng.uniform(-np.pi, np.pi), rng.uniform(0.004, 0.0085)
        # The hole is square: this is the larger of the two offsets; the grasp yields by another millimetre.
        direction = np.array([np.cos(angle), np.sin(angle)])
        self._beside_m = off_m * direction / np.abs(direction).max()

    def head_target(self, state: PegState) -> Matrix:
        """Beside the hole, then forward."""
        head = state.head
        if np.abs(head[1:3, 3] - self._beside_m).max() < 0.001 and head[0, 3] < -state.half_length:
            self._phase = INSERT
        ahead = head[0, 3] + 0.02 if self._phase == INSERT else -state.half_length - 0.01
        return pose([ahead, *self._beside_m])


class Stall(PegInsertionExpert):
    """Stops at a random depth, from 3 cm before the plate to two thirds of the way in."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws where it stops."""
        super().reset(env, rng)
        self._stop = float(rng.uniform(-0.3, 0.67))

    def head_target(self, state: PegState) -> Matrix:
        """The expert's target, but not beyond the point where it stops."""
        target = super().head_target(state)
        target[0, 3] = min(target[0, 3], state.half_length * (self._stop - 1.0))
        return target


class Retreat(Stall):
    """Inserts the peg part of the way, then pulls it out and moves it sideways."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws how deep it goes and where it withdraws to."""
        super().reset(env, rng)
        self._stop = float(rng.uniform(0.15, 0.6))
        self._away_m = rng.uniform(-0.05, 0.05, 2)
        self._withdrawing = False

    def head_target(self, state: PegState) -> Matrix:
        """In, then out again."""
        head = state.head
        self._withdrawing |= bool(head[0, 3] > state.half_length * (self._stop - 1.0) - 0.004)
        if not self._withdrawing:
            return super().head_target(state)
        clear = head[0, 3] < -state.half_length - 0.01
        return pose([-state.half_length - 0.05, *(self._away_m if clear else (0.0, 0.0))])


class Drop(PegInsertionExpert):
    """Opens the gripper on the way to the hole and moves on without the peg. Needs the standard start."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws when it lets go."""
        super().reset(env, rng)
        if self._held:
            raise ValueError("the insertion start keeps the gripper shut; use the standard start to drop the peg")
        self._carrying_steps = int(rng.integers(5, 25))

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The expert's action until it lets go; then up and away."""
        if self._phase < ALIGN:
            return super().act(env)
        self._carrying_steps -= 1
        if self._carrying_steps > 0:
            return super().act(env)
        height = 0.25 - simulated(env).state().tool[2, 3]
        return self._command(env, np.array([0.0, 0.02, height]), np.zeros(3), OPEN)


class StraightPush(PegInsertionExpert):
    """Open-loop baseline: moves along the hole's axis at full speed, wherever the peg is."""

    stages: tuple[str, ...] = ("push",)

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(env, rng)
        self._phase = REACH

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """Move straight ahead."""
        axis = simulated(env).state().hole[:3, 0]
        return self._command(env, 0.05 * axis, np.zeros(3), SHUT)
