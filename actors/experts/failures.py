"""Scripted failures that a reward model must not mistake for success. Each is an Expert that never solves the task."""

from __future__ import annotations

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.experts.peg import ALIGN, INSERT, REACH, PegInsertionExpert, simulated
from actors.experts.steering import OPEN, SHUT
from actors.geometry import Matrix, pose
from actors.peg_state import PegState
from dopamine_rl.errors import BadInput


class NearMiss(PegInsertionExpert):
    """Jams: pushes the peg, well aligned, against the plate 5 to 10 mm beside the hole and keeps pushing."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws where it pushes."""
        super().reset(env, rng)
        angle, off_m = rng.uniform(-np.pi, np.pi), rng.uniform(0.004, 0.0085)
        # The hole is square: this is the offset along its nearer side; the grasp gives way by another millimetre.
        direction = np.array([np.cos(angle), np.sin(angle)])
        self._beside_m = off_m * direction / np.abs(direction).max()

    def head_target(self, state: PegState) -> Matrix:
        """To the place beside the hole, then forward."""
        head = state.head
        if np.abs(head[1:3, 3] - self._beside_m).max() < 0.001 and head[0, 3] < -state.half_length:
            self._phase = INSERT
        ahead = head[0, 3] + 0.02 if self._phase == INSERT else -state.half_length - 0.01
        return pose([ahead, *self._beside_m])


class Stall(PegInsertionExpert):
    """Does well and stops: at a depth drawn between 3 cm before the plate and two thirds of the way in, and stays."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws where it stops."""
        super().reset(env, rng)
        self._stop = float(rng.uniform(-0.3, 0.67))

    def head_target(self, state: PegState) -> Matrix:
        """As the expert's, but not beyond the point where it stops."""
        target = super().head_target(state)
        target[0, 3] = min(target[0, 3], state.half_length * (self._stop - 1.0))
        return target


class Retreat(Stall):
    """Goes part of the way in, then pulls the peg out again and away to the side."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws how far it goes and where it withdraws to."""
        super().reset(env, rng)
        self._stop = float(rng.uniform(0.15, 0.6))
        self._away_m = rng.uniform(-0.05, 0.05, 2)
        self._withdrawing = False

    def head_target(self, state: PegState) -> Matrix:
        """In, and out again."""
        head = state.head
        self._withdrawing |= bool(head[0, 3] > state.half_length * (self._stop - 1.0) - 0.004)
        if not self._withdrawing:
            return super().head_target(state)
        clear = head[0, 3] < -state.half_length - 0.01
        return pose([-state.half_length - 0.05, *(self._away_m if clear else (0.0, 0.0))])


class Drop(PegInsertionExpert):
    """Standard start only: opens the gripper on the way to the hole and moves on without the peg."""

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode; draws when it lets go."""
        super().reset(env, rng)
        if self._held:
            raise BadInput("env.start", "insertion", "use the standard start: with this one nothing can be dropped")
        self._carrying_steps = int(rng.integers(5, 25))

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """As the expert until it lets go; then up and away."""
        if self._phase < ALIGN:
            return super().act(env)
        self._carrying_steps -= 1
        if self._carrying_steps > 0:
            return super().act(env)
        height = 0.25 - simulated(env).state().tool[2, 3]
        return self._command(env, np.array([0.0, 0.02, height]), np.zeros(3), OPEN)


class StraightPush(PegInsertionExpert):
    """The baseline that looks at nothing: full speed along the hole's axis from wherever the peg is held."""

    stages: tuple[str, ...] = ("push",)

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(env, rng)
        self._phase = REACH

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """Straight ahead."""
        axis = simulated(env).state().hole[:3, 0]
        return self._command(env, 0.05 * axis, np.zeros(3), SHUT)
