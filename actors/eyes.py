"""Environments whose pictures are encoded, so that a learner sees vectors alone."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.maniskill import PROPRIOCEPTION_SIZE, EnvConfig
from dopamine_rl.encoders.eyes import Eyes, Sight
from dopamine_rl.errors import BadInput


def sight_of(config: EnvConfig) -> Sight | None:
    """What a policy sees in an environment's pictures; None where there are none."""
    return Sight(PROPRIOCEPTION_SIZE, config.policy_views, config.image_size) if config.sees_pictures else None


def check_sight(eyes: Eyes | None, config: EnvConfig, policy: str) -> None:
    """Check that a policy sees what an environment shows.

    Args:
        eyes: the policy's; None if it reads observations as they are.
        policy: its file.
    Raises:
        BadInput: naming the policy.
    """
    sees, shown = eyes.sight if eyes else None, sight_of(config)
    if sees != shown:
        fix = (
            f"give a policy for what this environment shows ({_said(shown)}), or --preset with the settings that this "
            f"one was trained with: it sees {_said(sees)}"
        )
        raise BadInput("POLICY", policy, fix)


def _said(sight: Sight | None) -> str:
    if sight is None:
        return "no pictures"
    return f"{' and '.join(sight.views)}, {sight.image_size} pixels"


class EncodedObservation(gymnasium.ObservationWrapper[NDArray[np.float32], Any, Any]):
    """Turns an environment's pictures into features, once a step. Observation: float32 [D] (`Eyes.vector`).

    Args:
        env: observes proprioception and pictures by name.
        eyes: of the policy.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], eyes: Eyes) -> None:
        super().__init__(env)
        self._eyes = eyes
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (eyes.size,), np.float32)

    def observation(self, observation: Any) -> NDArray[np.float32]:
        """The vector that the policy reads."""
        return self._eyes.vector(observation)
